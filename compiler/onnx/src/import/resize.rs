//! `Upsample` and `Resize`. Every axis is resized by itself: nearest neighbours are a choice of positions, or repetition where
//! that is the same; interpolation is a product with a matrix of weights.

use qcc_ir::{Opcode, ValueId};

use super::layout::{self, Repeat, apply};
use super::site::Site;
use crate::fault::{Fault, Outcome};
use crate::rounding::{nearest, towards_zero};

/// How a result is interpolated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Nearest,
    Linear,
    /// Cubic convolution (Keys 1981) with this coefficient.
    Cubic(f64),
}

/// How a position of the result becomes a position of the operand.
#[derive(Debug, Clone, PartialEq)]
struct Mapping {
    kernel: Kernel,
    coordinates: String,
    rounding: String,
    exclude_outside: bool,
    antialias: bool,
    /// What stands where a region of interest lies outside the operand.
    extrapolation: f32,
}

/// One axis: its extents, the factor, and the region of interest.
#[derive(Debug, Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    scale: f32,
    region: [f32; 2],
}

impl Mapping {
    fn simple(kernel: Kernel) -> Mapping {
        Mapping {
            kernel,
            coordinates: "asymmetric".to_string(),
            rounding: String::new(),
            exclude_outside: false,
            antialias: false,
            extrapolation: 0.0,
        }
    }

    /// The coordinate in the operand of position `i` of the result. In single precision, as ONNX Runtime and PyTorch compute it: where a
    /// coordinate lies next to an integer or to the middle between two, that decides about the nearest.
    fn coordinate(&self, axis: &Axis, i: usize) -> Outcome<f32> {
        let (i, input, output) = (i as f32, axis.input as f32, axis.output as f32);
        let half = |i: f32| (i + 0.5) / axis.scale - 0.5;
        Ok(match self.coordinates.as_str() {
            "half_pixel" => half(i),
            "half_pixel_symmetric" => {
                // The result's middle lies over the operand's, however its extent was rounded.
                let adjustment = output / (axis.scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + half(i)
            }
            "pytorch_half_pixel" => {
                if axis.output > 1 {
                    half(i)
                } else {
                    0.0
                }
            }
            "align_corners" => {
                if axis.output > 1 {
                    i * (input - 1.0) / (output - 1.0)
                } else {
                    0.0
                }
            }
            "asymmetric" => i / axis.scale,
            "tf_half_pixel_for_nn" => (i + 0.5) / axis.scale,
            "tf_crop_and_resize" => {
                let [start, end] = axis.region;
                match axis.output {
                    1 => 0.5 * (start + end) * (input - 1.0),
                    _ => start * (input - 1.0) + i * (end - start) * (input - 1.0) / (output - 1.0),
                }
            }
            other => return Err(Fault::unsupported(format!("coordinates {other:?} are not supported"))),
        })
    }

    /// The nearest position to a coordinate.
    fn nearest(&self, axis: &Axis, x: f32) -> Outcome<usize> {
        let rounded = match self.rounding.as_str() {
            // Before operator set 11.
            "" if axis.scale < 1.0 => x.ceil(),
            "" | "floor" => x.floor(),
            "ceil" => x.ceil(),
            "round_prefer_floor" => (x - 0.5).ceil(),
            "round_prefer_ceil" => (x + 0.5).floor(),
            other => return Err(Fault::unsupported(format!("`nearest_mode` = {other:?} is not supported"))),
        };
        let nearest = towards_zero(rounded.clamp(0.0, axis.input.saturating_sub(1) as f32).into());
        usize::try_from(nearest).map_err(|_| Fault::shape(format!("position {rounded}")))
    }

    /// The weights of all elements of the operand in one of the result.
    fn weights(&self, axis: &Axis, x: f32) -> Vec<f32> {
        let x = f64::from(x);
        // Scaling down with `antialias`, the kernel is stretched so that it covers everything between two results.
        let stretch = if self.antialias { f64::from(axis.scale.min(1.0)) } else { 1.0 };
        let reach = if matches!(self.kernel, Kernel::Cubic(_)) { 2.0 } else { 1.0 } / stretch;
        let (first, last) = (towards_zero((x - reach).floor()), towards_zero((x + reach).ceil()));
        let mut weights = vec![0.0f64; axis.input];
        let mut sum = 0.0;
        for i in first..=last {
            let w = self.kernel.at((x - i as f64) * stretch);
            let at = usize::try_from(i).unwrap_or(0).min(axis.input.saturating_sub(1));
            if self.exclude_outside && usize::try_from(i) != Ok(at) {
                continue;
            }
            sum += w;
            weights[at] += w;
        }
        weights.iter().map(|w| nearest(w / if sum == 0.0 { 1.0 } else { sum })).collect()
    }

    /// True if the coordinate lies in a region of interest outside the operand.
    fn outside(&self, axis: &Axis, x: f32) -> bool {
        self.coordinates == "tf_crop_and_resize" && !(0.0..=axis.input as f32 - 1.0).contains(&x)
    }
}

impl Kernel {
    fn at(self, d: f64) -> f64 {
        let d = d.abs();
        match self {
            Kernel::Nearest => f64::from(u8::from(d <= 0.5)),
            Kernel::Linear => (1.0 - d).max(0.0),
            Kernel::Cubic(a) if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Kernel::Cubic(a) if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Kernel::Cubic(_) => 0.0,
        }
    }
}

pub(super) fn upsample(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let kernel = match site.attrs.string("mode")?.unwrap_or("nearest") {
        "nearest" => Kernel::Nearest,
        "linear" => Kernel::Linear,
        mode => return Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported"))),
    };
    let scales = match site.opset() {
        ..9 => site.attrs.floats("scales")?.map(<[f32]>::to_vec),
        _ => site.float_list(1, "`scales`")?,
    };
    let scales = scales.ok_or_else(|| Fault::shape("`scales` is missing"))?;
    by_factors(site, x, &scales, &Mapping::simple(kernel))
}

pub(super) fn resize(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let dims = site.dims(x);
    let mode = site.attrs.string("mode")?.unwrap_or("nearest");
    let coefficient = site.attrs.float("cubic_coeff_a")?.unwrap_or(-0.75);
    let kernel = match mode {
        "nearest" => Kernel::Nearest,
        "linear" => Kernel::Linear,
        "cubic" => Kernel::Cubic(f64::from(coefficient)),
        mode => return Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported"))),
    };
    if site.opset() < 11 {
        let scales = site.float_list(1, "`scales`")?.ok_or_else(|| Fault::shape("`scales` is missing"))?;
        return by_factors(site, x, &scales, &Mapping::simple(kernel));
    }
    let mapping = Mapping {
        kernel,
        coordinates: site.attrs.string("coordinate_transformation_mode")?.unwrap_or("half_pixel").to_string(),
        rounding: site.attrs.string("nearest_mode")?.unwrap_or("round_prefer_floor").to_string(),
        exclude_outside: site.attrs.flag("exclude_outside", false)?,
        antialias: site.attrs.flag("antialias", false)?,
        extrapolation: site.attrs.float("extrapolation_value")?.unwrap_or(0.0),
    };
    let policy = site.attrs.string("keep_aspect_ratio_policy")?.unwrap_or("stretch").to_string();
    let axes = match site.attrs.ints("axes")? {
        Some(axes) => Site::axes(axes, dims.len())?,
        None => (0..dims.len()).collect(),
    };
    let region = if mapping.coordinates == "tf_crop_and_resize" {
        let region = site.float_list(1, "`roi`")?.filter(|r| r.len() == 2 * axes.len());
        region.ok_or_else(|| Fault::shape("`roi` has not two numbers for each axis"))?
    } else {
        site.optional(1);
        [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat()
    };
    let scales = site.float_list(2, "`scales`")?.filter(|s| !s.is_empty());
    let sizes = site.int_list(3, "`sizes`")?.filter(|s| !s.is_empty());
    let mut wanted = Vec::new();
    match (scales, sizes) {
        (Some(scales), None) if scales.len() == axes.len() => {
            for (&s, (i, &a)) in scales.iter().zip(axes.iter().enumerate()) {
                // With a region of interest, it is that which is scaled.
                let part = region[axes.len() + i] - region[i];
                wanted.push((scaled(dims[a], s * part)?, s));
            }
        }
        (None, Some(sizes)) if sizes.len() == axes.len() => {
            let ratios: Vec<f32> = sizes.iter().zip(&axes).map(|(&s, &a)| s as f32 / dims[a] as f32).collect();
            let pick = |f: fn(f32, f32) -> f32, from: f32| ratios.iter().copied().fold(from, f);
            let common = match policy.as_str() {
                "stretch" => None,
                "not_larger" => Some(pick(f32::min, f32::INFINITY)),
                "not_smaller" => Some(pick(f32::max, 0.0)),
                other => return Err(Fault::unsupported(format!("`keep_aspect_ratio_policy` = {other:?}"))),
            };
            for ((&s, &a), &ratio) in sizes.iter().zip(&axes).zip(&ratios) {
                wanted.push(match common {
                    Some(scale) => (extent_of((dims[a] as f32 * scale + 0.5).floor())?, scale),
                    None => (extent_of(s as f32)?, ratio),
                });
            }
        }
        _ => return Err(Fault::shape("there must be either `scales` or `sizes`, one for each axis")),
    }
    differences(site, &mapping, &axes, &wanted, &dims);
    let mut each = Vec::new();
    for (i, (&a, &(output, scale))) in axes.iter().zip(&wanted).enumerate() {
        let region = [region[i], region[axes.len() + i]];
        each.push((a, Axis { input: dims[a], output, scale, region }));
    }
    resized(site, x, &each, &mapping)
}

/// Remarks on what ONNX's reference computes in another way than ONNX Runtime, which is followed: it keeps the fraction of lengths.
fn differences(site: &mut Site, mapping: &Mapping, axes: &[usize], wanted: &[(usize, f32)], dims: &[usize]) {
    for (&a, &(output, scale)) in axes.iter().zip(wanted) {
        let exact = dims[a] as f64 * f64::from(scale);
        let fraction = mapping.coordinates == "align_corners" && (exact - output as f64).abs() > 1e-3;
        if fraction {
            site.remark(format!(
                "corners are aligned over {output} elements, as ONNX Runtime and PyTorch do; the ONNX reference takes {exact:.3}"
            ));
        }
    }
}

/// The extent of a result. The product is rounded to single precision as ONNX's shape inference, ONNX Runtime and PyTorch round it:
/// 0.7 times 10 is 7.
fn scaled(input: usize, scale: f32) -> Outcome<usize> {
    extent_of((input as f32 * scale).floor())
}

/// Beyond this no result is of a sensible size.
fn extent_of(n: f32) -> Outcome<usize> {
    let extent = usize::try_from(towards_zero(n.into())).ok().filter(|_| (1.0..=65536.0).contains(&n));
    extent.ok_or_else(|| Fault::shape(format!("a result of extent {n}")))
}

fn by_factors(site: &mut Site, x: ValueId, scales: &[f32], mapping: &Mapping) -> Outcome<ValueId> {
    let dims = site.dims(x);
    if scales.len() != dims.len() {
        return Err(Fault::shape(format!("{} factors for {} dimensions", scales.len(), dims.len())));
    }
    let mut each = Vec::new();
    for (i, (&input, &scale)) in dims.iter().zip(scales).enumerate() {
        each.push((i, Axis { input, output: scaled(input, scale)?, scale, region: [0.0, 1.0] }));
    }
    resized(site, x, &each, mapping)
}

fn resized(site: &mut Site, x: ValueId, axes: &[(usize, Axis)], mapping: &Mapping) -> Outcome<ValueId> {
    let mut y = x;
    let mut times = vec![1; site.ty(x).rank()];
    let mut inside: Vec<(usize, Vec<f32>)> = Vec::new();
    for (number, axis) in axes {
        let trivial = axis.input == axis.output && axis.scale == 1.0 && mapping.coordinates != "tf_crop_and_resize";
        if trivial {
            continue;
        }
        let coordinates: Vec<f32> = (0..axis.output).map(|i| mapping.coordinate(axis, i)).collect::<Outcome<_>>()?;
        if coordinates.iter().any(|&x| mapping.outside(axis, x)) {
            let mask = coordinates.iter().map(|&x| f32::from(u8::from(!mapping.outside(axis, x))));
            inside.push((*number, mask.collect()));
        }
        if mapping.kernel == Kernel::Nearest {
            let positions = coordinates.iter().map(|&x| mapping.nearest(axis, x));
            let positions: Vec<usize> = positions.collect::<Outcome<_>>()?;
            let factor = axis.output / axis.input.max(1);
            if factor * axis.input == axis.output && positions.iter().enumerate().all(|(i, &p)| p == i / factor) {
                times[*number] = factor;
            } else {
                y = layout::at_positions(site, y, *number, &positions, "nearest")?;
            }
        } else {
            let weights = coordinates.iter().flat_map(|&x| mapping.weights(axis, x)).collect();
            y = product_along(site, y, *number, [axis.output, axis.input], weights)?;
        }
    }
    y = layout::repeat(site, y, &times, Repeat::Elements)?;
    if inside.is_empty() {
        return Ok(y);
    }
    // One for each position that lies inside along all axes.
    let rank = site.ty(y).rank();
    let mut mask = site.floats(&[], vec![1.0], "inside");
    for (axis, values) in inside {
        let dims: Vec<usize> = (0..rank).map(|d| if d == axis { values.len() } else { 1 }).collect();
        let along = site.floats(&dims, values, "inside");
        mask = apply(site, Opcode::Mul, &[mask, along], "inside")?;
    }
    let kept = apply(site, Opcode::Mul, &[y, mask], "kept")?;
    let value = site.floats(&[], vec![mapping.extrapolation], "extrapolation");
    let one = site.floats(&[], vec![1.0], "one");
    let rest = apply(site, Opcode::Sub, &[one, mask], "outside")?;
    let rest = apply(site, Opcode::Mul, &[rest, value], "outside")?;
    apply(site, Opcode::Add, &[kept, rest], "")
}

/// Each row along the axis times a matrix `[outputs, inputs]`.
fn product_along(site: &mut Site, x: ValueId, axis: usize, dims: [usize; 2], weights: Vec<f32>) -> Outcome<ValueId> {
    let rank = site.ty(x).rank();
    let perm: Vec<usize> = (0..rank).filter(|&d| d != axis).chain([axis]).collect();
    let w = site.floats(&dims, weights, "weights");
    let x = layout::transpose(site, x, &perm, "axis")?;
    let y = apply(site, Opcode::Linear, &[x, w], "interpolated")?;
    let back: Vec<usize> = (0..rank).map(|d| perm.iter().position(|&p| p == d).unwrap_or(d)).collect();
    layout::transpose(site, y, &back, "resized")
}
