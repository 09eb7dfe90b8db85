//! Normalizations.

use qcc_ir::{Attrs, Opcode, ValueId};

use super::layout::{self, apply};
use super::reduce::over;
use super::site::Site;
use crate::fault::{Fault, Outcome};

pub(super) fn batch_norm(site: &mut Site) -> Outcome<ValueId> {
    site.attrs.ignore(&["momentum"]);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    if site.opset() < 9 && !site.attrs.flag("spatial", true)? {
        return Err(Fault::unsupported("`spatial` = 0 is not supported"));
    }
    if site.opset() >= 14 && site.attrs.flag("training_mode", false)? {
        return Err(Fault::unsupported("training mode is not supported"));
    }
    let operands = site.all_operands()?;
    site.emit(Opcode::BatchNorm, &operands, Attrs::new(Opcode::BatchNorm).with("epsilon", epsilon), "")
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias`, mean and variance over `axes`.
fn normalize(site: &mut Site, x: ValueId, axes: &[usize], epsilon: f32) -> Outcome<ValueId> {
    let mean = over(site, Opcode::ReduceMean, x, axes, true, "mean")?;
    let centred = apply(site, Opcode::Sub, &[x, mean], "centred")?;
    let square = apply(site, Opcode::Mul, &[centred, centred], "square")?;
    let variance = over(site, Opcode::ReduceMean, square, axes, true, "variance")?;
    let epsilon = site.floats(&[], vec![epsilon], "epsilon");
    let variance = apply(site, Opcode::Add, &[variance, epsilon], "variance")?;
    let deviation = apply(site, Opcode::Sqrt, &[variance], "deviation")?;
    apply(site, Opcode::Div, &[centred, deviation], "normal")
}

fn scale_and_shift(site: &mut Site, x: ValueId, scale: ValueId, bias: Option<ValueId>) -> Outcome<ValueId> {
    let dims = site.dims(x);
    for v in [Some(scale), bias].into_iter().flatten() {
        if layout::broadcast(site, v, &dims)? != dims {
            return Err(Fault::shape(format!("scale or bias of shape {:?} does not fit", site.dims(v))));
        }
    }
    let y = apply(site, Opcode::Mul, &[x, scale], "scaled")?;
    match bias {
        Some(bias) => apply(site, Opcode::Add, &[y, bias], ""),
        None => Ok(y),
    }
}

pub(super) fn layer_norm(site: &mut Site) -> Outcome<ValueId> {
    // The precision of intermediate results; here f32.
    site.attrs.ignore(&["stash_type"]);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let rank = site.ty(x).rank();
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), rank)?;
    let axes: Vec<usize> = (axis..rank).collect();
    let y = normalize(site, x, &axes, epsilon)?;
    scale_and_shift(site, y, scale, bias)
}

pub(super) fn instance_norm(site: &mut Site) -> Outcome<ValueId> {
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale, bias) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let dims = site.dims(x);
    let [_, channels, spatial @ ..] = dims.as_slice() else {
        return Err(Fault::shape(format!("shape {dims:?} has no channels")));
    };
    let axes: Vec<usize> = (2..dims.len()).collect();
    let y = normalize(site, x, &axes, epsilon)?;
    let column: Vec<usize> = std::iter::once(*channels).chain(spatial.iter().map(|_| 1)).collect();
    let scale = layout::reshape(site, scale, &column, "scale")?;
    let bias = layout::reshape(site, bias, &column, "bias")?;
    scale_and_shift(site, y, scale, Some(bias))
}
