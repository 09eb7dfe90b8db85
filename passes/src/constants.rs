//! Constants as passes read them: in quantized form, behind casts, or as the numbers that an operator makes of them.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::{Data, Graph, NodeId, Opcode, Tensor, Type, Uniform, ValueId, attr};

use crate::rewrite::floats;

/// The codes of a tensor of integers.
pub(crate) fn codes(tensor: &Tensor) -> Option<Vec<i64>> {
    Some(match &tensor.data {
        Data::F32(_) => return None,
        Data::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::U8(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::I16(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::I64(v) => v.clone(),
    })
}

/// The constant of which `v` is the `quant.dcast`.
pub(crate) fn dequantized(g: &Graph, v: ValueId) -> Option<(ValueId, Arc<Tensor>, Arc<Uniform>)> {
    let n = g.producer(v).filter(|&n| g.op(n) == Opcode::DCast)?;
    let c = g.operands(n)[0];
    Some((c, g.constant(c)?.clone(), g.ty(c).uniform()?.clone()))
}

/// The real numbers of a constant, also behind a `quant.dcast`.
pub(crate) fn reals(g: &Graph, v: ValueId) -> Option<Tensor> {
    if let Some(tensor) = g.constant(v) {
        return tensor.as_f32().is_some().then(|| tensor.as_ref().clone());
    }
    let (c, tensor, _) = dequantized(g, v)?;
    let n = g.producer(v)?;
    eval_node(Opcode::DCast, &g.node(n).attrs, &[(&tensor, g.ty(c))], &Type::f32(&tensor.dims)).ok()
}

/// `a` and `b` of `bn(x) = a * x + b`, if the parameters are constants.
pub(crate) fn batch_norm(g: &Graph, n: NodeId) -> Option<(Vec<f64>, Vec<f64>)> {
    let operands = g.operands(n);
    let parameter = |i: usize| floats(g, *operands.get(i)?).map(|(_, data)| data);
    let (gamma, beta, mean, var) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    let epsilon = f64::from(g.node(n).attrs.get(attr::EPSILON));
    let a: Vec<f64> =
        gamma.iter().zip(var).map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + epsilon).sqrt()).collect();
    let b =
        a.iter().zip(beta.iter().zip(mean)).map(|(a, (&beta, &mean))| f64::from(beta) - f64::from(mean) * a).collect();
    Some((a, b))
}
