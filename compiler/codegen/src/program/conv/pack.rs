//! The constants of a product in the order in which its calls read them; weights as codes where they are decoded.

use super::plan::{Decoded, ProductPlan, Section};
use super::product::Product;
use crate::kernel::microkernel::codes;
use crate::plan::ALIGN;

/// Where the packed constants of a section lie in its data object.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Bytes of weights of one block.
    pub weights: usize,
    /// Bytes of biases of one block.
    pub bias: usize,
    /// Bytes of multipliers of one block.
    pub mult: usize,
    /// Offset of the biases of the first rows.
    pub bias_start: usize,
    /// Bytes of the biases of a range of rows.
    pub range_biases: usize,
    /// Offset of the multipliers.
    pub mult_start: usize,
    /// Bytes of it all.
    pub bytes: usize,
}

/// Packs what the blocks of a section read: all weights, then all biases, range by range, then all multipliers. Nothing if the packed weights,
/// read as the microkernel reads them, let a sum leave 16 bits that is to stay there.
pub fn pack(p: &Product<'_>, plan: &ProductPlan, section: &Section) -> Option<(Vec<u8>, Layout)> {
    let kernel = plan.interior_kernel(section);
    let decoding = match plan.decoded {
        Decoded::Never | Decoded::Inside => None,
        Decoded::Ahead | Decoded::ByUnit(_) => section.decoding(plan.decoder),
    };
    let stored = |weights: &[i8]| -> Option<Vec<u8>> {
        let Some(decoding) = decoding else {
            let packed = kernel.pack_weights(weights);
            return kernel.packed_sums_fit(&packed, p.greatest).then_some(packed);
        };
        let mut codes = kernel.pack_codes(weights, decoding.unit)?;
        if kernel.spec().i16_steps > 0 {
            let mut decoded = codes::decoded(&codes, decoding.unit);
            decoded.truncate(kernel.packed_bytes());
            if !kernel.packed_sums_fit(&decoded, p.greatest) {
                return None;
            }
        }
        codes.resize((codes::HEADER + decoding.pairs * decoding.unit).next_multiple_of(ALIGN), 0);
        Some(codes)
    };
    let le = |v: Vec<i32>| v.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>();
    let (mut weights, mut bias, mut mult) = (Vec::new(), Vec::new(), Vec::new());
    for channels in &section.channels {
        weights.extend(stored(p.weights_of(channels))?);
        if let Some((m, _)) = &p.requant {
            mult.extend(le(kernel.pack_multipliers(&m[channels.clone()])));
        }
    }
    for range in &plan.rows {
        let biases = p.biases(range);
        for channels in &section.channels {
            bias.extend(le(kernel.pack_channels(&biases[channels.clone()])));
        }
    }
    let bias_start = weights.len().next_multiple_of(ALIGN);
    let mult_start = (bias_start + bias.len()).next_multiple_of(ALIGN);
    let range_biases = bias.len() / plan.rows.len();
    let layout = Layout {
        weights: weights.len() / section.blocks(),
        bias: range_biases / section.blocks(),
        mult: mult.len() / section.blocks(),
        bias_start,
        range_biases,
        mult_start,
        bytes: mult_start + mult.len(),
    };
    let mut bytes = weights;
    bytes.resize(bias_start, 0);
    bytes.extend(bias);
    bytes.resize(mult_start, 0);
    bytes.extend(mult);
    Some((bytes, layout))
}
