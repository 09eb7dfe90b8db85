//! Tensor types. Quantization is part of the type, spelled as MLIR's Quant dialect spells it:
//!
//! ```text
//! tensor<1x3x32x32xf32>                                        real numbers
//! tensor<1x3x32x32x!quant.calibrated<f32<-2.1:2.6>>>           real numbers whose range is known
//! tensor<1x3x32x32x!quant.uniform<u8:f32, 0.0186:114>>         r = 0.0186 * (q - 114)
//! tensor<8x3x3x3x!quant.uniform<i8<-127:127>:f32:0, {0.1, 0.2:3}>>   one scale (and zero point) per index of axis 0
//! tensor<1x32x32x3xu8>                                         plain integers
//! ```

use std::fmt;
use std::sync::Arc;

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

/// Integer storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Int {
    /// 4 bits, signed; two to a byte where stored.
    I4,
    /// 4 bits, unsigned.
    U4,
    /// 8 bits, signed.
    I8,
    /// 8 bits, unsigned.
    U8,
    /// 16 bits, signed.
    I16,
    /// 32 bits, signed.
    I32,
    /// 64 bits, signed: indices and shapes.
    I64,
}

/// Closed interval of real numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
}

/// Affine quantization `r = scale * (q - zero_point)`, `q` in `[min, max]`, per tensor or per index of one axis
/// (Jacob et al. 2018, equation 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Uniform {
    /// How the integer is stored.
    pub storage: Int,
    /// Least and greatest integer used; a part of what the storage holds.
    pub min: i64,
    /// Greatest integer used.
    pub max: i64,
    /// The axis along which scales differ; `None` for one scale.
    pub axis: Option<usize>,
    /// Scales, finite and positive: one, or one per index of the axis.
    pub scales: Vec<f32>,
    /// Zero points, as many as scales.
    pub zero_points: Vec<i64>,
}

impl Int {
    /// All storages, in the order of their width.
    pub const ALL: [Int; 7] = [Int::I4, Int::U4, Int::I8, Int::U8, Int::I16, Int::I32, Int::I64];

    /// Spelling in text.
    pub fn name(self) -> &'static str {
        match self {
            Int::I4 => "i4",
            Int::U4 => "u4",
            Int::I8 => "i8",
            Int::U8 => "u8",
            Int::I16 => "i16",
            Int::I32 => "i32",
            Int::I64 => "i64",
        }
    }

    /// The storage spelled `name`.
    pub fn from_name(name: &str) -> Option<Int> {
        Int::ALL.into_iter().find(|i| i.name() == name)
    }

    /// Least storable value.
    pub fn min(self) -> i64 {
        match self {
            Int::U4 | Int::U8 => 0,
            Int::I4 => -8,
            Int::I8 => i64::from(i8::MIN),
            Int::I16 => i64::from(i16::MIN),
            Int::I32 => i64::from(i32::MIN),
            Int::I64 => i64::MIN,
        }
    }

    /// Greatest storable value.
    pub fn max(self) -> i64 {
        match self {
            Int::I4 => 7,
            Int::U4 => 15,
            Int::I8 => i64::from(i8::MAX),
            Int::U8 => i64::from(u8::MAX),
            Int::I16 => i64::from(i16::MAX),
            Int::I32 => i64::from(i32::MAX),
            Int::I64 => i64::MAX,
        }
    }

    /// Bits of storage.
    pub fn bits(self) -> u32 {
        match self {
            Int::I4 | Int::U4 => 4,
            Int::I8 | Int::U8 => 8,
            Int::I16 => 16,
            Int::I32 => 32,
            Int::I64 => 64,
        }
    }
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
    /// One scale and zero point over the whole range of `storage`.
    pub fn per_tensor(storage: Int, scale: f32, zero_point: i64) -> Uniform {
        Uniform {
            storage,
            min: storage.min(),
            max: storage.max(),
            axis: None,
            scales: vec![scale],
            zero_points: vec![zero_point],
        }
    }

    /// Asymmetric `u8` that covers `range`, which is widened to contain zero; zero is represented exactly.
    pub fn u8_for(range: Range) -> Uniform {
        let range = range.with_zero();
        // A value that is always zero still needs a positive scale.
        let span = (f64::from(range.max) - f64::from(range.min)).max(1e-30);
        let scale = ((span / 255.0) as f32).max(f32::MIN_POSITIVE);
        let zero_point = (-f64::from(range.min) / f64::from(scale)).round().clamp(0.0, 255.0) as i64;
        Uniform::per_tensor(Int::U8, scale, zero_point)
    }

    /// Asymmetric `i16` that covers `range`, which is widened to contain zero; zero is represented exactly.
    pub fn i16_for(range: Range) -> Uniform {
        let range = range.with_zero();
        let span = (f64::from(range.max) - f64::from(range.min)).max(1e-30);
        let scale = ((span / 65535.0) as f32).max(f32::MIN_POSITIVE);
        let zero_point = (-f64::from(range.min) / f64::from(scale)).round().clamp(0.0, 65535.0) as i64 - 32768;
        Uniform::per_tensor(Int::I16, scale, zero_point)
    }

    /// The real interval that the integers cover, per tensor.
    pub fn range(&self) -> Range {
        let (s, z) = (f64::from(self.scales[0]), self.zero_points[0]);
        Range { min: (s * (self.min - z) as f64) as f32, max: (s * (self.max - z) as f64) as f32 }
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
            Elem::Uniform(u) => Some(u.storage),
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
        write!(f, "!quant.uniform<{}", self.storage.name())?;
        if (self.min, self.max) != (self.storage.min(), self.storage.max()) {
            write!(f, "<{}:{}>", self.min, self.max)?;
        }
        f.write_str(":f32")?;
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
        let axis = Uniform { axis: Some(0), min: -127, scales: vec![0.1, 0.2], zero_points: vec![0, 3], ..u };
        assert_eq!(axis.to_string(), "!quant.uniform<i8<-127:127>:f32:0, {0.1, 0.2:3}>");
        assert_eq!(Type::f32(&[1, 3]).to_string(), "tensor<1x3xf32>");
    }

    #[test]
    fn zero_is_exact_whatever_the_range() {
        for (min, max) in [(-1.0, 1.0), (0.2, 3.0), (-7.0, -2.0), (0.0, 0.0), (-1e30, 1e30)] {
            let u = Uniform::u8_for(Range { min, max });
            assert!(
                u.scale() > 0.0 && u.scale().is_finite() && (0..=255).contains(&u.zero_point()),
                "{min} {max}: {u}"
            );
        }
        assert_eq!(Uniform::i16_for(Range { min: 1.0, max: 3.0 }).zero_point(), -32768);
        assert_eq!(Uniform::i16_for(Range { min: -1.0, max: 1.0 }).zero_point().abs(), 0);
        assert_eq!(Uniform::u8_for(Range { min: 1.0, max: 3.0 }).zero_point(), 0);
        assert_eq!(Uniform::u8_for(Range { min: -3.0, max: -1.0 }).zero_point(), 255);
    }
}
