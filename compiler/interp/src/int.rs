//! `int.*`: the exact meaning of every integer operator, in plain loops. Kernels agree with it bit for bit.
//!
//! All rounding is in `qcc_num`. Sums are taken without overflow and one that does not fit its 32-bit accumulator is a
//! diagnostic, never a wrapped number. [`qcc_ir::infer_dims`] has checked shapes and attributes before any function here
//! runs, so that conversions of attributes lose nothing.

mod contract;
mod dynamic;
mod elementwise;
mod wide;
mod window;

use qcc_ir::diag::Code;
use qcc_ir::ops::IntOp;
use qcc_ir::{Attrs, Data, Diag, Tensor, Type};

use crate::context::Context;
use crate::element::widen;

/// Evaluates an `int.*` operator.
pub(crate) fn eval(
    cx: &Context,
    op: IntOp,
    attrs: &Attrs,
    operands: &[(&Tensor, &Type)],
    result: &Type,
) -> Result<Tensor, Diag> {
    let call = Call { cx, attrs, operands, dims: &result.dims };
    let data = match op {
        IntOp::Conv2d => Data::I32(contract::conv2d(&call)?),
        IntOp::Linear => Data::I32(contract::linear(&call)?),
        IntOp::Requant => Data::U8(contract::requant(&call, call.i32s(0)?, call.i32s(1)?, None)?),
        IntOp::QConv2d => {
            Data::U8(contract::requant(&call, &contract::conv2d(&call)?, call.i32s(3)?, call.residual()?)?)
        }
        IntOp::QLinear => {
            Data::U8(contract::requant(&call, &contract::linear(&call)?, call.i32s(3)?, call.residual()?)?)
        }
        IntOp::MatMul => Data::I32(contract::matmul(&call)?),
        IntOp::QMatMul => Data::U8(contract::qmatmul(&call)?),
        IntOp::Add => Data::U8(elementwise::add(&call)?),
        IntOp::Mul => Data::U8(elementwise::mul(&call)?),
        IntOp::Rescale => Data::U8(elementwise::rescale(&call)?),
        IntOp::ScaleChannels => Data::U8(elementwise::scale_channels(&call)?),
        IntOp::Lut => elementwise::lut(&call)?,
        IntOp::Lut2 => Data::U8(elementwise::lut2(&call)?),
        IntOp::Clamp => Data::U8(elementwise::clamp(&call)?),
        IntOp::MaxPool => window::max_pool(&call)?,
        IntOp::AveragePool => Data::U8(window::average_pool(&call)?),
        IntOp::Mean => Data::U8(window::mean(&call)?),
        IntOp::LayerNorm => elementwise::layer_norm(&call)?,
        IntOp::Softmax => elementwise::softmax(&call)?,
        IntOp::Extrema => Data::I32(dynamic::extrema(&call)?),
        IntOp::DynamicScale => Data::I32(dynamic::scale(&call)?),
        IntOp::DynamicRequant => Data::U8(dynamic::requant(&call)?),
        IntOp::AlignScales => Data::I32(dynamic::align(&call)?),
        IntOp::DynamicAdd => Data::I32(dynamic::add(&call)?),
        IntOp::Byte => Data::U8(wide::byte(&call)?),
        IntOp::Curve => wide::curve(&call)?,
        IntOp::Combine => wide::combine(&call)?,
        IntOp::WideMul => wide::mul(&call)?,
        IntOp::WideDiv => wide::div(&call)?,
        IntOp::CommonScale => Data::I32(dynamic::common(&call)?),
        IntOp::DynamicRescale => dynamic::rescale(&call)?,
        IntOp::ProductScale => Data::I32(dynamic::product_scale(&call)?),
        IntOp::DynamicMul => Data::I32(dynamic::multiply(&call)?),
        IntOp::DynamicTable => Data::I32(dynamic::table(&call)?),
        IntOp::DynamicCurve => Data::I32(dynamic::curve(&call)?),
        IntOp::ExpTable => Data::I32(dynamic::exponentials(&call)?),
        IntOp::DynamicNorm => Data::I32(dynamic::norm(&call)?),
        IntOp::DynamicLut => Data::U8(dynamic::look_up(&call)?),
    };
    Ok(Tensor { dims: result.dims.clone(), data })
}

/// An operation with access to its parts.
struct Call<'a> {
    cx: &'a Context,
    attrs: &'a Attrs,
    operands: &'a [(&'a Tensor, &'a Type)],
    /// Shape of the result.
    dims: &'a [usize],
}

impl<'a> Call<'a> {
    fn dims_of(&self, i: usize) -> &'a [usize] {
        &self.operands[i].0.dims
    }

    fn wrong(&self, i: usize, wanted: &str) -> Diag {
        let found = self.operands[i].0.data.kind();
        Diag::new(Code::VERIFY, format!("operand {i} of an integer operator is {found} and not {wanted}"))
    }

    fn u8s(&self, i: usize) -> Result<&'a [u8], Diag> {
        self.operands[i].0.as_u8().ok_or_else(|| self.wrong(i, "u8"))
    }

    fn i8s(&self, i: usize) -> Result<&'a [i8], Diag> {
        self.operands[i].0.as_i8().ok_or_else(|| self.wrong(i, "i8"))
    }

    fn i16s(&self, i: usize) -> Result<&'a [i16], Diag> {
        self.operands[i].0.as_i16().ok_or_else(|| self.wrong(i, "i16"))
    }

    fn i32s(&self, i: usize) -> Result<&'a [i32], Diag> {
        self.operands[i].0.as_i32().ok_or_else(|| self.wrong(i, "i32"))
    }

    fn i64s(&self, i: usize) -> Result<&'a [i64], Diag> {
        self.operands[i].0.as_i64().ok_or_else(|| self.wrong(i, "i64"))
    }

    /// Integers of any storage in 64 bits.
    fn integers(&self, i: usize) -> Result<Vec<i64>, Diag> {
        widen(&self.operands[i].0.data).ok_or_else(|| self.wrong(i, "integers"))
    }

    /// The residual of a contraction, operand 4, if there is one.
    fn residual(&self) -> Result<Option<&'a [u8]>, Diag> {
        if self.operands.len() > 4 { self.u8s(4).map(Some) } else { Ok(None) }
    }
}

/// A sum as an accumulator.
fn accumulator(sum: i64) -> Result<i32, Diag> {
    i32::try_from(sum)
        .map_err(|_| Diag::new(Code::OVERFLOW, format!("the sum {sum} does not fit a 32-bit accumulator")))
}
