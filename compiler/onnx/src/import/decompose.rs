//! Normalizations.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::layout::{self, apply};
use super::reduce::over;
use super::site::Site;
use crate::fault::{Fault, Outcome};
use crate::rounding::nearest;

/// In training mode with the mean and variance of the batch itself, and their running averages as results.
pub(super) fn batch_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let momentum = site.attrs.float("momentum")?.unwrap_or(0.9);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    if site.opset() < 9 && !site.attrs.flag("spatial", true)? {
        return Err(Fault::unsupported("`spatial` = 0 is not supported"));
    }
    let operands = site.all_operands()?;
    if site.opset() >= 14 && site.attrs.flag("training_mode", false)? {
        return by_batch(site, &operands, epsilon, momentum);
    }
    let attrs = Attrs::new(Opcode::BatchNorm).with(attr::EPSILON, epsilon);
    site.emit(Opcode::BatchNorm, &operands, attrs, "").map(|y| vec![y])
}

fn by_batch(site: &mut Site, operands: &[ValueId], epsilon: f32, momentum: f32) -> Outcome<Vec<ValueId>> {
    let &[x, scale, bias, mean, var] = operands else { return Err(Fault::shape("there are not five operands")) };
    let (_, channels, spatial) = channels(site, x)?;
    let axes: Vec<usize> = (0..spatial.len() + 2).filter(|&a| a != 1).collect();
    let column: Vec<usize> = std::iter::once(channels).chain(spatial.iter().map(|_| 1)).collect();
    let [own_mean, inverse] = moments(site, x, &axes, epsilon)?;
    let centred = apply(site, Opcode::Sub, &[x, own_mean], "centred")?;
    let normal = apply(site, Opcode::Mul, &[centred, inverse], "normal")?;
    let scale = layout::reshape(site, scale, &column, "scale")?;
    let bias = layout::reshape(site, bias, &column, "bias")?;
    let scaled = apply(site, Opcode::Mul, &[normal, scale], "scaled")?;
    let mut results = vec![apply(site, Opcode::Add, &[scaled, bias], "")?];
    if site.result_count() > 1 {
        let square = apply(site, Opcode::Mul, &[centred, centred], "square")?;
        let own_var = over(site, Opcode::ReduceMean, square, &axes, true, "variance")?;
        let (old, new) = (site.floats(&[], vec![momentum], "old"), site.floats(&[], vec![1.0 - momentum], "new"));
        for (before, own) in [(mean, own_mean), (var, own_var)] {
            let own = layout::reshape(site, own, &[channels], "own")?;
            let kept = apply(site, Opcode::Mul, &[before, old], "kept")?;
            let added = apply(site, Opcode::Mul, &[own, new], "added")?;
            results.push(apply(site, Opcode::Add, &[kept, added], "running")?);
        }
    }
    Ok(results)
}

/// Mean and reciprocal deviation over some axes.
pub(super) fn moments(site: &mut Site, x: ValueId, axes: &[usize], epsilon: f32) -> Outcome<[ValueId; 2]> {
    let mean = over(site, Opcode::ReduceMean, x, axes, true, "mean")?;
    let centred = apply(site, Opcode::Sub, &[x, mean], "centred")?;
    let square = apply(site, Opcode::Mul, &[centred, centred], "square")?;
    let variance = over(site, Opcode::ReduceMean, square, axes, true, "variance")?;
    let epsilon = site.floats(&[], vec![epsilon], "epsilon");
    let shifted = apply(site, Opcode::Add, &[variance, epsilon], "shifted")?;
    let deviation = apply(site, Opcode::Sqrt, &[shifted], "deviation")?;
    Ok([mean, apply(site, Opcode::Reciprocal, &[deviation], "inverse")?])
}

/// `nn.layer_norm` over the dimensions from `axis` on; scale and bias that are not constant are applied behind it.
pub(super) fn normalize(
    site: &mut Site,
    x: ValueId,
    axis: usize,
    epsilon: f32,
    scale: ValueId,
    bias: Option<ValueId>,
) -> Outcome<ValueId> {
    let dims = site.dims(x);
    for v in [Some(scale), bias].into_iter().flatten() {
        if layout::broadcast(site, v, &dims)? != dims {
            return Err(Fault::shape(format!("scale or bias of shape {:?} does not fit", site.dims(v))));
        }
    }
    let axis = layout::extent(axis)?;
    let attrs = Attrs::new(Opcode::LayerNorm).with(attr::AXIS, axis).with(attr::EPSILON, epsilon);
    let constant = [Some(scale), bias].into_iter().flatten().all(|v| site.constant(v).is_some());
    let zero = site.floats(&[1], vec![0.0], "zero");
    if constant {
        return site.emit(Opcode::LayerNorm, &[x, scale, bias.unwrap_or(zero)], attrs, "");
    }
    let one = site.floats(&[1], vec![1.0], "one");
    let normal = site.emit(Opcode::LayerNorm, &[x, one, zero], attrs, "normal")?;
    let y = apply(site, Opcode::Mul, &[normal, scale], "scaled")?;
    match bias {
        Some(bias) => apply(site, Opcode::Add, &[y, bias], ""),
        None => Ok(y),
    }
}

/// The other results are the mean and the reciprocal deviation of each row.
pub(super) fn layer_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    // The precision of intermediate results; here f32.
    site.attrs.ignore(&["stash_type"]);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let rank = site.ty(x).rank();
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), rank)?;
    let mut results = vec![normalize(site, x, axis, epsilon, scale, bias)?];
    if site.result_count() > 1 {
        let axes: Vec<usize> = (axis..rank).collect();
        results.extend(moments(site, x, &axes, epsilon)?);
    }
    Ok(results)
}

/// Channels and spatial extents of `[N, C, ..]`.
fn channels(site: &Site, x: ValueId) -> Outcome<(usize, usize, Vec<usize>)> {
    match site.dims(x).as_slice() {
        &[n, channels, ref spatial @ ..] => Ok((n, channels, spatial.to_vec())),
        dims => Err(Fault::shape(format!("shape {dims:?} has no channels"))),
    }
}

pub(super) fn instance_norm(site: &mut Site) -> Outcome<ValueId> {
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale, bias) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let (_, channels, spatial) = channels(site, x)?;
    let column: Vec<usize> = std::iter::once(channels).chain(spatial.iter().map(|_| 1)).collect();
    let scale = layout::reshape(site, scale, &column, "scale")?;
    let bias = layout::reshape(site, bias, &column, "bias")?;
    normalize(site, x, 2, epsilon, scale, Some(bias))
}

/// Along these axes, by default all but the channels. What is added to the deviation, 1e-9, is here added to the variance, squared.
pub(super) fn mean_variance_norm(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let rank = site.ty(x).rank();
    let given = site.attrs.ints("axes")?.map_or_else(|| vec![0, 2, 3], <[i64]>::to_vec);
    let axes = Site::axes(&given, rank)?;
    let mut perm: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
    let kept = perm.len();
    perm.extend(&axes);
    let rows = layout::transpose(site, x, &perm, "rows")?;
    let one = site.floats(&[1], vec![1.0], "one");
    let normal = normalize(site, rows, kept, 1e-18, one, None)?;
    let back: Vec<usize> = (0..rank).map(|d| perm.iter().position(|&p| p == d).unwrap_or(d)).collect();
    layout::transpose(site, normal, &back, "")
}

/// Groups of channels are normalized together. Scale and bias have one element for each group, from operator set 21 on for
/// each channel.
pub(super) fn group_norm(site: &mut Site) -> Outcome<ValueId> {
    site.attrs.ignore(&["stash_type"]);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let groups = site.attrs.int("num_groups")?.and_then(|g| usize::try_from(g).ok()).filter(|&g| g > 0);
    let (x, scale, bias) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let (n, channels, spatial) = channels(site, x)?;
    let groups = groups.filter(|g| channels % g == 0);
    let groups = groups.ok_or_else(|| Fault::shape(format!("`num_groups` does not divide {channels} channels")))?;
    let (each, area) = (channels / groups, layout::product(&spatial)?);
    let wide = layout::reshape(site, x, &[n, groups, each, area], "groups")?;
    let mut parameter = |v: ValueId, name: &str| {
        let rows = if site.dims(v) == [groups] && (each == 1 || site.opset() < 21) { 1 } else { each };
        layout::reshape(site, v, &[groups, rows, 1], name)
    };
    let (scale, bias) = (parameter(scale, "scale")?, parameter(bias, "bias")?);
    let y = normalize(site, wide, 2, epsilon, scale, Some(bias))?;
    let dims = site.dims(x);
    layout::reshape(site, y, &dims, "")
}

/// `x / norm(x)` along an axis; where the norm is 0, so is the result.
pub(super) fn lp_norm(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), site.ty(x).rank())?;
    let norm = match site.attrs.int("p")?.unwrap_or(2) {
        1 => {
            let magnitude = apply(site, Opcode::Abs, &[x], "magnitude")?;
            over(site, Opcode::ReduceSum, magnitude, &[axis], true, "sum")?
        }
        2 => {
            let square = apply(site, Opcode::Mul, &[x, x], "square")?;
            let sum = over(site, Opcode::ReduceSum, square, &[axis], true, "sum")?;
            apply(site, Opcode::Sqrt, &[sum], "norm")?
        }
        p => return Err(Fault::shape(format!("`p` is {p}, not 1 or 2"))),
    };
    let least = site.floats(&[], vec![f32::MIN_POSITIVE], "least");
    let norm = apply(site, Opcode::Max, &[norm, least], "divisor")?;
    apply(site, Opcode::Div, &[x, norm], "")
}

/// `x / (bias + alpha / size * sum(x^2))^beta`, the sum over `size` neighbouring channels: a mean of a window over
/// `[N, 1, C, ..]` that counts padding.
pub(super) fn local_response(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let (alpha, beta) = (site.attrs.float("alpha")?.unwrap_or(1e-4), site.attrs.float("beta")?.unwrap_or(0.75));
    let bias = site.attrs.float("bias")?.unwrap_or(1.0);
    let size = site.attrs.int("size")?.and_then(|s| usize::try_from(s).ok()).filter(|&s| s > 0);
    let size = size.ok_or_else(|| Fault::shape("`size` is not a positive number"))?;
    let (n, channels, spatial) = channels(site, x)?;
    let square = apply(site, Opcode::Mul, &[x, x], "square")?;
    let wide = layout::reshape(site, square, &[n, 1, channels, layout::product(&spatial)?], "channels")?;
    // Beyond all channels a window sees zeros alone.
    let (before, after) =
        (((size - 1) / 2).min(channels.saturating_sub(1)), (size / 2).min(channels.saturating_sub(1)));
    let kernel = before + after + 1;
    let alpha = nearest(f64::from(alpha) * kernel as f64 / size as f64);
    let attrs = Attrs::new(Opcode::AveragePool)
        .with(attr::KERNEL, layout::list(&[kernel, 1])?)
        .with(attr::PADS, layout::list(&[before, 0, after, 0])?)
        .with(attr::COUNT_INCLUDE_PAD, true);
    let mean = site.emit(Opcode::AveragePool, &[wide], attrs, "mean")?;
    let dims = site.dims(x);
    let mean = layout::reshape(site, mean, &dims, "mean")?;
    let mut number = |v: f32| site.floats(&[], vec![v], "number");
    let (alpha, bias, beta) = (number(alpha), number(bias), number(-beta));
    let scaled = apply(site, Opcode::Mul, &[mean, alpha], "scaled")?;
    let shifted = apply(site, Opcode::Add, &[scaled, bias], "shifted")?;
    let factor = apply(site, Opcode::Pow, &[shifted, beta], "factor")?;
    apply(site, Opcode::Mul, &[x, factor], "")
}
