//! `nn.*` on f32, as ONNX defines it. Convolution and matrix products go through the `gemm-f32` crate, the rest through loops
//! that the compiler vectorises.

mod contract;
mod conv;
mod elementwise;
pub(crate) mod matrix;
mod norm;
mod pool;

use qcc_ir::diag::Code;
use qcc_ir::ops::Contract;
use qcc_ir::{Attrs, Class, Data, Diag, Opcode, Tensor};

use crate::context::Context;

/// An operation on floats with access to its parts.
struct Call<'a> {
    cx: &'a Context,
    attrs: &'a Attrs,
    operands: &'a [&'a Tensor],
    /// Shape of the result.
    dims: &'a [usize],
}

impl<'a> Call<'a> {
    fn dims_of(&self, i: usize) -> &'a [usize] {
        &self.operands[i].dims
    }

    fn f32s(&self, i: usize) -> Result<&'a [f32], Diag> {
        let found = self.operands[i].data.kind();
        self.operands[i].as_f32().ok_or_else(|| Diag::new(Code::VERIFY, format!("operand {i} is {found} and not f32")))
    }

    /// Operand `i` if it was given.
    fn optional(&self, i: usize) -> Result<Option<&'a [f32]>, Diag> {
        if i < self.operands.len() { self.f32s(i).map(Some) } else { Ok(None) }
    }

    /// Four dimensions of operand `i`.
    fn dims4(&self, i: usize) -> Result<[usize; 4], Diag> {
        let dims = self.dims_of(i);
        dims.try_into()
            .map_err(|_| Diag::new(Code::VERIFY, format!("operand {i} of shape {dims:?} has not four dimensions")))
    }

    /// Number of elements of the result.
    fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Evaluates an `nn.*` operator on floats; `dims` is the shape of the result.
pub(crate) fn eval(
    cx: &Context,
    op: Opcode,
    attrs: &Attrs,
    operands: &[&Tensor],
    dims: &[usize],
) -> Result<Tensor, Diag> {
    let call = Call { cx, attrs, operands, dims };
    let data = match op.info().class {
        Class::Unary(f) => elementwise::unary(&call, op, f)?,
        Class::Binary(b) => elementwise::binary(&call, b)?,
        Class::Contract(Contract::Conv2d) => conv::conv2d(&call)?,
        Class::Contract(Contract::Linear) => contract::linear(&call)?,
        Class::Contract(Contract::MatMul) => contract::matmul(&call)?,
        Class::Pool(p) => pool::pool(&call, p)?,
        Class::Reduce(r) => norm::reduce(&call, r)?,
        Class::Norm(n) => norm::normalize(&call, n)?,
        Class::Move(_) | Class::Cast(_) | Class::Int(_) => {
            return Err(Diag::new(Code::VERIFY, format!("`{}` is not real arithmetic", op.name())));
        }
    };
    Ok(Tensor { dims: dims.to_vec(), data: Data::F32(data) })
}
