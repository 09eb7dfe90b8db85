//! Operators of ONNX Runtime on weights of a few bits with a scale for each block. Tables, of which rows are looked up, become real numbers.

use qcc_ir::{Attrs, Format, Int, Opcode, Tensor, ValueId, attr};

use super::block_scales::BlockScales;
use super::layout::{self, apply};
use super::numbers::Numbers;
use super::site::Site;
use crate::element::DataType;
use crate::fault::{Fault, Outcome};

/// Codes of `bits` bits, the first of a byte in its low bits.
fn unpacked(bytes: &[i64], bits: usize) -> Vec<i64> {
    let mask = (1i64 << bits) - 1;
    bytes.iter().flat_map(|&b| (0..8).step_by(bits).map(move |shift| (b >> shift) & mask)).collect()
}

/// The elements of a constant operand.
fn integers(site: &mut Site, i: usize, what: &str) -> Outcome<Vec<i64>> {
    site.int_list(i, what)?.ok_or_else(|| Fault::shape(format!("{what} are missing")))
}

/// A positive attribute, which must be there.
fn size(site: &mut Site, name: &'static str) -> Outcome<usize> {
    let n = site.attrs.int(name)?.ok_or_else(|| Fault::shape(format!("attribute `{name}` is missing")))?;
    usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| Fault::shape(format!("`{name}` = {n}")))
}

fn bits(site: &mut Site) -> Outcome<usize> {
    match site.attrs.int("bits")?.unwrap_or(4) {
        2 => Ok(2),
        4 => Ok(4),
        8 => Ok(8),
        n => Err(Fault::unsupported(format!("`bits` = {n} is not supported"))),
    }
}

/// Zero points of rows of blocks: packed as codes are, every row from a whole byte on, or as reals, one for each block.
fn zero_points(site: &mut Site, i: usize, rows: usize, blocks: usize, bits: usize) -> Outcome<Option<Vec<f32>>> {
    let packed = match site.numbers(i, "zero points")? {
        None => return Ok(None),
        Some(Numbers::Float(zeros)) if zeros.len() == rows * blocks => return Ok(Some(zeros)),
        Some(Numbers::Float(zeros)) => return Err(Fault::shape(format!("{} zero points", zeros.len()))),
        Some(Numbers::Int(packed)) => packed,
    };
    let row = (blocks * bits).div_ceil(8);
    if packed.len() != rows * row {
        return Err(Fault::shape(format!("{} bytes of zero points for {rows} rows of {blocks} blocks", packed.len())));
    }
    let of_row = |bytes: &[i64]| unpacked(bytes, bits).into_iter().take(blocks).map(|z| z as f32).collect::<Vec<_>>();
    Ok(Some(packed.chunks(row.max(1)).flat_map(of_row).collect()))
}

/// `MatMulNBits`: operands A, codes of B `[N, blocks, bytes]`, scales, zero points, the block of each input, and a bias.
pub(super) fn matmul(site: &mut Site) -> Outcome<ValueId> {
    site.attrs.ignore(&["accuracy_level"]);
    if site.attrs.int("weight_prepacked")?.unwrap_or(0) != 0 {
        let fault = Fault::unsupported("weights that are laid out for a GPU (`weight_prepacked`) are not supported");
        return Err(fault.help("give the model as it was before its weights were packed"));
    }
    let (inputs, outputs, block, bits) = (size(site, "K")?, size(site, "N")?, size(site, "block_size")?, bits(site)?);
    let a = site.operand(0)?;
    let blocks = inputs.div_ceil(block);
    let codes = unpacked(&integers(site, 1, "weights")?, bits);
    let row = layout::product(&[blocks, block])?;
    if codes.len() != layout::product(&[outputs, row])? {
        return Err(Fault::shape(format!("{} codes for {outputs} outputs of {blocks} blocks of {block}", codes.len())));
    }
    let scales = site.float_list(2, "scales")?.ok_or_else(|| Fault::shape("the scales are missing"))?;
    let middle = f32::from(1u8 << (bits - 1));
    let zeros = zero_points(site, 3, outputs, blocks, bits)?.unwrap_or_else(|| vec![middle; outputs * blocks]);
    let groups = match site.optional(4) {
        Some(_) => Some(groups(site, inputs, blocks)?),
        None => None,
    };
    // The last block of a row is padded.
    let codes: Vec<i64> = codes.chunks(row).flat_map(|row| &row[..inputs]).copied().collect();
    let storage = if bits < 8 { Int::U4 } else { Int::U8 };
    let format = Format::linear(storage, 0, (1 << bits) - 1);
    let scales = BlockScales { dims: vec![outputs, inputs], axis: 1, block, scales, zeros };
    let w = scales.constant(site, codes, &format, |k| groups.as_ref().map_or(k / block, |g| g[k]))?;
    let operands: Vec<ValueId> = [a, w].into_iter().chain(site.optional(5)).collect();
    apply(site, Opcode::Linear, &operands, "")
}

/// The block of each input; there may be entries for those that pad the last block.
fn groups(site: &mut Site, inputs: usize, blocks: usize) -> Outcome<Vec<usize>> {
    let given = integers(site, 4, "the blocks of inputs")?;
    let block = |k: usize| given.get(k).and_then(|&g| usize::try_from(g).ok()).filter(|&g| g < blocks);
    (0..inputs).map(|k| block(k).ok_or_else(|| Fault::shape(format!("input {k} has no block")))).collect()
}

/// `GatherBlockQuantized`: operands data, positions, scales and zero points; rows of a table of reals.
pub(super) fn gather(site: &mut Site) -> Outcome<ValueId> {
    let (data, positions) = (site.operand(0)?, site.operand(1)?);
    let (bits, block) = (bits(site)?, site.attrs.int("block_size")?.unwrap_or(128));
    let block = usize::try_from(block).ok().filter(|&b| b > 0).ok_or_else(|| Fault::shape("`block_size`"))?;
    let packed = site.data_type(data) == Some(DataType::U8) && bits < 8;
    let mut dims = site.dims(data);
    let mut codes = integers(site, 0, "data")?;
    if packed {
        codes = unpacked(&codes, bits);
        if let Some(last) = dims.last_mut() {
            *last = layout::product(&[*last, 8 / bits])?;
        }
    }
    let axis = Site::axis(site.attrs.int("gather_axis")?.unwrap_or(0), dims.len())?;
    let along = Site::axis(site.attrs.int("quantize_axis")?.unwrap_or(1), dims.len())?;
    let scales_of = site.operand(2)?;
    let scale_dims = site.dims(scales_of);
    let scales = site.float_list(2, "scales")?.unwrap_or_default();
    let blocks = dims[along].div_ceil(block);
    let wanted: Vec<usize> = dims.iter().enumerate().map(|(i, &d)| if i == along { blocks } else { d }).collect();
    if scale_dims != wanted {
        return Err(Fault::shape(format!("scales of shape {scale_dims:?} for blocks of {block} of {dims:?}")));
    }
    let middle = if site.data_type(data) == Some(DataType::U8) { f32::from(1u8 << (bits - 1)) } else { 0.0 };
    let rows = wanted.iter().rev().skip(1).product();
    let zeros = match packed {
        true => zero_points(site, 3, rows, wanted.last().copied().unwrap_or(1), bits)?,
        false => site.int_list(3, "zero points")?.map(|z| z.into_iter().map(|z| z as f32).collect()),
    };
    if zeros.as_ref().is_some_and(|z: &Vec<f32>| z.len() != scales.len()) {
        return Err(Fault::shape("zero points and scales differ in number"));
    }
    let inner: usize = dims[along + 1..].iter().product();
    let real = |(i, &q): (usize, &i64)| {
        let (outer, at, rest) = (i / inner / dims[along], i / inner % dims[along], i % inner);
        let scale = (outer * blocks + at / block) * inner + rest;
        (q as f32 - zeros.as_ref().map_or(middle, |z| z[scale])) * scales[scale]
    };
    let reals = codes.iter().enumerate().map(real).collect();
    let table = site.constant_of(Tensor::f32(&dims, reals), qcc_ir::Elem::F32, "table");
    site.emit(
        Opcode::Gather,
        &[table, positions],
        Attrs::new(Opcode::Gather).with(attr::AXIS, layout::extent(axis)?),
        "",
    )
}
