//! Convolutions and linear layers: exact sums of products by products of real matrices, and requantization by `qcc_num`.
//!
//! With codes `x` less their zero point `Z` and weights `w`, both integers in single precision, every product and every sum of
//! them is an integer; while magnitudes stay below `2^24` it is exact in whatever order it is taken. So `sum |w| max(Z, 255 - Z)` of an output channel bounds how many
//! weights one product of matrices may sum: the reduction is split where the bound would be passed, and the parts are added as integers.
//!
//! ```text
//! acc = b' + sum x w = (b' + Z sum w) + sum (x - Z) w
//! ```
//!
//! `int.conv2d` and `int.linear` give the sums themselves.
//!
//! Backwards, with `s = M 2^(shl - 38)` the factor of the requantization and `g` the derivative by the result's codes:
//! `d acc = s g`, `d w = sum d acc (x - Z)`, `d x = sum d acc w`, and that of the bias, in units of the accumulators, `sum d acc`.

use std::ops::Range;

use qcc_interp::{Matrix, multiply_add_alone, multiply_alone};
use qcc_ir::{Data, Diag, Opcode, Window, attr};
use qcc_num::requant::{Epilogue, RESIDUAL_BITS};

use super::patches::Patches;
use super::rounding::{Requantize, factor};
use super::{Backward, Call, Codes, Kernel, Rounded, Site, vectorized};

/// Integers below this one are exact in single precision.
const EXACT: f64 = (1u32 << 24) as f64;

/// Derivatives by the integers of a layer's weights, in the order in which the integer operator has them, and of its bias.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParameterGradient {
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// A convolution or linear layer.
pub(super) struct Product {
    patches: Patches,
    /// Images of one sample.
    images: usize,
    zero: u8,
    outputs: usize,
    weights: Vec<f32>,
    /// What the sums begin with: `b' + Z sum w`.
    start: Vec<i32>,
    /// Parts of the reduction whose sums are exact.
    parts: Vec<Range<usize>>,
    /// What rounds the sums, and its multipliers; without it these are the result.
    rounding: Option<(Epilogue, Vec<i32>)>,
    /// Multiplier of the residual, operand 4.
    residual: Option<u16>,
    layer: Option<usize>,
}

impl Product {
    /// `None` if its parameters are not constant.
    pub(super) fn new(site: &Site) -> Option<Product> {
        let constant = |i: usize| site.operands.get(i)?.0.as_ref();
        let (weights, bias) = (constant(1)?, constant(2)?.as_i32()?);
        let rounding = match site.op {
            Opcode::QConv2d | Opcode::QLinear => Some((site.attrs.epilogue(), constant(3)?.as_i32()?)),
            _ => None,
        };
        let input = &site.operands[0].1;
        let (patches, images, zero) = match site.op {
            Opcode::QConv2d | Opcode::IConv2d => {
                let [n, height, width, channels] = input.dims[..] else { return None };
                let [_, kh, kw, per_group] = weights.dims[..] else { return None };
                let [_, oh, ow, _] = site.result.dims[..] else { return None };
                let groups = channels.checked_div(per_group)?.max(1);
                let window = Window::conv(&site.attrs, [kh, kw]);
                let patches = Patches { window, input: [height, width], output: [oh, ow], channels, groups };
                (patches, n, u8::try_from(site.attrs.get(attr::PAD_VALUE)).ok()?)
            }
            _ => {
                let channels = *input.dims.last()?;
                let rows = input.elements().checked_div(channels)?;
                let window = Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4], dilations: [1, 1] };
                let patches = Patches { window, input: [1, rows], output: [1, rows], channels, groups: 1 };
                (patches, 1, site.zero)
            }
        };
        let (outputs, depth, codes) = (bias.len(), patches.depth(), weights.as_i8()?);
        if patches.positions() == 0 || depth == 0 || outputs == 0 || site.operands[0].0.is_some() {
            return None;
        }
        let sums = codes.chunks(depth).map(|row| row.iter().map(|&w| i32::from(w)).sum::<i32>());
        let start = sums.zip(bias).map(|(sum, &b)| b.wrapping_add(sum.wrapping_mul(i32::from(zero)))).collect();
        let residual =
            if site.operands.len() > 4 { Some(u16::try_from(site.attrs.get(attr::RESIDUAL_MULT)).ok()?) } else { None };
        Some(Product {
            parts: exact_parts(codes, depth, f64::from(zero.max(255 - zero))),
            weights: codes.iter().map(|&w| f32::from(w)).collect(),
            rounding: rounding.map(|(rule, mult)| (rule, (0..outputs).map(|c| mult[c % mult.len()]).collect())),
            layer: site.layer,
            patches,
            images,
            zero,
            outputs,
            start,
            residual,
        })
    }

    /// Whether each channel is filtered by itself.
    fn is_depthwise(&self) -> bool {
        self.patches.groups > 1 && self.patches.groups == self.outputs && self.patches.groups == self.patches.channels
    }

    /// Sums of products of some positions of an image, `[positions, outputs]`.
    fn sums(
        &self,
        padded: &[f32],
        positions: Range<usize>,
        windows: &mut [f32],
        sums: &mut [i32],
        part_sums: &mut [f32],
    ) {
        let (rows, groups, depth) = (positions.len(), self.patches.groups, self.patches.depth());
        let per_group = self.outputs / groups;
        let pointwise = self.patches.is_pointwise();
        for group in 0..groups {
            let laid_out = if pointwise {
                &padded[positions.start * depth..positions.end * depth]
            } else {
                self.patches.lay_out(padded, group, positions.clone(), windows);
                &windows[..rows * depth]
            };
            let weights = &self.weights[group * per_group * depth..(group + 1) * per_group * depth];
            for (number, part) in self.parts.iter().enumerate() {
                let part_sums = &mut part_sums[..rows * per_group];
                let windows = Matrix { data: &laid_out[part.start..], row: depth, column: 1 };
                let weights = Matrix { data: &weights[part.start..], row: 1, column: depth };
                multiply_alone((rows, per_group, part.len()), windows, weights, part_sums, per_group);
                let lines = sums.chunks_mut(self.outputs).zip(part_sums.chunks(per_group));
                for (line, part_sums) in lines {
                    let line = &mut line[group * per_group..(group + 1) * per_group];
                    for (sum, &part) in line.iter_mut().zip(part_sums) {
                        // Integers below 2^24.
                        *sum = if number == 0 { part as i32 } else { sum.wrapping_add(part as i32) };
                    }
                }
            }
        }
    }

    /// The same where each channel is filtered by itself.
    fn depthwise_sums(&self, padded: &[f32], positions: Range<usize>, windows: &mut [f32], sums: &mut [i32]) {
        let (channels, taps) = (self.outputs, self.patches.depth());
        let whole = Patches { groups: 1, ..self.patches.clone() };
        whole.lay_out(padded, 0, positions.clone(), windows);
        let transposed: Vec<f32> = (0..taps)
            .flat_map(|k| (0..channels).map(move |c| (c, k)))
            .map(|(c, k)| self.weights[c * taps + k])
            .collect();
        let mut line = vec![0.0f32; channels];
        for (seen, sums) in windows.chunks(taps * channels).zip(sums.chunks_mut(channels)).take(positions.len()) {
            line.fill(0.0);
            for (seen, weights) in seen.chunks(channels).zip(transposed.chunks(channels)) {
                line.iter_mut().zip(seen.iter().zip(weights)).for_each(|(l, (x, w))| *l += x * w);
            }
            sums.iter_mut().zip(&line).for_each(|(s, &l)| *s = l as i32);
        }
    }

    /// Factors of the requantization.
    fn factors(&self) -> Vec<f32> {
        let Some((rule, mult)) = &self.rounding else { return vec![1.0; self.outputs] };
        mult.iter().map(|&m| factor(rule, m)).collect()
    }

    /// Sums over the positions of a block: derivatives by weights and bias, and of what the windows see.
    fn block_backward(
        &self,
        by_sums: &[f32],
        windows: &mut Windows,
        positions: Range<usize>,
        into: Option<&mut ParameterGradient>,
        by_padded: Option<&mut [f32]>,
    ) {
        let (rows, groups, depth) = (positions.len(), self.patches.groups, self.patches.depth());
        let per_group = self.outputs / groups;
        let (mut into, mut by_padded) = (into, by_padded);
        for group in 0..groups {
            let g = &by_sums[group * per_group..];
            let weights_at = group * per_group * depth;
            if let Some(into) = &mut into {
                let laid_out = match self.patches.is_pointwise() {
                    true => &windows.padded[positions.start * depth..positions.end * depth],
                    false => {
                        self.patches.lay_out(windows.padded, group, positions.clone(), windows.laid_out);
                        &windows.laid_out[..rows * depth]
                    }
                };
                let transposed = Matrix { data: g, row: 1, column: self.outputs };
                let laid_out = Matrix { data: laid_out, row: depth, column: 1 };
                let place = &mut into.weights[weights_at..weights_at + per_group * depth];
                multiply_add_alone((per_group, depth, rows), transposed, laid_out, place, depth);
            }
            if let Some(by_padded) = &mut by_padded {
                let g = Matrix { data: g, row: self.outputs, column: 1 };
                let weights = Matrix { data: &self.weights[weights_at..], row: depth, column: 1 };
                if self.patches.is_pointwise() {
                    let place = &mut by_padded[positions.start * depth..positions.end * depth];
                    multiply_add_alone((rows, depth, per_group), g, weights, place, depth);
                } else {
                    let place = &mut windows.laid_out[..rows * depth];
                    multiply_alone((rows, depth, per_group), g, weights, place, depth);
                    self.patches.gather(windows.laid_out, group, positions.clone(), by_padded);
                }
            }
        }
    }

    /// The same where each channel is filtered by itself.
    fn depthwise_backward(
        &self,
        by_sums: &[f32],
        windows: &mut Windows,
        positions: Range<usize>,
        into: Option<&mut ParameterGradient>,
        by_padded: Option<&mut [f32]>,
    ) {
        let (channels, taps) = (self.outputs, self.patches.depth());
        let whole = Patches { groups: 1, ..self.patches.clone() };
        if let Some(into) = into {
            whole.lay_out(windows.padded, 0, positions.clone(), windows.laid_out);
            let mut by_weights = vec![0.0f32; taps * channels];
            for (seen, g) in windows.laid_out.chunks(taps * channels).zip(by_sums.chunks(channels)) {
                for (sum, seen) in by_weights.chunks_mut(channels).zip(seen.chunks(channels)) {
                    sum.iter_mut().zip(seen.iter().zip(g)).for_each(|(s, (x, g))| *s += x * g);
                }
            }
            for (k, sums) in by_weights.chunks(channels).enumerate() {
                sums.iter().enumerate().for_each(|(c, s)| into.weights[c * taps + k] += s);
            }
        }
        if let Some(by_padded) = by_padded {
            for (place, g) in windows.laid_out.chunks_mut(taps * channels).zip(by_sums.chunks(channels)) {
                for (k, place) in place.chunks_mut(channels).enumerate() {
                    place.iter_mut().enumerate().for_each(|(c, p)| *p = g[c] * self.weights[c * taps + k]);
                }
            }
            whole.gather(windows.laid_out, 0, positions, by_padded);
        }
    }

    /// Floats of windows at a time.
    fn laid_out(&self) -> usize {
        let groups = if self.is_depthwise() { self.patches.groups } else { 1 };
        self.block() * self.patches.depth() * groups
    }

    /// Positions at a time.
    fn block(&self) -> usize {
        match self.is_depthwise() {
            true => Patches { groups: 1, ..self.patches.clone() }.block(),
            false => self.patches.block(),
        }
    }

    /// Calls `f` for each block of positions.
    fn blocks(&self, mut f: impl FnMut(Range<usize>)) {
        let (all, step) = (self.patches.positions(), self.block());
        (0..all).step_by(step).for_each(|first| f(first..(first + step).min(all)));
    }
}

/// What windows are laid out of, and where.
struct Windows<'a> {
    padded: &'a [f32],
    laid_out: &'a mut [f32],
}

/// The columns of the weights in parts: each has sums below `2^24` for operands up to `greatest`.
fn exact_parts(weights: &[i8], depth: usize, greatest: f64) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut sums = vec![0u32; weights.len() / depth.max(1)];
    for k in 0..depth {
        let column = || weights.iter().skip(k).step_by(depth).map(|w| u32::from(w.unsigned_abs()));
        let most = sums.iter().zip(column()).map(|(s, w)| s + w).max().unwrap_or(0);
        if f64::from(most) * greatest >= EXACT {
            parts.push(start..k);
            start = k;
            sums.fill(0);
        }
        sums.iter_mut().zip(column()).for_each(|(s, w)| *s += w);
    }
    parts.push(start..depth);
    parts
}

impl Kernel for Product {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let images = call.batch * self.images;
        let (image, positions) = (self.patches.image(), self.patches.positions());
        let x = call.bytes(0).unwrap_or_default();
        let residual = match (self.residual, call.operands.get(4)) {
            (Some(_), Some(Codes::Samples(Data::U8(v)))) => Some(v.as_slice()),
            (Some(_), Some(Codes::Constant(t))) => t.as_u8(),
            _ => None,
        };
        let space = call.workspace;
        let mut padded = space.buffer(self.patches.padded_image());
        let mut windows = space.buffer(self.laid_out());
        let mut part_sums = space.buffer(self.block() * self.outputs);
        let mut sums = vec![0i32; self.block() * self.outputs];
        let length = positions * self.outputs;
        let rounded = if self.rounding.is_some() { images * length } else { 0 };
        let (mut codes, mut errors) = (vec![0u8; rounded], vec![0i8; rounded]);
        let mut accumulators = vec![0i32; if self.rounding.is_none() { images * length } else { 0 }];
        for i in 0..images {
            self.patches.pad(&x[i * image..(i + 1) * image], self.zero, &mut padded);
            self.blocks(|block| {
                let sums = &mut sums[..block.len() * self.outputs];
                match self.is_depthwise() {
                    true => self.depthwise_sums(&padded, block.clone(), &mut windows, sums),
                    false => self.sums(&padded, block.clone(), &mut windows, sums, &mut part_sums),
                }
                let place = i * length + block.start * self.outputs..i * length + block.end * self.outputs;
                let Some((rule, mult)) = &self.rounding else {
                    let lines = accumulators[place].chunks_mut(self.outputs).zip(sums.chunks(self.outputs));
                    for (line, sums) in lines {
                        let pairs = line.iter_mut().zip(sums.iter().zip(&self.start));
                        pairs.for_each(|(place, (sum, start))| *place = start.wrapping_add(*sum));
                    }
                    return;
                };
                let residual = residual.zip(self.residual).map(|(r, by)| {
                    let start = place.start % r.len().max(1);
                    (&r[start..start + place.len()], by)
                });
                let (start, codes, errors) = (&self.start, &mut codes[place.clone()], &mut errors[place]);
                vectorized(Requantize { rule, start, mult, sums, residual, codes, errors });
            });
        }
        [padded, windows, part_sums].into_iter().for_each(|b| space.give(b));
        Ok(match self.rounding {
            Some(_) => Rounded { codes: Data::U8(codes), errors: Some(errors) },
            None => Rounded::exact(Data::I32(accumulators)),
        })
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let images = call.batch * self.images;
        let (image, length) = (self.patches.image(), self.patches.positions() * self.outputs);
        let x = call.bytes(0).unwrap_or_default();
        let space = call.workspace;
        let mut padded = space.buffer(self.patches.padded_image());
        let mut by_padded = space.buffer(if back.wanted[0] { padded.len() } else { 0 });
        let mut windows = space.buffer(self.laid_out());
        let mut by_sums = space.buffer(self.block() * self.outputs);
        let mut by_x = back.wanted[0].then(|| space.buffer(images * image));
        let factors = self.factors();
        let mut into = self.layer.and_then(|layer| back.parameters.get_mut(layer));
        for i in 0..images {
            self.patches.pad(&x[i * image..(i + 1) * image], self.zero, &mut padded);
            by_padded.fill(0.0);
            self.blocks(|block| {
                let place = i * length + block.start * self.outputs..i * length + block.end * self.outputs;
                let by_sums = &mut by_sums[..place.len()];
                for (line, g) in by_sums.chunks_mut(self.outputs).zip(back.gradient[place].chunks(self.outputs)) {
                    line.iter_mut().zip(g.iter().zip(&factors)).for_each(|(l, (g, f))| *l = g * f);
                    if let Some(into) = &mut into {
                        into.bias.iter_mut().zip(&*line).for_each(|(b, l)| *b += l);
                    }
                }
                let mut windows = Windows { padded: &padded, laid_out: &mut windows };
                let by_padded = back.wanted[0].then_some(by_padded.as_mut_slice());
                match self.is_depthwise() {
                    true => self.depthwise_backward(by_sums, &mut windows, block, into.as_deref_mut(), by_padded),
                    false => self.block_backward(by_sums, &mut windows, block, into.as_deref_mut(), by_padded),
                }
            });
            if let Some(by_x) = &mut by_x {
                self.patches.crop(&by_padded, &mut by_x[i * image..(i + 1) * image]);
            }
        }
        [padded, by_padded, windows, by_sums].into_iter().for_each(|b| space.give(b));
        let by_residual = |mult: u16| {
            let factor = f32::from(mult) / (1u32 << RESIDUAL_BITS) as f32;
            back.gradient.iter().map(|g| g * factor).collect()
        };
        let mut all: Vec<Option<Vec<f32>>> = vec![None; back.wanted.len()];
        if let Some(last) = all.get_mut(4) {
            *last = self.residual.filter(|_| back.wanted[4]).map(by_residual);
        }
        all[0] = by_x;
        all
    }

    fn scratch(&self, batch: usize) -> usize {
        2 * self.patches.padded_image()
            + self.laid_out()
            + 2 * self.block() * self.outputs
            + batch * self.images * (self.patches.image() + self.patches.positions() * self.outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_are_split_where_sums_could_be_inexact() {
        assert_eq!(exact_parts(&[127; 600], 600, 255.0), [0..518, 518..600]);
        assert_eq!(exact_parts(&[7; 600], 300, 255.0), vec![0..300]);
        let largest = f64::from(518 * 127) * 255.0;
        assert!(largest < EXACT && largest + 127.0 * 255.0 >= EXACT);
    }
}
