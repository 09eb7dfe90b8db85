//! What a position of a convolution's result sees of its input.

use qcc_ir::{Tensor, Window};

use super::QuantLayer;

/// The receptive field of a convolution.
#[derive(Debug, Clone)]
pub(crate) struct ReceptiveField {
    window: Window,
    /// Height and width of the input.
    input: [usize; 2],
    /// Height and width of the result.
    output: [usize; 2],
    /// Input channels of a group.
    per_group: usize,
}

impl ReceptiveField {
    /// That of a layer; linear layers have none.
    pub(crate) fn of(layer: &QuantLayer) -> Option<ReceptiveField> {
        let (&[_, _, h, w], &[_, _, oh, ow]) = (&layer.input.dims[..], &layer.output.dims[..]) else { return None };
        let per_group = layer.per_group();
        layer.window.map(|window| ReceptiveField { window, input: [h, w], output: [oh, ow], per_group })
    }

    /// What weight `k` of a group is multiplied with at a position of the result, counted through the batch; zero in the padding.
    pub(crate) fn element(&self, x: &Tensor, group: usize, k: usize, position: usize) -> f32 {
        let channels = x.dims.get(1).copied().unwrap_or(0);
        let ([h, w], [oh, ow], [kh, kw]) = (self.input, self.output, self.window.kernel);
        let (n, oy, ox) = (position / (oh * ow), position / ow % oh, position % ow);
        let (c, ky, kx) = (k / (kh * kw), k / kw % kh, k % kw);
        match (self.along(0, oy, ky), self.along(1, ox, kx)) {
            (Some(y), Some(z)) => {
                let row = (n * channels + group * self.per_group + c) * h + y;
                x.as_f32().unwrap_or_default()[row * w + z]
            }
            _ => 0.0,
        }
    }

    /// For each position in the window, the share of positions of the result at which it is not in the padding.
    pub(crate) fn coverage(&self) -> Vec<f64> {
        let share = |d: usize, k: usize| {
            let inside = (0..self.output[d]).filter(|&o| self.along(d, o, k).is_some()).count();
            inside as f64 / self.output[d].max(1) as f64
        };
        let [kh, kw] = self.window.kernel;
        let columns: Vec<f64> = (0..kw).map(|k| share(1, k)).collect();
        (0..kh).map(|k| share(0, k)).flat_map(|row| columns.iter().map(move |column| row * column)).collect()
    }

    /// The position of the input that position `k` of the window meets along a dimension, unless it is in the padding.
    fn along(&self, d: usize, o: usize, k: usize) -> Option<usize> {
        let at = (o * self.window.strides[d] + k * self.window.dilations[d]).checked_sub(self.window.pads[d]);
        at.filter(|&i| i < self.input[d])
    }
}
