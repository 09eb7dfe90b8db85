//! Codes with a scale, and perhaps a zero point, for each block of so many along an axis.
//!
//! A layer multiplies all weights of an output before it scales their sum, so that graphs have one scale for each index of an axis at
//! most. Where all blocks of an index agree, that is what is imported, with the codes of the file. Where they differ, what is imported are
//! the real numbers, which are quantized with the rest of the network.

use std::sync::Arc;

use qcc_ir::{Data, Elem, Format, Int, Opcode, Tensor, Uniform, ValueId};

use super::layout::{self, apply};
use super::site::Site;
use crate::fault::{Fault, Outcome};
use crate::rounding::towards_zero;

/// What is said of weights whose blocks differ.
const DIFFER: &str = "its blocks of weights differ in their scales, and an output of a layer has one: the weights are rounded again, \
                      to 8 bits (`--precision NAME.weights=16` for more, `--weights 4` for fewer)";

/// Scales and zero points of blocks.
pub(super) struct BlockScales {
    /// The shape of what is scaled.
    pub(super) dims: Vec<usize>,
    /// The axis along which blocks lie.
    pub(super) axis: usize,
    /// Elements of a block along it; the last block may have fewer.
    pub(super) block: usize,
    /// One for each block, in the order of the shape with blocks in place of the axis.
    pub(super) scales: Vec<f32>,
    /// As many; they are whole numbers unless an operator allows others.
    pub(super) zeros: Vec<f32>,
}

impl BlockScales {
    /// Checks the numbers.
    fn check(&self) -> Outcome<()> {
        let extents: Vec<usize> =
            self.dims.iter().enumerate().map(|(i, &d)| if i == self.axis { self.blocks() } else { d }).collect();
        let wanted = layout::product(&extents)?;
        for (what, found) in [("scales", self.scales.len()), ("zero points", self.zeros.len())] {
            if found != wanted {
                let (block, dims) = (self.block, &self.dims);
                return Err(Fault::shape(format!(
                    "{found} {what} for blocks of {block} of {dims:?}, which are {wanted}"
                )));
            }
        }
        if let Some(scale) = self.scales.iter().find(|s| !s.is_finite()) {
            return Err(Fault::shape(format!("a scale of {scale:?}")));
        }
        match self.zeros.iter().find(|z| !z.is_finite()) {
            Some(zero) => Err(Fault::shape(format!("a zero point of {zero:?}"))),
            None => Ok(()),
        }
    }

    fn blocks(&self) -> usize {
        self.dims.get(self.axis).map_or(1, |d| d.div_ceil(self.block.max(1)))
    }

    /// Elements behind an index of the axis.
    fn inner(&self) -> usize {
        self.dims[self.axis + 1..].iter().product()
    }

    /// The block of element `i`, along an axis whose position `k` lies in block `block_of(k)`.
    fn block_at(&self, i: usize, block_of: impl Fn(usize) -> usize) -> usize {
        let (inner, along) = (self.inner(), self.dims[self.axis]);
        let (outer, k, rest) = (i / inner / along, i / inner % along, i % inner);
        (outer * self.blocks() + block_of(k)) * inner + rest
    }

    /// The real numbers for which codes stand.
    pub(super) fn reals(&self, codes: &[i64], block_of: impl Fn(usize) -> usize) -> Vec<f32> {
        let real = |(i, &q): (usize, &i64)| {
            let at = self.block_at(i, &block_of);
            (q as f32 - self.zeros[at]) * self.scales[at]
        };
        codes.iter().enumerate().map(real).collect()
    }

    /// The quantization where all blocks of each index of some axis are alike, or all blocks are.
    fn alike(&self, format: &Format) -> Option<Uniform> {
        let usable = |s: &f32| s.is_normal();
        let whole = |z: &f32| z.fract() == 0.0 && (format.min()..=format.max()).contains(&towards_zero((*z).into()));
        if self.scales.is_empty() || !self.scales.iter().all(usable) || !self.zeros.iter().all(whole) {
            return None;
        }
        let of = |axis: Option<usize>| {
            let (extent, inner) = match axis {
                Some(axis) => (self.dims[axis], self.inner_blocks(axis)),
                None => (1, self.scales.len()),
            };
            let first = |index: usize| index * inner;
            let same = |i: usize| {
                let at = first(i / inner % extent);
                self.scales[i] == self.scales[at] && self.zeros[i] == self.zeros[at]
            };
            (0..self.scales.len()).all(same).then(|| Uniform {
                format: format.clone(),
                axis,
                scales: (0..extent).map(|index| self.scales[first(index)]).collect(),
                zero_points: (0..extent).map(|index| towards_zero(self.zeros[first(index)].into())).collect(),
            })
        };
        let axes = (0..self.dims.len()).filter(|&axis| axis != self.axis).map(Some);
        std::iter::once(None).chain(axes).find_map(of)
    }

    /// The same with scales that are positive, as those of types are: ONNX Runtime's symmetric ones have the sign of what is greatest in the block. The codes
    /// of an index with a negative one are negated, less their zero points. `None` if a byte does not hold these.
    fn positive(&self, u: Uniform, codes: Vec<i64>) -> Option<(Uniform, Vec<i64>)> {
        if u.scales.iter().all(|s| *s > 0.0) {
            return Some((u, codes));
        }
        let inner: usize = u.axis.map_or(1, |axis| self.dims[axis + 1..].iter().product());
        let centred = |(i, q): (usize, i64)| {
            let at = if u.axis.is_some() { i / inner % u.scales.len() } else { 0 };
            let centred = q - u.zero_points[at];
            if u.scales[at] < 0.0 { -centred } else { centred }
        };
        let codes: Vec<i64> = codes.into_iter().enumerate().map(centred).collect();
        let greatest = codes.iter().map(|q| q.abs()).max().unwrap_or(0).max(1);
        let format = Format::symmetric(Int::I8, greatest);
        let (scales, zero_points) = (u.scales.iter().map(|s| s.abs()).collect(), vec![0; u.scales.len()]);
        format.is_valid().then_some((Uniform { format, axis: u.axis, scales, zero_points }, codes))
    }

    /// Blocks behind an index of another axis than that of the blocks.
    fn inner_blocks(&self, axis: usize) -> usize {
        let behind = self.dims.iter().enumerate().skip(axis + 1);
        behind.map(|(i, &d)| if i == self.axis { self.blocks() } else { d }).product()
    }

    /// The constant for which these codes of a format stand: the codes themselves behind a cast, or real numbers. An index of the axis may lie
    /// in another block than its place says.
    pub(super) fn constant(
        &self,
        site: &mut Site,
        codes: Vec<i64>,
        format: &Format,
        block_of: impl Fn(usize) -> usize,
    ) -> Outcome<ValueId> {
        self.check()?;
        match self.alike(format).and_then(|uniform| self.positive(uniform, codes.clone())) {
            Some((uniform, codes)) => {
                let tensor = Tensor::new(&self.dims, Data::integers(uniform.storage(), codes));
                let codes = site.constant_of(tensor, Elem::Uniform(Arc::new(uniform)), "q");
                apply(site, Opcode::DCast, &[codes], "weights")
            }
            None => {
                site.remark(DIFFER);
                Ok(site.floats(&self.dims, self.reals(&codes, block_of), "weights"))
            }
        }
    }
}
