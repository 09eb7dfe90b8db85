//! What is synthesized for an input: the same numbers on every machine, from integers and the four operations on `f64`.
//!
//! An input of rank 4 with one or three channels is taken for an image. Its amplitudes fall with frequency as those of photographs do
//! (Field 1987, amplitude `1 / f`): noise on grids of 1, 2, 4, .. pixels, each of the same deviation, interpolated and added up.
//! Channels agree in most of it, and brightness and contrast differ from image to image. A signal that is long in its last dimension
//! gets the same in one dimension in every other sample. Everything else is independent noise; integers that choose rows of a table
//! are even over the rows, other integers are 1.
//!
//! Numbers fill the declared range as images fill theirs, with a deviation of a quarter of it at most; without one
//! they have mean 0 and deviation 1.

use qcc_ir::{Data, Elem, Graph, Int, Opcode, Range, Tensor, ValueId, attr};
use qcc_num::convert::nearest_f32;
use qcc_num::random::Random;

/// Share of the deviation that all channels of an image have in common, and that each has for itself: `a^2 + b^2 = 1`.
const COMMON: f64 = 0.8;
const OWN: f64 = 0.6;

/// What the numbers of the finest grid, between which nothing is interpolated, count.
const FINEST: f64 = 0.5;

/// Length from which on the last dimension may be one of time.
const LONG: usize = 32;

/// Range without a declaration, for a deviation of 1.
const NORMAL: Range = Range { min: -2.0, max: 2.0 };

/// Sample `index` of input `v`.
pub(super) fn synthesize(g: &Graph, v: ValueId, declared: Option<&Range>, index: usize) -> Tensor {
    let ty = g.ty(v);
    let index_of_input = g.inputs().iter().position(|&w| w == v).unwrap_or(0);
    let mut random = Random::new(((index_of_input as u64) << 32) + index as u64);
    let count = ty.elements();
    let data = match &ty.elem {
        Elem::F32 => Data::F32(reals(&ty.dims, declared.copied(), index, &mut random)),
        Elem::Calibrated(range) => Data::F32(reals(&ty.dims, Some(*range), index, &mut random)),
        Elem::Bool => Data::U8(vec![1; count]),
        Elem::Int(_) | Elem::Uniform(_) => {
            let storage = ty.elem.storage().unwrap_or(Int::I64);
            let rows = rows(g, v).map(|rows| rows.min(storage.max().unsigned_abs()));
            let numbers = (0..count).map(|_| rows.map_or(1, |rows| random.bits() % rows));
            // By the minimum above all of them fit.
            Data::integers(storage, numbers.map(|x| i64::try_from(x).unwrap_or(i64::MAX)))
        }
    };
    Tensor::new(&ty.dims, data)
}

/// Rows of the smallest table that the integers of `v` choose from, also through casts and reshapes.
fn rows(g: &Graph, v: ValueId) -> Option<u64> {
    let mut found: Option<u64> = None;
    let mut through = vec![v];
    while let Some(v) = through.pop() {
        for (n, i) in g.uses(v) {
            match (g.op(n), i) {
                (Opcode::Gather, 1) => {
                    let axis = usize::try_from(g.node(n).attrs.get(attr::AXIS)).unwrap_or(0);
                    let rows = g.ty(g.operands(n)[0]).dims.get(axis).map_or(1, |&d| d.max(1) as u64);
                    found = Some(found.map_or(rows, |f| f.min(rows)));
                }
                (Opcode::CastTo | Opcode::Reshape, 0) => through.push(g.result(n)),
                _ => {}
            }
        }
    }
    found
}

fn reals(dims: &[usize], declared: Option<Range>, index: usize, random: &mut Random) -> Vec<f32> {
    let range = declared.unwrap_or(NORMAL);
    let (lo, width) = (f64::from(range.min), f64::from(range.max) - f64::from(range.min));
    let unit = match *dims {
        [_, c @ (1 | 3), h, w] if c == 3 || w != 3 => images(dims[0], c, h, w, index, random),
        [n, h, w, c @ (1 | 3)] => {
            let planes = images(n, c, h, w, index, random);
            let at = |i: usize| planes[(i / (h * w * c) * c + i % c) * h * w + i / c % (h * w)];
            (0..planes.len()).map(at).collect()
        }
        _ => {
            let mut unit = signals(dims, index, random);
            if declared.is_some() {
                unit.iter_mut().for_each(|u| *u = u.clamp(0.0, 1.0));
            }
            unit
        }
    };
    unit.into_iter().map(|u| nearest_f32(lo + width * u)).collect()
}

/// Planes of images, between 0 and 1.
fn images(count: usize, channels: usize, h: usize, w: usize, index: usize, random: &mut Random) -> Vec<f64> {
    let mut all = Vec::with_capacity(count * channels * h * w);
    for _ in 0..count {
        let common = noise(h, w, random);
        let mut image = Vec::with_capacity(channels * h * w);
        for _ in 0..channels {
            let own = noise(h, w, random);
            image.extend(common.iter().zip(own).map(|(a, b)| COMMON * a + OWN * b));
        }
        // The first image is the one that counts where there are no others.
        let (brightness, contrast) = match index {
            0 => (0.5, 0.3),
            _ => (0.5 + 0.15 * random.normal(), 0.1 + 0.25 * random.unit()),
        };
        let count = image.len().max(1) as f64;
        let mean = image.iter().sum::<f64>() / count;
        let square = image.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        let factor = contrast / square.sqrt().max(f64::MIN_POSITIVE);
        all.extend(image.into_iter().map(|x| (brightness + (x - mean) * factor).clamp(0.0, 1.0)));
    }
    all
}

/// Noise of about as much deviation in every octave: interpolation leaves two thirds of that of a grid's numbers.
fn noise(h: usize, w: usize, random: &mut Random) -> Vec<f64> {
    let mut sum = vec![0.0; h * w];
    let mut step = 1;
    while step == 1 || step < h.max(w) {
        let share = if step == 1 { FINEST } else { 1.0 };
        let columns = w / step + 2;
        let grid: Vec<f64> = (0..(h / step + 2) * columns).map(|_| random.normal()).collect();
        for (y, row) in sum.chunks_mut(w.max(1)).enumerate() {
            let (j, v) = (y / step, (y % step) as f64 / step as f64);
            for (x, value) in row.iter_mut().enumerate() {
                let (i, u) = (x / step, (x % step) as f64 / step as f64);
                let at = |j: usize, i: usize| grid[j * columns + i];
                let upper = at(j, i) * (1.0 - u) + at(j, i + 1) * u;
                let lower = at(j + 1, i) * (1.0 - u) + at(j + 1, i + 1) * u;
                *value += share * (upper * (1.0 - v) + lower * v);
            }
        }
        step *= 2;
    }
    sum
}

/// Anything but images, of mean 0.5 and deviation 0.25.
fn signals(dims: &[usize], index: usize, random: &mut Random) -> Vec<f64> {
    let (count, length) = (dims.iter().product::<usize>(), dims.last().copied().unwrap_or(1).max(1));
    let smooth = index % 2 == 1 && length >= LONG;
    let raw: Vec<f64> = match smooth {
        true => (0..count / length).flat_map(|_| noise(1, length, random)).collect(),
        false => (0..count).map(|_| random.normal()).collect(),
    };
    let square = raw.iter().map(|x| x * x).sum::<f64>() / count.max(1) as f64;
    let factor = 0.25 / if smooth { square.sqrt().max(f64::MIN_POSITIVE) } else { 1.0 };
    raw.into_iter().map(|x| 0.5 + x * factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbours in an image are alike, channels are, and layouts hold the same image.
    #[test]
    fn images_look_like_images() {
        let range = Range { min: -1.0, max: 3.0 };
        let nchw = reals(&[1, 3, 16, 20], Some(range), 0, &mut Random::new(5));
        let nhwc = reals(&[1, 16, 20, 3], Some(range), 0, &mut Random::new(5));
        assert!((0..960).all(|i| nchw[i] == nhwc[i % 320 * 3 + i / 320]));
        assert!(nchw.iter().all(|x| (-1.0..=3.0).contains(x)));
        let mean = nchw.iter().sum::<f32>() / 960.0;
        let product = |a: usize, b: usize| (nchw[a] - mean) * (nchw[b] - mean);
        let variance: f32 = (0..640).map(|i| product(i, i)).sum();
        let beside: f32 = (0..640).map(|i| product(i, i + 1)).sum();
        let across: f32 = (0..640).map(|i| product(i, i + 320)).sum();
        assert!((variance / 640.0).sqrt() > 0.8, "{variance}");
        assert!(beside > 0.5 * variance && across > 0.4 * variance, "{beside} and {across} of {variance}");
    }
}
