//! Operators of the domain `com.microsoft` that ONNX Runtime's optimizer writes in place of several others.

use qcc_ir::attr::{self, Key};
use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, ValueId};

use super::conv;
use super::decompose::normalize;
use super::gemm;
use super::layout::{self, apply};
use super::reduce::over;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// A convolution, perhaps a sum with operand 3, and a function.
pub(super) fn fused_conv(site: &mut Site) -> Outcome<ValueId> {
    let sum = site.optional(3);
    let mut y = conv::conv(site)?;
    if let Some(other) = sum {
        y = apply(site, Opcode::Add, &[y, other], "sum")?;
    }
    activation(site, y)
}

/// `Gemm` and a function.
pub(super) fn fused_gemm(site: &mut Site) -> Outcome<ValueId> {
    let y = gemm::gemm(site)?;
    // Parameters have the names that the function's own operator has.
    let mut attrs = Vec::new();
    for (name, own) in
        [("activation_alpha", attr::ALPHA), ("activation_beta", attr::BETA), ("activation_gamma", attr::GAMMA)]
    {
        if let Some(v) = site.attrs.float(name)? {
            attrs.push((own, v));
        }
    }
    let name = site.attrs.string("activation")?.unwrap_or("").to_string();
    function(site, y, &name, &attrs)
}

fn activation(site: &mut Site, y: ValueId) -> Outcome<ValueId> {
    let name = site.attrs.string("activation")?.unwrap_or("").to_string();
    let parameters = site.attrs.floats("activation_params")?.map(<[f32]>::to_vec).unwrap_or_default();
    let keys = if name == "Clip" { [attr::MIN, attr::MAX] } else { [attr::ALPHA, attr::BETA] };
    if parameters.len() > keys.len() {
        return Err(Fault::shape(format!("{} parameters of {name}", parameters.len())));
    }
    let parameters: Vec<_> = keys.into_iter().zip(parameters).collect();
    function(site, y, &name, &parameters)
}

/// A function by the name of its operator.
fn function(site: &mut Site, x: ValueId, name: &str, parameters: &[(Key<f32>, f32)]) -> Outcome<ValueId> {
    let op = match name {
        "" => return Ok(x),
        "Relu" => Opcode::Relu,
        "Tanh" => Opcode::Tanh,
        "Sigmoid" => Opcode::Sigmoid,
        "Clip" => Opcode::Clip,
        "LeakyRelu" => Opcode::LeakyRelu,
        "HardSigmoid" => Opcode::HardSigmoid,
        "HardSwish" => Opcode::HardSwish,
        "Elu" => Opcode::Elu,
        "Softplus" => Opcode::Softplus,
        other => return Err(Fault::unsupported(format!("`activation` = {other:?} is not supported"))),
    };
    let mut attrs = Attrs::new(op);
    for &(key, value) in parameters {
        if attrs.has(key) {
            attrs = attrs.with(key, value.clamp(f32::MIN, f32::MAX));
        }
    }
    site.emit(op, &[x], attrs, "")
}

/// `alpha A' B'` over any number of leading dimensions. With `transBatch`, the first dimension of an operand takes the place
/// before the last one.
pub(super) fn fused_matmul(site: &mut Site) -> Outcome<ValueId> {
    let alpha = site.attrs.float("alpha")?.unwrap_or(1.0);
    let mut operands = Vec::new();
    for (i, [name, batch]) in [["transA", "transBatchA"], ["transB", "transBatchB"]].into_iter().enumerate() {
        let x = site.operand(i)?;
        let rank = site.ty(x).rank();
        if rank < 2 {
            return Err(Fault::unsupported("a product with a vector"));
        }
        let mut perm: Vec<usize> = (0..rank).collect();
        if site.attrs.flag(batch, false)? {
            perm = (1..rank - 1).chain([0, rank - 1]).collect();
        }
        if site.attrs.flag(name, false)? {
            perm.swap(rank - 2, rank - 1);
        }
        operands.push(layout::transpose(site, x, &perm, "t")?);
    }
    site.emit(Opcode::MatMul, &operands, Attrs::new(Opcode::MatMul).with(attr::ALPHA, alpha), "")
}

/// The sum with operand 1, if there is one.
fn biased(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    match site.optional(1) {
        Some(bias) => apply(site, Opcode::Add, &[x, bias], "biased"),
        None => Ok(x),
    }
}

/// `Gelu` and `BiasGelu`.
pub(super) fn gelu(site: &mut Site) -> Outcome<ValueId> {
    let x = biased(site)?;
    apply(site, Opcode::Gelu, &[x], "")
}

/// The approximation by the hyperbolic tangent.
pub(super) fn fast_gelu(site: &mut Site) -> Outcome<ValueId> {
    let x = biased(site)?;
    site.emit(Opcode::Gelu, &[x], Attrs::new(Opcode::Gelu).with(attr::TANH, true), "")
}

/// `x / (1 + exp(-alpha x))`.
pub(super) fn quick_gelu(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    let alpha = site.attrs.float("alpha")?.unwrap_or(1.702);
    site.emit(Opcode::Swish, &[x], Attrs::new(Opcode::Swish).with(attr::ALPHA, alpha), "")
}

/// Normalization of the sum of the operands input, skip and, behind scale and offset, a bias. The last result is that sum.
pub(super) fn skip_layer_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-12);
    let (x, skip, scale, offset) = (site.operand(0)?, site.operand(1)?, site.operand(2)?, site.optional(3));
    let mut sum = apply(site, Opcode::Add, &[x, skip], "sum")?;
    if let Some(bias) = site.optional(4) {
        sum = apply(site, Opcode::Add, &[sum, bias], "sum")?;
    }
    normalized(site, sum, epsilon, scale, offset)
}

/// The same without means: the root of the mean of squares. The results have the places that they have there.
pub(super) fn skip_rms_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, skip, scale) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let mut sum = apply(site, Opcode::Add, &[x, skip], "sum")?;
    if let Some(bias) = site.optional(3) {
        sum = apply(site, Opcode::Add, &[sum, bias], "sum")?;
    }
    let Some(axis) = site.ty(sum).rank().checked_sub(1) else { return Err(Fault::shape("normalization of a scalar")) };
    let [y, inverse] = by_root(site, sum, scale, axis, epsilon)?;
    // A mean is not computed; nothing reads it.
    Ok(if site.result_count() > 1 { vec![y, inverse, inverse, sum] } else { vec![y] })
}

/// The results y, mean, inverse deviation and what was normalized.
fn normalized(
    site: &mut Site,
    x: ValueId,
    epsilon: f32,
    scale: ValueId,
    offset: Option<ValueId>,
) -> Outcome<Vec<ValueId>> {
    let Some(axis) = site.ty(x).rank().checked_sub(1) else { return Err(Fault::shape("normalization of a scalar")) };
    let mut results = vec![normalize(site, x, axis, epsilon, scale, offset)?];
    if site.result_count() > 1 {
        results.extend(super::decompose::moments(site, x, &[axis], epsilon)?);
        results.push(x);
    }
    Ok(results)
}

/// Rows of tables of token ids, positions and segments, summed and normalized. The second result, the number of elements that a mask
/// leaves to each sample, is read by attention only: it gets the mask itself.
pub(super) fn embed_layer_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-12);
    site.attrs.ignore(&["mask_index_type"]);
    let (ids, tokens, positions) = (site.operand(0)?, site.operand(2)?, site.operand(3)?);
    let (scale, offset) = (site.operand(5)?, site.operand(6)?);
    let dims = site.dims(ids);
    let &[batch, length] = dims.as_slice() else { return Err(Fault::shape(format!("tokens of shape {dims:?}"))) };
    let gather = |site: &mut Site, table: ValueId, at: ValueId| {
        site.emit(Opcode::Gather, &[table, at], Attrs::new(Opcode::Gather).with(attr::AXIS, 0), "rows")
    };
    let mut sum = gather(site, tokens, ids)?;
    let at = match site.optional(8) {
        Some(at) => gather(site, positions, at)?,
        None => super::slice::part(site, positions, 0, 0..length)?,
    };
    sum = apply(site, Opcode::Add, &[sum, at], "sum")?;
    if let (Some(segments), Some(table)) = (site.optional(1), site.optional(4)) {
        let segment = gather(site, table, segments)?;
        sum = apply(site, Opcode::Add, &[sum, segment], "sum")?;
    }
    let axis = site.ty(sum).rank().saturating_sub(1);
    let y = normalize(site, sum, axis, epsilon, scale, Some(offset))?;
    match (site.optional(7), site.result_count()) {
        (_, ..=1) => Ok(vec![y]),
        (Some(mask), 2) => Ok(vec![y, mask]),
        (Some(mask), _) => Ok(vec![y, mask, sum]),
        (None, _) => {
            let full = vec![layout::extent(length)?; batch];
            let full = Tensor::new(&[batch], Data::I64(full));
            Ok(vec![y, site.constant_of(full, Elem::Int(Int::I64), "lengths"), sum])
        }
    }
}

/// `x / sqrt(mean(x^2) + epsilon) * scale` over the dimensions from an axis on.
pub(super) fn rms_norm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    site.attrs.ignore(&["stash_type"]);
    let epsilon = site.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale) = (site.operand(0)?, site.operand(1)?);
    let rank = site.ty(x).rank();
    let axis = Site::axis(site.attrs.int("axis")?.unwrap_or(-1), rank)?;
    let [y, inverse] = by_root(site, x, scale, axis, epsilon)?;
    Ok(if site.result_count() > 1 { vec![y, inverse] } else { vec![y] })
}

/// The normalized value, and the inverse root if the node names more than one result.
fn by_root(site: &mut Site, x: ValueId, scale: ValueId, axis: usize, epsilon: f32) -> Outcome<[ValueId; 2]> {
    let axes: Vec<usize> = (axis..site.ty(x).rank()).collect();
    let square = apply(site, Opcode::Mul, &[x, x], "square")?;
    let mean = over(site, Opcode::ReduceMean, square, &axes, true, "mean")?;
    let epsilon = site.floats(&[], vec![epsilon], "epsilon");
    let shifted = apply(site, Opcode::Add, &[mean, epsilon], "shifted")?;
    let root = apply(site, Opcode::Sqrt, &[shifted], "root")?;
    let normal = apply(site, Opcode::Div, &[x, root], "normal")?;
    let y = apply(site, Opcode::Mul, &[normal, scale], "")?;
    let inverse = if site.result_count() > 1 { apply(site, Opcode::Reciprocal, &[root], "inverse")? } else { root };
    Ok([y, inverse])
}
