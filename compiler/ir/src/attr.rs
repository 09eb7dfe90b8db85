//! Names of attributes, each with the kind of its values: rows of [`crate::ops`] are made of these keys, and values are read and
//! set by them, so that neither a misspelled name nor a value of another kind compiles.
//!
//! ```
//! use qcc_ir::{Attrs, Opcode, attr};
//! assert_eq!(Attrs::new(Opcode::Conv2d).get(attr::GROUPS) + 1, 2);
//! ```
//! ```compile_fail
//! use qcc_ir::{Attrs, Opcode, attr};
//! let groups: f32 = Attrs::new(Opcode::Conv2d).get(attr::GROUPS);
//! ```
//! ```compile_fail
//! use qcc_ir::{Attrs, Opcode, attr};
//! Attrs::new(Opcode::Conv2d).get(attr::GRUOPS);
//! ```
//!
//! One spelling may belong to two keys of different kinds, such as `epsilon`; an operator has one of them.

use std::marker::PhantomData;

use crate::attrs::{Attr, AttrKind, AttrSchema, Body, Default};
use crate::types::Format;

/// An attribute: its spelling, and in its type the kind of its values.
pub struct Key<T> {
    name: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Key<T> {
        *self
    }
}

impl<T> Copy for Key<T> {}

/// A type of values of attributes.
pub trait AttrValue: Sized {
    /// The kind that it is.
    const KIND: AttrKind;

    /// The value, if it is of this kind.
    fn of(value: &Attr) -> Option<Self>;

    /// As a value of any kind.
    fn into_attr(self) -> Attr;
}

/// What an attribute of kind `T` can be set to.
pub trait AttrInput<T> {
    /// As a value.
    fn into_value(self) -> T;
}

impl<T: AttrValue> Key<T> {
    const fn new(name: &'static str) -> Key<T> {
        Key { name, kind: PhantomData }
    }

    /// Spelling in text.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// True if this key stands in the row of an operator as `schema`.
    pub fn is(self, schema: &AttrSchema) -> bool {
        schema.name == self.name && schema.kind == T::KIND
    }

    /// Column of an operator that must be given the attribute.
    pub(crate) const fn required(self) -> AttrSchema {
        AttrSchema { name: self.name, kind: T::KIND, default: None, range: None }
    }
}

macro_rules! kinds {
    ($($kind:ident: $value:ty, default $default:ty;)*) => {
        $(
            impl AttrValue for $value {
                const KIND: AttrKind = AttrKind::$kind;

                fn of(value: &Attr) -> Option<$value> {
                    match value {
                        Attr::$kind(v) => Some(v.clone()),
                        _ => None,
                    }
                }

                fn into_attr(self) -> Attr {
                    Attr::$kind(self)
                }
            }

            impl AttrInput<$value> for $value {
                fn into_value(self) -> $value {
                    self
                }
            }

            impl Key<$value> {
                /// Column of an operator that has the attribute with a default.
                pub(crate) const fn or(self, default: $default) -> AttrSchema {
                    let default = Some(Default::$kind(default));
                    AttrSchema { name: self.name, kind: AttrKind::$kind, default, range: None }
                }
            }
        )*
    };
}

kinds! {
    Int: i64, default i64;
    Ints: Vec<i64>, default &'static [i64];
    Float: f32, default f32;
    Bool: bool, default bool;
    Format: Format, default &'static Format;
}

impl AttrValue for Body {
    const KIND: AttrKind = AttrKind::Function;

    fn of(value: &Attr) -> Option<Body> {
        match value {
            Attr::Function(f) => Some(f.clone()),
            _ => None,
        }
    }

    fn into_attr(self) -> Attr {
        Attr::Function(self)
    }
}

impl AttrInput<Body> for Body {
    fn into_value(self) -> Body {
        self
    }
}

impl AttrInput<Vec<i64>> for &[usize] {
    fn into_value(self) -> Vec<i64> {
        self.iter().map(|&v| i64::try_from(v).unwrap_or(i64::MAX)).collect()
    }
}

impl<const N: usize> AttrInput<Vec<i64>> for [i64; N] {
    fn into_value(self) -> Vec<i64> {
        self.to_vec()
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $KEY:ident: $value:ty = $name:literal;)*) => {
        $($(#[doc = $doc])+ pub const $KEY: Key<$value> = Key::new($name);)*
    };
}

keys! {
    /// What is applied to each element.
    BODY: Body = "body";
    /// Extents of a window.
    KERNEL: Vec<i64> = "kernel";
    /// Distances between windows.
    STRIDES: Vec<i64> = "strides";
    /// What is around the operand: top, left, bottom, right of an image, or all dimensions' beginnings and then their ends.
    PADS: Vec<i64> = "pads";
    /// Distances between a window's elements.
    DILATIONS: Vec<i64> = "dilations";
    /// Groups of channels that a convolution keeps apart.
    GROUPS: i64 = "groups";
    /// The format that real weights are to have once they are quantized.
    WEIGHTS: Format = "weights";
    /// What an integer convolution reads outside its input: the input's zero point.
    PAD_VALUE: i64 = "pad_value";
    /// Whether padding counts as elements of a mean.
    COUNT_INCLUDE_PAD: bool = "count_include_pad";

    /// A dimension.
    AXIS: i64 = "axis";
    /// Dimensions that are reduced.
    AXES: Vec<i64> = "axes";
    /// Whether reduced dimensions stay with extent 1.
    KEEPDIMS: bool = "keepdims";
    /// Extents of the result.
    SHAPE: Vec<i64> = "shape";
    /// Dimensions of the operand, in the order of the result's.
    PERM: Vec<i64> = "perm";
    /// Where a slice begins.
    STARTS: Vec<i64> = "starts";
    /// What a slice ends before.
    ENDS: Vec<i64> = "ends";
    /// Distances between a slice's elements.
    STEPS: Vec<i64> = "steps";
    /// What padding consists of.
    VALUE: f32 = "value";
    /// Whether negative positions count from the end.
    WRAP: bool = "wrap";
    /// Type of the result of a cast.
    TO: i64 = "to";
    /// How many elements are selected.
    K: i64 = "k";
    /// Whether the greatest elements are selected, not the least.
    LARGEST: bool = "largest";
    /// Whether the last of equal elements counts.
    LAST: bool = "last";

    /// Least result of a real function.
    MIN: f32 = "min";
    /// Greatest result of a real function.
    MAX: f32 = "max";
    /// First parameter of a real function.
    ALPHA: f32 = "alpha";
    /// Second parameter of a real function.
    BETA: f32 = "beta";
    /// Factor of a real function.
    GAMMA: f32 = "gamma";
    /// Magnitude from which on a shrinking function is not 0.
    LAMBD: f32 = "lambd";
    /// What a shrinking function takes away.
    BIAS: f32 = "bias";
    /// Whether a function is approximated by a hyperbolic tangent.
    TANH: bool = "tanh";
    /// What is added to a variance.
    EPSILON: f32 = "epsilon";
    /// Whether deviations are from the mean, not from 0.
    CENTERED: bool = "centered";
    /// The code that deviations are from, or -1 for the mean.
    CENTER: i64 = "center";
    /// Whether the runtime for which a model was quantized computes with signed codes.
    SIGNED: bool = "signed";
    /// Bits behind the point of a float format.
    FRACTION: i64 = "fraction";
    /// An exponent to the base 2.
    EXPONENT: i64 = "exponent";
    /// Greatest number of a float format.
    GREATEST: f32 = "greatest";
    /// What becomes of greater numbers.
    OVERFLOW: i64 = "overflow";
    /// Whether a float format has a code for what is not a number.
    NAN: bool = "nan";

    /// Least integer result.
    LO: i64 = "lo";
    /// Greatest integer result.
    HI: i64 = "hi";
    /// Bits of an integer result.
    BITS: i64 = "bits";
    /// Multiplier of a requantization.
    MULT: i64 = "mult";
    /// Multipliers of a sum's terms.
    MULTS: Vec<i64> = "mults";
    /// `a` of `qcc_num::requant` equation (1).
    SHL: i64 = "shl";
    /// Fraction bits of `qcc_num::requant_f32`, which then is the rule, and `offset` the zero point; 0 for `qcc_num::requant`.
    F32_FRACTION_BITS: i64 = "f32_fraction_bits";
    /// `C` of `qcc_num::requant` equation (3), `qcc_num::affine` equation (5), or `qcc_num::wide` equation (21).
    OFFSET: i64 = "offset";
    /// `n` of `qcc_num::affine` equation (5).
    SHIFT: i64 = "shift";
    /// `R` of `qcc_num::requant` equation (2); 0 without a residual.
    RESIDUAL_MULT: i64 = "residual_mult";
    /// Zero point of the operand.
    ZERO: i64 = "zero";
    /// Zero points of the operands.
    ZEROS: Vec<i64> = "zeros";
    /// Zero point of the result.
    RESULT_ZERO: i64 = "result_zero";
    /// What is added to an integer variance.
    INT_EPSILON: i64 = "epsilon";
    /// Whether the least code is switched off.
    MASKED: bool = "masked";
    /// Whether 0 counts as half a code.
    HALF: bool = "half";
    /// Whether the high byte is taken.
    HIGH: bool = "high";
    /// Multipliers of a combination's terms.
    FACTORS: Vec<i64> = "factors";
    /// Positions after one another whose extrema are taken.
    ROWS: i64 = "rows";
    /// Exponent of the weights' scales.
    WEIGHT_EXPONENT: i64 = "weight_exponent";
    /// Exponent of the bias.
    BIAS_EXPONENT: i64 = "bias_exponent";
    /// Exponent of a greatest value.
    CEILING_EXPONENT: i64 = "ceiling_exponent";
    /// Whether results below 0 become 0.
    RECTIFY: bool = "rectify";
    /// Codes that are used to either side of a zero point.
    LEVELS: Vec<i64> = "levels";
    /// Which factor is meant.
    INDEX: i64 = "index";
}
