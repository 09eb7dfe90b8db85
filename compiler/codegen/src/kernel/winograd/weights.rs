//! Transformed weights in the order in which the kernel of products reads them.
//!
//! ```text
//! [position]{terms, [part][pair of input channels][vector][lane][2]}      i16; terms, of fast inner products only: [vector][lane] i32
//! ```
//! Lane `l` of vector `v` is channel [`VectorShape::channel`] of its panel. What does not exist is zero.

use super::form::Form;
use super::product::parts;
use crate::kernel::microkernel::fast_inner::STEP;
use crate::machine::VectorShape;
use crate::machine::tiles::LANE;

/// Output channels that pass together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    /// Vectors of them.
    pub vectors: usize,
    /// Those that exist.
    pub channels: usize,
    /// Whether results are narrowed to bytes, which decides the order.
    pub narrowed: bool,
    /// Whether products are fast inner products.
    pub fast_inner: bool,
}

impl Panel {
    /// Output channels in packed order.
    fn order(&self, shape: &VectorShape) -> Vec<Option<usize>> {
        let lanes = (0..self.vectors).flat_map(|vector| (0..shape.lanes).map(move |lane| (vector, lane)));
        let channel = |(vector, lane)| shape.channel(self.vectors, vector, lane, self.narrowed);
        lanes.map(channel).map(|channel| Some(channel).filter(|&c| c < self.channels)).collect()
    }

    /// Bytes of the packed weights for so many pairs of input channels.
    pub fn weight_bytes(&self, form: Form, shape: &VectorShape, pairs: usize) -> usize {
        form.points() * (pairs * self.vectors * shape.lanes * LANE + self.term_bytes(shape))
    }

    /// Bytes of the terms of a position.
    fn term_bytes(&self, shape: &VectorShape) -> usize {
        if self.fast_inner { self.vectors * shape.lanes * LANE } else { 0 }
    }

    /// Packs `weights`, `[channels][kernel rows][kernel columns][inputs]`.
    pub fn pack_weights(
        &self,
        form: Form,
        shape: &VectorShape,
        weights: &[i8],
        inputs: usize,
        pairs: usize,
    ) -> Vec<u8> {
        let order = self.order(shape);
        let position = self.weight_bytes(form, shape, pairs) / form.points();
        let mut packed = vec![0; form.points() * position];
        let taps = form.rows.taps() * form.columns.taps();
        let (mut first_vector, mut part_start) = (0, self.term_bytes(shape));
        let mut transformed = vec![0; form.points()];
        for part in parts(shape, self.vectors, self.fast_inner) {
            let channels = &order[first_vector * shape.lanes..][..part * shape.lanes];
            for (lane, channel) in channels.iter().enumerate() {
                let Some(channel) = channel else { continue };
                let weights = &weights[channel * taps * inputs..][..taps * inputs];
                let (mut terms, mut step) = (vec![0i32; form.points()], vec![[0i32; STEP]; form.points()]);
                for input in 0..inputs {
                    transform(form, weights, inputs, input, &mut transformed);
                    let pair = part_start + (input / 2 * part * shape.lanes + lane) * LANE + input % 2 * 2;
                    for (i, &weight) in transformed.iter().enumerate() {
                        packed[i * position + pair..][..2].copy_from_slice(&(weight as i16).to_le_bytes());
                        let at = input % STEP;
                        step[i][at] = weight;
                        if at >= STEP / 2 {
                            terms[i] = terms[i].wrapping_sub(step[i][at - STEP / 2].wrapping_mul(weight));
                        }
                    }
                }
                let term = (first_vector * shape.lanes + lane) * LANE;
                for (i, sum) in terms.iter().enumerate().filter(|_| self.fast_inner) {
                    packed[i * position + term..][..LANE].copy_from_slice(&sum.to_le_bytes());
                }
            }
            first_vector += part;
            part_start += pairs * part * shape.lanes * LANE;
        }
        packed
    }

    /// Packs one value per channel: biases.
    pub fn pack_channels(&self, shape: &VectorShape, values: &[i32]) -> Vec<i32> {
        self.order(shape).into_iter().map(|channel| channel.map_or(0, |channel| values[channel])).collect()
    }

    /// Packs multipliers: each vector, and a second time for the odd lanes where the machine wants it.
    pub fn pack_multipliers(&self, shape: &VectorShape, values: &[i32]) -> Vec<i32> {
        shape.pair_multipliers(&self.pack_channels(shape, values))
    }
}

/// The transformed weights of an output and an input channel.
fn transform(form: Form, weights: &[i8], inputs: usize, input: usize, to: &mut [i32]) {
    let (height, width) = (form.rows.taps(), form.columns.taps());
    let (points, mut half) = (form.columns.points(), [[0; 3]; 6]);
    // Along rows first: a column of taps each.
    let mut column = [0; 6];
    for x in 0..width {
        let taps: [i32; 3] =
            std::array::from_fn(|y| if y < height { i32::from(weights[(y * width + x) * inputs + input]) } else { 0 });
        form.rows.transform_weights(&taps[..height], &mut column[..form.rows.points()]);
        half.iter_mut().zip(column).for_each(|(row, value)| row[x] = value);
    }
    for (row, to) in half.iter().zip(to.chunks_mut(points)) {
        form.columns.transform_weights(&row[..width], to);
    }
}
