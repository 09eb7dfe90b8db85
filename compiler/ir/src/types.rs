//! Tensor types. Quantization is part of the type, spelled as MLIR's Quant dialect spells it:
//!
//! ```text
//! tensor<1x3x32x32xf32>                                        real numbers
//! tensor<1x3x32x32x!quant.calibrated<f32<-2.1:2.6>>>           real numbers whose range is known
//! tensor<1x3x32x32x!quant.uniform<u8:f32, 0.0186:114>>         r = 0.0186 * (q - 114)
//! tensor<8x3x3x3x!quant.uniform<i8<-127:127>:f32:0, {0.1, 0.2:3}>>   one scale (and zero point) per index of axis 0
//! tensor<1x8x!quant.uniform<i8<[-2, -1, 0, 1, 2]>:f32, 0.1>>   integers of a list, which MLIR has no spelling for
//! tensor<1x32x32x3xu8>                                         plain integers
//! ```

use std::fmt;
use std::sync::Arc;

pub use qcc_num::format::{self, Format, Int};

/// Shape and element type of a value. All dimensions are static and in the order of the ONNX model (NCHW) for `nn.*`
/// operators; `int.*` operators with a spatial meaning are NHWC.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    /// Extent of each dimension; empty for a scalar.
    pub dims: Vec<usize>,
    /// What the elements are.
    pub elem: Elem,
}

/// Element type.
#[derive(Debug, Clone, PartialEq)]
pub enum Elem {
    /// IEEE 754 single precision.
    F32,
    /// Truth value, one byte.
    Bool,
    /// Plain integer without a scale.
    Int(Int),
    /// Single precision with a known range: after calibration, before scales are assigned.
    Calibrated(Range),
    /// Integer that stands for a real number by an affine map.
    Uniform(Arc<Uniform>),
}

/// Closed interval of real numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
}

/// Affine quantization `r = scale * (q - zero_point)`, `q` an integer of the format, per tensor or per index of one axis
/// (Jacob et al. 2018, equation 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Uniform {
    /// Which integers are used, and how they are stored.
    pub format: Format,
    /// The axis along which scales differ; `None` for one scale.
    pub axis: Option<usize>,
    /// Scales, finite and positive: one, or one per index of the axis.
    pub scales: Vec<f32>,
    /// Zero points, as many as scales.
    pub zero_points: Vec<i64>,
}

impl Range {
    /// The range, widened to contain zero, as quantization needs it (Jacob et al. 2018, section 2.1).
    pub fn with_zero(self) -> Range {
        Range { min: self.min.min(0.0), max: self.max.max(0.0) }
    }

    /// The least range that contains both.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// True if both ends are finite and in order.
    pub fn is_valid(self) -> bool {
        self.min.is_finite() && self.max.is_finite() && self.min <= self.max
    }
}

impl Uniform {
    /// One scale and zero point.
    pub fn per_tensor(format: impl Into<Format>, scale: f32, zero_point: i64) -> Uniform {
        Uniform { format: format.into(), axis: None, scales: vec![scale], zero_points: vec![zero_point] }
    }

    /// A scale for each index of `axis`, with zero point 0.
    pub fn per_axis(format: impl Into<Format>, axis: usize, scales: Vec<f32>) -> Uniform {
        Uniform { format: format.into(), axis: Some(axis), zero_points: vec![0; scales.len()], scales }
    }

    /// One scale and zero point with which the integers cover `range`, widened to contain zero; zero is represented exactly.
    pub fn covering(format: impl Into<Format>, range: Range) -> Uniform {
        let (format, range) = (format.into(), range.with_zero());
        let (scale, zero_point) = format.cover(range.min, range.max);
        Uniform::per_tensor(format, scale, zero_point)
    }

    /// How an integer is stored.
    pub fn storage(&self) -> Int {
        self.format.storage()
    }

    /// Least integer.
    pub fn min(&self) -> i64 {
        self.format.min()
    }

    /// Greatest integer.
    pub fn max(&self) -> i64 {
        self.format.max()
    }

    /// The real interval that the integers cover, per tensor.
    pub fn range(&self) -> Range {
        self.range_at(0)
    }

    /// The real interval that the integers cover at index `i` of the axis.
    pub fn range_at(&self, i: usize) -> Range {
        let (s, z) = (f64::from(self.scales[i]), self.zero_points[i]);
        let end = |q: i64| qcc_num::fixed::to_f32(s * (q - z) as f64);
        Range { min: end(self.min()), max: end(self.max()) }
    }

    /// The scale if there is only one.
    pub fn scale(&self) -> f32 {
        self.scales[0]
    }

    /// The zero point if there is only one.
    pub fn zero_point(&self) -> i64 {
        self.zero_points[0]
    }
}

impl Type {
    /// A float tensor.
    pub fn f32(dims: &[usize]) -> Type {
        Type { dims: dims.to_vec(), elem: Elem::F32 }
    }

    /// A plain integer tensor.
    pub fn int(int: Int, dims: &[usize]) -> Type {
        Type { dims: dims.to_vec(), elem: Elem::Int(int) }
    }

    /// The same shape with another element type.
    pub fn with_elem(&self, elem: Elem) -> Type {
        Type { dims: self.dims.clone(), elem }
    }

    /// The same element type with another shape.
    pub fn with_dims(&self, dims: &[usize]) -> Type {
        Type { dims: dims.to_vec(), elem: self.elem.clone() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements. The verifier refuses shapes whose product overflows.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Number of elements, if that many fit the address space at the greatest size of an element.
    pub fn checked_elements(&self) -> Option<usize> {
        // Extents of zero do not count, so that no partial product overflows either.
        let product = self.dims.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d))?;
        isize::try_from(product.checked_mul(8)?).ok()?;
        Some(self.elements())
    }

    /// The quantization, if there is one.
    pub fn uniform(&self) -> Option<&Arc<Uniform>> {
        match &self.elem {
            Elem::Uniform(u) => Some(u),
            Elem::F32 | Elem::Bool | Elem::Int(_) | Elem::Calibrated(_) => None,
        }
    }

    /// True for elements that are computed in floating point.
    pub fn is_float(&self) -> bool {
        matches!(self.elem, Elem::F32 | Elem::Calibrated(_))
    }
}

impl Elem {
    /// The integer in which elements are stored, `None` for floats and truth values.
    pub fn storage(&self) -> Option<Int> {
        match self {
            Elem::Int(i) => Some(*i),
            Elem::Uniform(u) => Some(u.storage()),
            Elem::F32 | Elem::Bool | Elem::Calibrated(_) => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for d in &self.dims {
            write!(f, "{d}x")?;
        }
        write!(f, "{}>", self.elem)
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::F32 => f.write_str("f32"),
            Elem::Bool => f.write_str("bool"),
            Elem::Int(i) => f.write_str(i.name()),
            Elem::Calibrated(r) => write!(f, "!quant.calibrated<f32<{:?}:{:?}>>", r.min, r.max),
            Elem::Uniform(u) => u.fmt(f),
        }
    }
}

impl fmt::Display for Uniform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "!quant.uniform<{}:f32", self.format)?;
        if let Some(axis) = self.axis {
            write!(f, ":{axis}, {{")?;
        } else {
            f.write_str(", ")?;
        }
        for (i, (scale, zero)) in self.scales.iter().zip(&self.zero_points).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{scale:?}")?;
            if *zero != 0 {
                write!(f, ":{zero}")?;
            }
        }
        f.write_str(if self.axis.is_some() { "}>" } else { ">" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_follows_mlir() {
        let u = Uniform::per_tensor(Int::I8, 0.0186, -14);
        assert_eq!(u.to_string(), "!quant.uniform<i8:f32, 0.0186:-14>");
        let axis = Uniform { zero_points: vec![0, 3], ..Uniform::per_axis(&format::I8, 0, vec![0.1, 0.2]) };
        assert_eq!(axis.to_string(), "!quant.uniform<i8<-127:127>:f32:0, {0.1, 0.2:3}>");
        let levels = Format::levels(Int::I8, vec![-2, 0, 2]).expect("levels ascend");
        assert_eq!(Uniform::per_tensor(levels, 0.5, 0).to_string(), "!quant.uniform<i8<[-2, 0, 2]>:f32, 0.5>");
        assert_eq!(Type::f32(&[1, 3]).to_string(), "tensor<1x3xf32>");
    }

    #[test]
    fn ranges_are_widened_to_contain_zero() {
        let zero = |format: &Format, min, max| Uniform::covering(format, Range { min, max }).zero_point();
        assert_eq!(zero(&format::I16, 1.0, 3.0), -32768);
        assert_eq!(zero(&format::I16, -1.0, 1.0).abs(), 0);
        assert_eq!(zero(&format::U8, 1.0, 3.0), 0);
        assert_eq!(zero(&format::U8, -3.0, -1.0), 255);
        assert_eq!(Uniform::per_tensor(&format::U8, 0.5, 2).range(), Range { min: -1.0, max: 126.5 });
    }
}
