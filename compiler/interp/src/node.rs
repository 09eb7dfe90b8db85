//! One operation: checks what must hold, and sends it to the module that knows its class.

use std::borrow::Cow;

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Class, Diag, Elem, Opcode, Tensor, Type, infer_dims};

use crate::context::Context;
use crate::{cast, float, int, movement, plain};

/// Evaluates one operation on `operands` with their types; `result` is the type that the result must have.
///
/// On quantized operands an `nn.*` operator computes in f32 on the real numbers for which they stand, and a quantized
/// result is rounded once at the end. Computes on the calling thread only.
pub fn eval_node(op: Opcode, attrs: &Attrs, operands: &[(&Tensor, &Type)], result: &Type) -> Result<Tensor, Diag> {
    eval_in(&Context::new(1), op, attrs, operands, result)
}

/// [`eval_node`] within a run.
pub(crate) fn eval_in(
    cx: &Context,
    op: Opcode,
    attrs: &Attrs,
    operands: &[(&Tensor, &Type)],
    result: &Type,
) -> Result<Tensor, Diag> {
    let info = op.info();
    let fault = |message: String| Diag::new(Code::VERIFY, format!("`{}`: {message}", info.name));
    let types: Vec<&Type> = operands.iter().map(|(_, ty)| *ty).collect();
    let dims = infer_dims(op, attrs, &types).map_err(fault)?;
    if dims != result.dims {
        return Err(fault(format!("the result is {dims:?} and not {:?}", result.dims)));
    }
    for (i, (t, ty)) in operands.iter().enumerate() {
        if t.dims != ty.dims || !t.data.holds(&ty.elem) {
            return Err(fault(format!("operand {i} is {} and not {ty}", t.plain_type())));
        }
    }
    let tensor = match info.class {
        Class::Move(m) => movement::eval(m, attrs, operands, result),
        Class::Cast(c) => cast::eval(c, operands[0], result),
        Class::Int(i) => int::eval(cx, i, attrs, operands, result),
        Class::Unary(_)
        | Class::Binary(_)
        | Class::Contract(_)
        | Class::Pool(_)
        | Class::Reduce(_)
        | Class::Norm(_) => real(cx, op, attrs, operands, result),
    }?;
    if tensor.dims != result.dims || !tensor.data.holds(&result.elem) {
        return Err(fault(format!("the result is {} and not {result}", tensor.plain_type())));
    }
    Ok(tensor)
}

/// `nn.*`: on plain integers exactly, else in f32.
fn real(cx: &Context, op: Opcode, attrs: &Attrs, operands: &[(&Tensor, &Type)], result: &Type) -> Result<Tensor, Diag> {
    let is_plain = |ty: &Type| match ty.elem {
        Elem::Int(_) | Elem::Bool => true,
        Elem::F32 | Elem::Calibrated(_) | Elem::Uniform(_) => false,
    };
    if operands.iter().all(|(_, ty)| is_plain(ty)) {
        return plain::eval(op, attrs, operands, result);
    }
    // Quantized operands become real numbers here and nowhere else.
    let mut floats: Vec<Cow<Tensor>> = Vec::with_capacity(operands.len());
    for (t, ty) in operands {
        floats.push(match ty.elem {
            Elem::F32 | Elem::Calibrated(_) => Cow::Borrowed(*t),
            Elem::Uniform(_) => Cow::Owned(cast::dequantize(t, ty)?),
            Elem::Int(_) | Elem::Bool => {
                let message = format!("`{}` cannot take {ty} together with real numbers", op.name());
                return Err(Diag::new(Code::UNSUPPORTED, message));
            }
        });
    }
    let operands: Vec<&Tensor> = floats.iter().map(AsRef::as_ref).collect();
    let real = float::eval(cx, op, attrs, &operands, &result.dims)?;
    if result.uniform().is_some() { cast::quantize(&real, result) } else { Ok(real) }
}
