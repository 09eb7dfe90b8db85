//! Real numbers in and out of an integer model, by the equations of its float interface.

use qcc_ir::{Data, Elem, Int, Tensor, Type};
use qcc_num::dynamic::SCALE_SUFFIX;
use qcc_num::edge;
use qcc_runtime::manifest::Declared;
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
            Some(u) => (Some((u.scale(), u.zero_point() as i32)), (u.min() as i32, u.max() as i32)),
            None => (None, (0, 0)),
        };
        // As a compiled model declares it: its booleans are bytes.
        let elem = match ty.elem {
            Elem::Bool => Elem::Int(Int::U8),
            _ => ty.elem.storage().map_or(ty.elem.clone(), Elem::Int),
        };
        Boundary { dims: ty.dims.clone(), elem, quant, bounds }
    }

    /// Of a tensor of a compiled model.
    pub fn of_info(info: &TensorInfo) -> Boundary {
        let elem = element_type(info.dtype);
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
                elements_of(v.iter().map(|&x| edge::quantize(x, scale, zero, lo, hi).into()), &self.elem)
            }
            (data, _) => qcc_ir::for_data!(data, v => elements_of(v.iter().map(|&x| x as f64), &self.elem)),
        };
        Tensor { dims: self.dims.clone(), data }
    }

    /// The real numbers that stored integers stand for; plain integers stay what they are.
    pub fn real(&self, tensor: &Tensor) -> Tensor {
        let Some((scale, zero)) = self.quant else { return tensor.clone() };
        let reals = qcc_ir::for_data!(&tensor.data, v =>
            v.iter().map(|&x| edge::dequantize(x as f64 as i32, scale, zero)).collect());
        Tensor { dims: tensor.dims.clone(), data: Data::F32(reals) }
    }
}

impl Boundary {
    /// How a model's file declares a tensor that it holds as integers: as codes with a scale, or as plain integers.
    pub fn declared(dims: &[usize], declared: &Declared) -> Option<Boundary> {
        let int = Int::from_name(&declared.dtype)?;
        let quant = (declared.scale > 0.0).then_some((declared.scale, declared.zero_point));
        let saturate = |x: i64| x.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        let bounds = (saturate(int.min()), saturate(int.max()));
        Some(Boundary { dims: dims.to_vec(), elem: Elem::Int(int), quant, bounds })
    }

    /// What a tensor that is declared so stands for, as real numbers if `stored` has a scale.
    pub fn meaning(&self, tensor: &Tensor, stored: &Boundary) -> Tensor {
        match (self.quant, stored.quant) {
            (None, Some(_)) => {
                let data = qcc_ir::for_data!(&tensor.data, v => elements_of(v.iter().map(|&x| x as f64), &Elem::F32));
                Tensor { dims: tensor.dims.clone(), data }
            }
            _ => self.real(tensor),
        }
    }

    /// What is stored for the real inputs of a model, whose dynamic scales follow them.
    pub fn store_all(all: &[Boundary], scales: &[Option<usize>], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut stored = Vec::with_capacity(all.len());
        let mut pairs = Vec::new();
        for ((boundary, scale), tensor) in all.iter().zip(scales).zip(inputs) {
            match (&tensor.data, scale) {
                (Data::F32(v), Some(_)) => {
                    let pair = edge::run_time_scale(v);
                    let own = Boundary {
                        quant: boundary.quant.map(|(_, zero)| (edge::real_scale(pair), zero)),
                        ..boundary.clone()
                    };
                    stored.push(own.store(tensor));
                    pairs.push(Tensor::new(&[2], Data::I32(pair.to_vec())));
                }
                _ => stored.push(boundary.store(tensor)),
            }
        }
        stored.extend(pairs);
        stored
    }

    /// The real outputs of a model, from what is stored and the dynamic scales.
    pub fn real_all(all: &[Boundary], scales: &[Option<usize>], outputs: &[Tensor]) -> Vec<Tensor> {
        let one = |((boundary, scale), tensor): ((&Boundary, &Option<usize>), &Tensor)| match scale
            .and_then(|s| outputs.get(s))
            .and_then(Tensor::as_i32)
        {
            Some(&[mantissa, exponent]) => {
                let scale = edge::real_scale([mantissa, exponent]);
                Boundary { quant: boundary.quant.map(|(_, zero)| (scale, zero)), ..boundary.clone() }.real(tensor)
            }
            _ => boundary.real(tensor),
        };
        all.iter().zip(scales).zip(outputs).map(one).collect()
    }
}

/// The position of the run-time scale of each tensor that stands for real numbers; scales themselves, which come last, are
/// left out.
pub(crate) fn dynamic_scales(names: &[(String, Vec<usize>)], all: &[Boundary]) -> Vec<Option<usize>> {
    let scale_of = |i: usize| {
        let name = format!("{}{SCALE_SUFFIX}", names[i].0);
        let is_pair = |j: &usize| all[*j].elem == Elem::Int(Int::I32) && names[*j].1 == [2] && names[*j].0 == name;
        (0..names.len()).find(is_pair).filter(|_| all[i].quant.is_some())
    };
    let scales: Vec<Option<usize>> = (0..names.len()).map(scale_of).collect();
    (0..names.len()).filter(|&i| !scales.contains(&Some(i))).map(|i| scales[i]).collect()
}

/// A view of a tensor for a call of a compiled model.
pub(crate) fn view<'a>(tensor: &'a Tensor, dims: &'a [usize]) -> qcc_runtime::TensorRef<'a> {
    qcc_ir::for_data!(&tensor.data, v => qcc_runtime::TensorRef::new(dims, v))
}

/// The element type of a tensor of a compiled model.
fn element_type(dtype: DType) -> Elem {
    match dtype {
        DType::F32 => Elem::F32,
        DType::U8 => Elem::Int(Int::U8),
        DType::I8 => Elem::Int(Int::I8),
        DType::I16 => Elem::Int(Int::I16),
        DType::I32 => Elem::Int(Int::I32),
        DType::I64 => Elem::Int(Int::I64),
    }
}

/// A tensor that a compiled model gave.
pub(crate) fn taken(tensor: &qcc_runtime::Tensor) -> Tensor {
    let elem = element_type(tensor.dtype());
    let data = Data::from_bytes(&elem, tensor.bytes()).unwrap_or(Data::U8(Vec::new()));
    Tensor { dims: tensor.dims().to_vec(), data }
}
