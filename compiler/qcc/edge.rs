//! Real numbers in and out of an integer model, by the equations of its float edge.

use qcc_ir::{Data, Elem, Int, Tensor, Type};
use qcc_num::edge;
use qcc_runtime::{DType, TensorInfo};

use crate::data::array::elements_of;

/// How the stored integers of a tensor stand for real numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Boundary {
    pub dims: Vec<usize>,
    /// Plain storage.
    pub elem: Elem,
    /// Scale and zero point; `None` for plain numbers.
    pub quant: Option<(f32, i32)>,
    /// Least and greatest stored integer.
    bounds: (i32, i32),
}

impl Boundary {
    /// Of a value of a graph. Only inputs and outputs are asked for, whose scale is the same for all elements.
    pub fn of_type(ty: &Type) -> Boundary {
        let (quant, bounds) = match ty.uniform() {
            Some(u) => (Some((u.scale(), u.zero_point() as i32)), (u.min as i32, u.max as i32)),
            None => (None, (0, 0)),
        };
        let elem = ty.elem.storage().map_or(ty.elem.clone(), Elem::Int);
        Boundary { dims: ty.dims.clone(), elem, quant, bounds }
    }

    /// Of a tensor of a compiled model.
    pub fn of_info(info: &TensorInfo) -> Boundary {
        let elem = match info.dtype {
            DType::F32 => Elem::F32,
            DType::U8 => Elem::Int(Int::U8),
            DType::I8 => Elem::Int(Int::I8),
            DType::I16 => Elem::Int(Int::I16),
            DType::I32 => Elem::Int(Int::I32),
            DType::I64 => Elem::Int(Int::I64),
        };
        let bounds = elem.storage().map_or((0, 0), |i| {
            let saturate = |x: i64| x.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            (saturate(i.min()), saturate(i.max()))
        });
        Boundary { dims: info.dims.clone(), elem, quant: info.quant.map(|q| (q.scale, q.zero_point)), bounds }
    }

    /// What is stored for real numbers; plain numbers, and what is stored already, stay as they are.
    pub fn store(&self, tensor: &Tensor) -> Tensor {
        let (lo, hi) = self.bounds;
        let data = match (&tensor.data, self.quant) {
            (data, _) if data.holds(&self.elem) => data.clone(),
            (Data::F32(v), Some((scale, zero))) => {
                let inverse = 1.0 / scale;
                elements_of(v.iter().map(|&x| edge::quantize(x, inverse, zero, lo, hi).into()), &self.elem)
            }
            (data, _) => qcc_ir::for_data!(data, v => elements_of(v.iter().map(|&x| x as f64), &self.elem)),
        };
        Tensor { dims: self.dims.clone(), data }
    }

    /// The real numbers that stored integers stand for.
    pub fn real(&self, tensor: &Tensor) -> Tensor {
        let Some((scale, zero)) = self.quant else {
            let data = qcc_ir::for_data!(&tensor.data, v => elements_of(v.iter().map(|&x| x as f64), &Elem::F32));
            return Tensor { dims: tensor.dims.clone(), data };
        };
        let reals = qcc_ir::for_data!(&tensor.data, v =>
            v.iter().map(|&x| edge::dequantize(x as f64 as i32, scale, zero)).collect());
        Tensor { dims: tensor.dims.clone(), data: Data::F32(reals) }
    }
}

/// A view of a tensor for a call of a compiled model.
pub(crate) fn view<'a>(tensor: &'a Tensor, dims: &'a [usize]) -> qcc_runtime::TensorRef<'a> {
    qcc_ir::for_data!(&tensor.data, v => qcc_runtime::TensorRef::new(dims, v))
}

/// A tensor that a compiled model gave.
pub(crate) fn taken(tensor: &qcc_runtime::Tensor) -> Tensor {
    let elem = match tensor.dtype() {
        DType::F32 => Elem::F32,
        DType::U8 => Elem::Int(Int::U8),
        DType::I8 => Elem::Int(Int::I8),
        DType::I16 => Elem::Int(Int::I16),
        DType::I32 => Elem::Int(Int::I32),
        DType::I64 => Elem::Int(Int::I64),
    };
    let data = Data::from_bytes(&elem, tensor.bytes()).unwrap_or(Data::U8(Vec::new()));
    Tensor { dims: tensor.dims().to_vec(), data }
}
