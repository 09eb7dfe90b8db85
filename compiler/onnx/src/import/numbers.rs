//! Contents of constants, all integers widened, and arithmetic of two broadcast operands.

use qcc_ir::{Data, Elem, Int, Tensor, shape};

use crate::element::DataType;
use crate::fault::{Fault, Outcome};
use crate::rounding::towards_zero;

/// Elements of a constant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    /// Integers and booleans.
    Int(Vec<i64>),
    /// Floats.
    Float(Vec<f32>),
}

impl Numbers {
    /// The elements of a tensor.
    pub(crate) fn of(tensor: &Tensor) -> Numbers {
        match &tensor.data {
            Data::F32(v) => Numbers::Float(v.clone()),
            Data::I8(v) => Numbers::Int(v.iter().map(|&x| x.into()).collect()),
            Data::U8(v) => Numbers::Int(v.iter().map(|&x| x.into()).collect()),
            Data::I16(v) => Numbers::Int(v.iter().map(|&x| x.into()).collect()),
            Data::I32(v) => Numbers::Int(v.iter().map(|&x| x.into()).collect()),
            Data::I64(v) => Numbers::Int(v.clone()),
        }
    }

    /// Converts to another element type as `Cast` does: towards zero, and to booleans by being other than zero. A number
    /// that the type does not hold has no defined result and is refused, except infinities among 64-bit integers: exporters
    /// write logarithms of 0 that a selection discards later.
    pub(crate) fn cast(self, elem: &Elem) -> Outcome<Data> {
        match (self, elem) {
            (Numbers::Float(v), Elem::F32) => Ok(Data::F32(v)),
            (Numbers::Int(v), Elem::F32) => Ok(Data::F32(v.into_iter().map(|x| x as f32).collect())),
            (Numbers::Float(v), Elem::Bool) => Ok(Data::U8(v.into_iter().map(|x| u8::from(x != 0.0)).collect())),
            (Numbers::Int(v), Elem::Bool) => Ok(Data::U8(v.into_iter().map(|x| u8::from(x != 0)).collect())),
            (Numbers::Float(v), Elem::Int(int)) => {
                let whole = |x: f32| {
                    let inside = x.is_infinite() || x.abs() < 9.2e18;
                    if inside {
                        Ok(towards_zero(x.into()))
                    } else {
                        Err(Fault::shape(format!("{x} is no {}", int.name())))
                    }
                };
                Numbers::Int(v.into_iter().map(whole).collect::<Outcome<_>>()?).cast(elem)
            }
            (Numbers::Int(v), Elem::Int(int)) => {
                let (least, greatest) = (Int::min(*int), Int::max(*int));
                if let Some(x) = v.iter().find(|x| !(least..=greatest).contains(x)) {
                    return Err(Fault::shape(format!("{x} is no {}", int.name())));
                }
                Ok(match int {
                    Int::I4 | Int::I8 => Data::I8(narrow(v)),
                    Int::U4 | Int::U8 => Data::U8(narrow(v)),
                    Int::I16 => Data::I16(narrow(v)),
                    Int::I32 => Data::I32(narrow(v)),
                    Int::I64 => Data::I64(v),
                })
            }
            (_, Elem::Calibrated(_) | Elem::Uniform(_)) => Err(Fault::unsupported("a cast to a quantized type")),
        }
    }
}

impl Numbers {
    /// The same numbers as `Cast` writes them into a type: integers keep their low bits, as do floats in a type of less than 8 bits;
    /// another float must be a number of the type.
    pub(crate) fn wrapped(self, to: DataType) -> Outcome<Numbers> {
        let bits = to.bits();
        let Some((least, _)) = to.range().filter(|_| bits < 64) else { return Ok(self) };
        let low = |v: Vec<i64>| {
            let shift = 64 - bits;
            let one = |x: i64| {
                let low = x << shift;
                if least < 0 { low >> shift } else { (low.cast_unsigned() >> shift).cast_signed() }
            };
            Numbers::Int(v.into_iter().map(one).collect())
        };
        match self {
            Numbers::Int(v) => Ok(low(v)),
            Numbers::Float(v) if bits < 8 && v.iter().all(|x| x.is_finite() && x.abs() < 9.2e18) => {
                Ok(low(v.into_iter().map(|x| towards_zero(x.into())).collect()))
            }
            Numbers::Float(v) => Ok(Numbers::Float(v)),
        }
    }
}

/// Most elements of a constant that the importer makes.
pub(crate) const LARGE: usize = 1 << 24;

/// A boolean for each pair of elements.
pub(crate) fn compared(
    a: &Tensor,
    b: &Tensor,
    ints: impl Fn(i64, i64) -> bool,
    floats: impl Fn(f32, f32) -> bool,
) -> Outcome<Tensor> {
    let (dims, at) = broadcast(&[&a.dims, &b.dims])?;
    let pairs = at[0].iter().zip(&at[1]);
    let holds: Vec<u8> = match (Numbers::of(a), Numbers::of(b)) {
        (Numbers::Int(a), Numbers::Int(b)) => pairs.map(|(&i, &j)| u8::from(ints(a[i], b[j]))).collect(),
        (Numbers::Float(a), Numbers::Float(b)) => pairs.map(|(&i, &j)| u8::from(floats(a[i], b[j]))).collect(),
        _ => return Err(Fault::shape("the operands are of different types")),
    };
    Ok(Tensor::new(&dims, Data::U8(holds)))
}

/// The values in a narrower type that is known to hold them.
fn narrow<T: TryFrom<i64>>(values: Vec<i64>) -> Vec<T> {
    values.into_iter().filter_map(|x| T::try_from(x).ok()).collect()
}

/// The number of elements of a shape, for each of which the importer makes an entry of a list.
pub(crate) fn listed(dims: &[usize]) -> Outcome<usize> {
    let count = qcc_ir::Type::f32(dims).checked_elements().filter(|&n| n <= LARGE);
    count.ok_or_else(|| Fault::shape(format!("a constant of shape {dims:?} is too large")))
}

/// For each element of the result of broadcasting shapes, the positions of the operands' elements.
pub(crate) fn broadcast(shapes: &[&[usize]]) -> Outcome<(Vec<usize>, Vec<Vec<usize>>)> {
    let mut dims: Vec<usize> = Vec::new();
    for shape in shapes {
        dims = shape::broadcast(&dims, shape).map_err(Fault::shape)?;
    }
    let count = listed(&dims)?;
    let positions = |shape: &&[usize]| -> Vec<usize> {
        let lead = dims.len() - shape.len();
        let position = |mut i: usize| {
            let (mut position, mut stride) = (0, 1);
            for (axis, &extent) in dims.iter().enumerate().rev() {
                let index = i % extent;
                i /= extent;
                if let Some(&own) = axis.checked_sub(lead).and_then(|a| shape.get(a)) {
                    position += if own == 1 { 0 } else { index * stride };
                    stride *= own;
                }
            }
            position
        };
        (0..count).map(position).collect()
    };
    let positions = shapes.iter().map(positions).collect();
    Ok((dims, positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_follows_numpy() {
        let (dims, positions) = broadcast(&[&[2, 1], &[3]]).unwrap();
        assert_eq!(dims, [2, 3]);
        assert_eq!(positions, [vec![0, 0, 0, 1, 1, 1], vec![0, 1, 2, 0, 1, 2]]);
        assert_eq!(broadcast(&[&[], &[1]]).unwrap().1, [vec![0], vec![0]]);
        assert_eq!(broadcast(&[&[0], &[1]]).unwrap(), (vec![0], vec![vec![], vec![]]));
        assert!(broadcast(&[&[2], &[3]]).is_err());
        assert!(broadcast(&[&[1 << 30, 1], &[1 << 30]]).is_err());
    }

    #[test]
    fn casts() {
        let float = |v: f32, elem: Elem| Numbers::Float(vec![v]).cast(&elem);
        assert_eq!(float(-1.9, Elem::Int(Int::I64)), Ok(Data::I64(vec![-1])));
        assert_eq!(float(0.5, Elem::Bool), Ok(Data::U8(vec![1])));
        assert!(float(f32::NAN, Elem::Int(Int::I64)).is_err());
        assert!(float(1e20, Elem::Int(Int::I64)).is_err());
        assert!(float(256.0, Elem::Int(Int::U8)).is_err());
        assert_eq!(Numbers::Int(vec![-3]).cast(&Elem::F32), Ok(Data::F32(vec![-3.0])));
        assert!(Numbers::Int(vec![1 << 40]).cast(&Elem::Int(Int::I32)).is_err());
        let wrapped = |v: Numbers, to| v.wrapped(to);
        assert_eq!(wrapped(Numbers::Int(vec![300, -1]), DataType::U8), Ok(Numbers::Int(vec![44, 255])));
        assert_eq!(wrapped(Numbers::Float(vec![-9.0, 15.0]), DataType::I4), Ok(Numbers::Int(vec![7, -1])));
        assert_eq!(wrapped(Numbers::Float(vec![-3.0]), DataType::U2), Ok(Numbers::Int(vec![1])));
    }
}
