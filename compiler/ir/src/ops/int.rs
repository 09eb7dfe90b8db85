//! What is known of the integer operators beside their rows in [`super::OPS`]: one row each, whose columns verifier, passes and
//! planner read, so that most of them need not know an operator that is added.

use crate::attr::{self, Key};
use crate::types::Int;

/// What an integer operator takes, gives and does with elements.
#[derive(Clone, Copy)]
pub struct IntForm {
    /// Storages that each operand may have, the usual one first; the last entry is for all further operands, too.
    pub takes: &'static [&'static [Int]],
    /// Storage of the result.
    pub gives: Gives,
    /// What is summed up in 32-bit accumulators, if their bounds depend on operands or extents.
    pub sums: Sums,
    /// How the first operand is read.
    pub reads: Reads,
    /// How many of the first operands are data, which lie as the result does or are broadcast to it; the others are parameters.
    pub data: usize,
    /// Whether the operator can be computed on data whose dimensions are in another order.
    pub order: Order,
}

/// Storage of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// Always this one.
    Always(Int),
    /// That of an operand.
    Operand(usize),
    /// u8, or i16 where the attribute `bits` is 16, or i32 where it is 32.
    Bits,
}

/// Sums in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// None, or such as cannot overflow by the operator's rule.
    None,
    /// Products with weights, operand 1, and a bias.
    Weights,
    /// Products of the last dimension of operand 0 with operand 1.
    Products,
    /// The elements of a window.
    Window,
    /// The elements along `axes`.
    Axes,
}

/// How an operand is read.
#[derive(Clone, Copy)]
pub enum Reads {
    /// Each element by itself.
    Elements,
    /// Rows of the last dimension, and a few bytes behind them.
    Rows,
    /// Windows over height and width; around them is the number that an attribute says, or the least one.
    Windows(Option<Key<i64>>),
}

/// Orders of dimensions that an operator can do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Only the one that it is defined for.
    Fixed,
    /// Any one in which the last dimension is the last.
    LastStays,
    /// Any one.
    Free,
}

const U8: &[Int] = &[Int::U8];
const I8: &[Int] = &[Int::I8];
const I16: &[Int] = &[Int::I16];
const I32: &[Int] = &[Int::I32];
const I64: &[Int] = &[Int::I64];
/// Codes of 8 or 16 bits.
const CODES: &[Int] = &[Int::U8, Int::I16];

/// Takes and gives bytes.
const BYTES: IntForm = IntForm {
    takes: &[U8],
    gives: Gives::Always(Int::U8),
    sums: Sums::None,
    reads: Reads::Elements,
    data: 1,
    order: Order::Fixed,
};
/// Gives 32-bit numbers.
const WIDE: IntForm = IntForm { gives: Gives::Always(Int::I32), ..BYTES };
/// A function of one element, or of several at the same position.
const ELEMENTS: IntForm = IntForm { order: Order::Free, ..BYTES };
const CONV: IntForm = IntForm { takes: &[U8, I8, I32, I32, U8], reads: Reads::Windows(Some(attr::PAD_VALUE)), ..BYTES };
const LINEAR: IntForm = IntForm { reads: Reads::Rows, ..CONV };
const MATMUL: IntForm = IntForm { reads: Reads::Rows, ..BYTES };
const ACCUMULATORS: Gives = Gives::Always(Int::I32);
const ALL: usize = usize::MAX;

// In parentheses stands what is summed up in 32 bits: nobody adds an operator without saying what bounds its accumulators.
macro_rules! int_ops {
    ($($op:ident ($sums:ident) = $form:expr;)*) => {
        /// Integer operators.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum IntOp {
            $($op),*
        }

        static FORMS: &[IntForm] = &[$(IntForm { sums: Sums::$sums, ..$form }),*];
    };
}

int_ops! {
    Conv2d (Weights) = IntForm { gives: ACCUMULATORS, ..CONV };
    Linear (Weights) = IntForm { gives: ACCUMULATORS, ..LINEAR };
    Requant (None) = IntForm { takes: &[I32, I32], ..BYTES };
    QConv2d (Weights) = CONV;
    QLinear (Weights) = LINEAR;
    MatMul (Products) = IntForm { gives: ACCUMULATORS, ..MATMUL };
    QMatMul (Products) = MATMUL;
    Add (None) = IntForm { data: ALL, ..ELEMENTS };
    Mul (None) = IntForm { data: ALL, ..ELEMENTS };
    Rescale (None) = ELEMENTS;
    ScaleChannels (None) = IntForm { takes: &[U8, I16, I32], order: Order::LastStays, ..BYTES };
    Lut (None) = IntForm { takes: &[CODES, CODES], gives: Gives::Operand(1), ..ELEMENTS };
    Lut2 (None) = IntForm { data: 2, ..ELEMENTS };
    Clamp (None) = ELEMENTS;
    MaxPool (None) = IntForm { takes: &[CODES], gives: Gives::Operand(0), reads: Reads::Windows(None), ..BYTES };
    AveragePool (Window) =
        IntForm { takes: &[U8, I32], reads: Reads::Windows(Some(attr::ZERO)), ..BYTES };
    Mean (Axes) = BYTES;
    LayerNorm (None) = IntForm { takes: &[&[Int::U8, Int::I16, Int::I32], I32, I32], gives: Gives::Bits, ..BYTES };
    Softmax (None) = IntForm { takes: &[CODES, I32], gives: Gives::Bits, order: Order::LastStays, ..BYTES };
    Extrema (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicScale (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicRequant (None) = IntForm { takes: &[I32], ..BYTES };
    AlignScales (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicAdd (None) = IntForm { takes: &[U8, U8, I32], ..WIDE };
    Byte (None) = IntForm { takes: &[&[Int::I16, Int::I32]], ..ELEMENTS };
    Curve (None) = IntForm { takes: &[I32], gives: Gives::Bits, ..ELEMENTS };
    Combine (None) =
        IntForm { takes: &[I64, I64, I64, &[Int::U8, Int::I16, Int::I32]], gives: Gives::Bits, data: ALL, ..ELEMENTS };
    WideMul (None) = IntForm { takes: &[CODES], gives: Gives::Bits, data: ALL, ..ELEMENTS };
    WideDiv (None) = IntForm { takes: &[CODES], gives: Gives::Bits, data: ALL, ..ELEMENTS };
    CommonScale (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicRescale (None) = IntForm { takes: &[CODES, I32], gives: Gives::Bits, ..ELEMENTS };
    ProductScale (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicMul (None) = WIDE;
    DynamicTable (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicCurve (None) = IntForm { takes: &[I32, I32, U8], ..WIDE };
    DynamicLut (None) = IntForm { takes: &[U8, I32], ..ELEMENTS };
    ExpTable (None) = IntForm { takes: &[I32], ..WIDE };
    DynamicNorm (None) = IntForm { takes: &[U8, I32, I32, I32], ..WIDE };
}

/// Greatest offset of equation (5): rounding, zero point and the operands' zero points, `2^21 + 255 * 2^22 + 2 * 255 * 2^15`,
/// is below it, and it leaves room for the two products.
pub(crate) const GREATEST_AFFINE_OFFSET: i64 = (1 << 30) + (1 << 26);

impl IntOp {
    /// The operator's row.
    pub fn form(self) -> &'static IntForm {
        &FORMS[self as usize]
    }

    /// True for layers: sums of products with weights.
    pub fn has_weights(self) -> bool {
        self.form().sums == Sums::Weights
    }

    /// The data among the operands, which are `n`.
    pub fn data(self, n: usize) -> usize {
        self.form().data.min(n)
    }

    /// Storages that operand `i` may have, the usual one first.
    pub fn takes(self, i: usize) -> &'static [Int] {
        let takes = self.form().takes;
        takes.get(i).or(takes.last()).copied().unwrap_or_default()
    }
}
