//! THE operator table: one row an operator. Printer, parser, verifier, shape rules, interpreter, range analysis, lowering and
//! the generated documentation read the row.
//!
//! A row is: documentation, Rust name, name in text, operands (`?` may be absent at the end, `*` any number), attributes,
//! and the class, which decides everything that can be decided for all operators of a kind at once.
//!
//! | dialect | operands | legal |
//! |---|---|---|
//! | `nn` | real numbers: f32, calibrated, or quantized types that stand for them; spatial operators are NCHW | float, quant |
//! | `tensor` | anything: moves elements, computes nothing | float, quant, int |
//! | `quant` | between real and quantized types | quant |
//! | `int` | plain integers; spatial operators are NHWC | int |

mod attributes;
mod int;

use qcc_num::fixed::to_f32;

use crate::attr;
use crate::attrs::AttrSchema;

pub use attributes::Attrs;
pub(crate) use int::GREATEST_AFFINE_OFFSET;
pub use int::{Gives, IntForm, IntOp, Order, Reads, Sums};

/// What kind of operator it is.
#[derive(Clone, Copy)]
pub enum Class {
    /// One real function applied to each element; on 8-bit data a table of 256 entries.
    Unary(fn(&Attrs, f32) -> f32),
    /// A real function of two operands, broadcast against each other as ONNX and NumPy do.
    Binary(Binary),
    /// Sums of products.
    Contract(Contract),
    /// A window slides over height and width.
    Pool(Pool),
    /// One result over some axes.
    Reduce(Reduce),
    /// Normalization.
    Norm(Norm),
    /// Moves elements without computing.
    Move(Move),
    /// Changes the quantization.
    Cast(Cast),
    /// Integer arithmetic with its exact definition in the interpreter.
    Int(IntOp),
}

/// Elementwise functions of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Pow,
    /// `x` where positive, else `x * slope`.
    PRelu,
}

/// Sums of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Contract {
    Conv2d,
    /// `x * w^T + bias` with `w` as [outputs, inputs].
    Linear,
    /// Batched product of two computed matrices.
    MatMul,
}

/// Windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Pool {
    Max,
    Average,
}

/// Reductions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Mean,
    Sum,
    Max,
    Min,
}

/// Normalizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Norm {
    Batch,
    Layer,
    Softmax,
}

/// Data movement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Move {
    Reshape,
    Transpose,
    Concat,
    Slice,
    Pad,
    Gather,
    Expand,
    Cast,
    /// The first operand where the condition holds, else the second.
    Where,
    /// The greatest or least elements along an axis, in order.
    TopK,
    /// Where these are.
    TopKIndex,
    /// Where the greatest element is.
    ArgMax,
    /// Where the greatest element of each window is.
    MaxPoolIndex,
}

/// Changes of quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cast {
    Quantize,
    Dequantize,
    Requantize,
}

/// Family of operators with the same kind of operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Real arithmetic.
    Nn,
    /// Data movement.
    Tensor,
    /// Changes of quantization.
    Quant,
    /// Integer arithmetic.
    Int,
}

/// One row of the table.
pub struct OpInfo {
    /// The operator.
    pub op: Opcode,
    /// Name in text, with its dialect.
    pub name: &'static str,
    /// What it computes.
    pub doc: &'static str,
    /// Operands: a trailing `?` marks one that may be absent at the end, a trailing `*` any number of them.
    pub operands: &'static [&'static str],
    /// Attributes.
    pub attrs: &'static [AttrSchema],
    /// What kind of operator it is.
    pub class: Class,
}

impl OpInfo {
    /// Least and greatest number of operands.
    pub fn arity(&self) -> (usize, usize) {
        let least = self.operands.iter().filter(|o| !o.ends_with(['?', '*'])).count();
        let greatest = if self.operands.iter().any(|o| o.ends_with('*')) { usize::MAX } else { self.operands.len() };
        (least, greatest)
    }

    /// The dialect, from the name.
    pub fn dialect(&self) -> Dialect {
        match self.name.split_once('.').map_or("", |(d, _)| d) {
            "nn" => Dialect::Nn,
            "tensor" => Dialect::Tensor,
            "quant" => Dialect::Quant,
            _ => Dialect::Int,
        }
    }
}

impl Opcode {
    /// The operator's row.
    pub fn info(self) -> &'static OpInfo {
        &OPS[self as usize]
    }

    /// The operator with this name in text.
    pub fn from_name(name: &str) -> Option<Opcode> {
        OPS.iter().find(|i| i.name == name).map(|i| i.op)
    }

    /// Name in text.
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

impl std::fmt::Debug for Opcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $op:ident = $name:literal ($($operand:literal),*) { $($attrs:expr),* } $class:expr;)*) => {
        /// An operator; everything about it is in its row of [`OPS`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Opcode {
            $($(#[doc = $doc])+ $op),*
        }
        /// All operators, in the order of [`Opcode`].
        pub static OPS: &[OpInfo] = &[$(OpInfo {
            op: Opcode::$op,
            name: $name,
            doc: concat!($($doc),+),
            operands: &[$($operand),*],
            attrs: &[$($attrs),*],
            class: $class,
        }),*];
    };
}

const KERNEL: AttrSchema = attr::KERNEL.required();
const STRIDES: AttrSchema = attr::STRIDES.or(&[1, 1]);
const PADS: AttrSchema = attr::PADS.or(&[0, 0, 0, 0]);
const DILATIONS: AttrSchema = attr::DILATIONS.or(&[1, 1]);
const GROUPS: AttrSchema = attr::GROUPS.or(1);
const WEIGHTS: AttrSchema = attr::WEIGHTS.or(&qcc_num::format::I8);
const KEEPDIMS: AttrSchema = attr::KEEPDIMS.or(true);

// Attributes of integer operators, with the bounds within which the rules of `qcc_num` are exact.
const I32: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
const I16: (i64, i64) = (i16::MIN as i64, i16::MAX as i64);
const PAD_VALUE: AttrSchema = attr::PAD_VALUE.or(0).within(0, 255);
const ZERO: AttrSchema = attr::ZERO.required().within(0, 255);
const ZEROS: AttrSchema = attr::ZEROS.required().within(0, 255);
const RESULT_ZERO: AttrSchema = attr::RESULT_ZERO.required().within(0, 255);
const WIDE_ZEROS: AttrSchema = attr::ZEROS.required().within(I16.0, I16.1);
/// Bounds of a result of 8 bits.
const LO: AttrSchema = attr::LO.or(0).within(0, 255);
const HI: AttrSchema = attr::HI.or(255).within(0, 255);
/// Bounds of a result of 8 or 16 bits; with 8 they are those of a byte.
const WIDE_LO: AttrSchema = attr::LO.or(I16.0).within(I16.0, I16.1);
const WIDE_HI: AttrSchema = attr::HI.or(I16.1).within(I16.0, I16.1);
/// Bits of the result: 8 for u8, 16 for i16, and where the row says so 32 for i32 of 24 bits.
const BITS: AttrSchema = attr::BITS.or(8);
const MULT: AttrSchema = attr::MULT.required().within(I32.0, I32.1);
const SHL: AttrSchema = attr::SHL.or(0).within(0, 31);
const F32_FRACTION_BITS: AttrSchema =
    attr::F32_FRACTION_BITS.or(0).within(0, qcc_num::requant_f32::GREATEST_FRACTION_BITS as i64);
const OFFSET: AttrSchema = attr::OFFSET.required().within(I16.0, I16.1);
const RESIDUAL_MULT: AttrSchema = attr::RESIDUAL_MULT.or(0).within(0, (1 << 15) - 1);
/// Of equation (5). A product below 2^23, or two below 2^31 together with the offset, are added to it in 32 bits.
const SHIFT: AttrSchema = attr::SHIFT.required().within(0, qcc_num::affine::MAX_SHIFT as i64);
const AFFINE_MULT: AttrSchema = attr::MULT.required().within(I16.0, I16.1);
const AFFINE_OFFSET: AttrSchema =
    attr::OFFSET.required().within(-int::GREATEST_AFFINE_OFFSET, int::GREATEST_AFFINE_OFFSET);
/// Of equation (21).
const WIDE_MULT: AttrSchema =
    attr::MULT.required().within(-qcc_num::wide::GREATEST_MULTIPLIER, qcc_num::wide::GREATEST_MULTIPLIER);
const WIDE_OFFSET: AttrSchema =
    attr::OFFSET.required().within(-qcc_num::wide::GREATEST_OFFSET, qcc_num::wide::GREATEST_OFFSET);
/// Of equation (28).
const QUOTIENT_MULT: AttrSchema = attr::MULT.required().within(0, qcc_num::wide::GREATEST_QUOTIENT_MULTIPLIER);
const QUOTIENT_SHIFT: AttrSchema = attr::SHIFT.required().within(1, qcc_num::wide::GREATEST_QUOTIENT_SHIFT as i64);
const FACTORS: AttrSchema =
    attr::FACTORS.required().within(-qcc_num::wide::GREATEST_FACTOR, qcc_num::wide::GREATEST_FACTOR);
/// Real numbers of type f32 and their quotients have no exponents beyond these.
const EXPONENTS: (i64, i64) = (-1000, 1000);

fn gelu(a: &Attrs, x: f32) -> f32 {
    let x = f64::from(x);
    let gate = match a.get(attr::TANH) {
        true => ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh(),
        false => erf(x / std::f64::consts::SQRT_2),
    };
    to_f32(0.5 * x * (1.0 + gate))
}

fn shrink(a: &Attrs, x: f32) -> f32 {
    let (limit, bias) = (a.get(attr::LAMBD), a.get(attr::BIAS));
    if x < -limit {
        x + bias
    } else if x > limit {
        x - bias
    } else {
        0.0
    }
}

/// The nearest number with the row's `fraction` bits and least exponent `exponent`, ties to even. The quotient by the distance
/// between neighbours is exact in double precision.
fn round_float(a: &Attrs, x: f32) -> f32 {
    if x.is_nan() {
        return if a.get(attr::NAN) { x } else { 0.0 };
    }
    let (wide, greatest) = (f64::from(x), f64::from(a.get(attr::GREATEST)));
    let own = i64::from((x.abs().to_bits() >> 23).max(1)) - 127;
    let exponent = own.max(a.get(attr::EXPONENT)).saturating_sub(a.get(attr::FRACTION)).clamp(-400, 400);
    let distance = (exponent as f64).exp2();
    let near = if x.is_finite() { (wide / distance).round_ties_even() * distance } else { wide };
    let beyond = match a.get(attr::OVERFLOW) {
        1 => f64::INFINITY,
        2 => f64::NAN,
        _ => greatest,
    };
    to_f32(if near.abs() <= greatest { near } else { beyond.copysign(wide) })
}

/// Error function: Abramowitz and Stegun 1964, 7.1.5 (series) below 3 and 7.1.14 (continued fraction) above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let tail = |a: f64| {
        let fraction = (1..=60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    let value = if a < 3.0 {
        let mut term = a;
        let mut sum = a;
        for n in 1..80 {
            term *= -a * a / f64::from(n);
            let next = sum + term / f64::from(2 * n + 1);
            // Terms grow up to number `a * a`; behind it they only get less.
            if next == sum && f64::from(n) > a * a {
                break;
            }
            sum = next;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else if a < 6.0 {
        1.0 - tail(a)
    } else {
        // The tail is less than half of what 1 is exact to.
        1.0
    };
    value.copysign(x)
}

ops! {
    /// Rectifier: `max(x, 0)`.
    Relu = "nn.relu" ("x") {} Class::Unary(|_, x| x.max(0.0));
    /// Clamp to `[min, max]`.
    Clip = "nn.clip" ("x") { attr::MIN.or(f32::MIN), attr::MAX.or(f32::MAX) }
        Class::Unary(|a, x| x.max(a.get(attr::MIN)).min(a.get(attr::MAX)));
    /// `x` where positive, else `alpha * x`.
    LeakyRelu = "nn.leaky_relu" ("x") { attr::ALPHA.or(0.01) }
        Class::Unary(|a, x| if x < 0.0 { a.get(attr::ALPHA) * x } else { x });
    /// `x` where positive, else `alpha * (exp(x) - 1)`.
    Elu = "nn.elu" ("x") { attr::ALPHA.or(1.0) }
        Class::Unary(|a, x| if x < 0.0 { a.get(attr::ALPHA) * x.exp_m1() } else { x });
    /// `gamma * x` where positive, else `gamma * alpha * (exp(x) - 1)`.
    Selu = "nn.selu" ("x") { attr::ALPHA.or(1.673_263_2), attr::GAMMA.or(1.050_701) }
        Class::Unary(|a, x| a.get(attr::GAMMA) * if x < 0.0 { a.get(attr::ALPHA) * x.exp_m1() } else { x });
    /// `max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))`.
    Celu = "nn.celu" ("x") { attr::ALPHA.or(1.0) }
        Class::Unary(|a, x| x.max(0.0) + (a.get(attr::ALPHA) * (x / a.get(attr::ALPHA)).exp_m1()).min(0.0));
    /// `x` where greater than `alpha`, else 0.
    ThresholdedRelu = "nn.thresholded_relu" ("x") { attr::ALPHA.or(1.0) }
        Class::Unary(|a, x| if x > a.get(attr::ALPHA) { x } else { 0.0 });
    /// Logistic function: `1 / (1 + exp(-x))`.
    Sigmoid = "nn.sigmoid" ("x") {} Class::Unary(|_, x| 1.0 / (1.0 + (-x).exp()));
    /// `max(0, min(1, alpha * x + beta))`.
    HardSigmoid = "nn.hard_sigmoid" ("x") { attr::ALPHA.or(0.2), attr::BETA.or(0.5) }
        Class::Unary(|a, x| (a.get(attr::ALPHA) * x + a.get(attr::BETA)).clamp(0.0, 1.0));
    /// `x * max(0, min(1, x / 6 + 1/2))`.
    HardSwish = "nn.hard_swish" ("x") {} Class::Unary(|_, x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0));
    /// `x / (1 + exp(-alpha * x))`, also called SiLU.
    Swish = "nn.swish" ("x") { attr::ALPHA.or(1.0) } Class::Unary(|a, x| x / (1.0 + (-a.get(attr::ALPHA) * x).exp()));
    /// Hyperbolic tangent.
    Tanh = "nn.tanh" ("x") {} Class::Unary(|_, x| x.tanh());
    /// `ln(1 + exp(x))`.
    Softplus = "nn.softplus" ("x") {} Class::Unary(|_, x| if x > 20.0 { x } else { x.exp().ln_1p() });
    /// `x / (1 + |x|)`.
    Softsign = "nn.softsign" ("x") {} Class::Unary(|_, x| x / (1.0 + x.abs()));
    /// `x * tanh(softplus(x))`.
    Mish = "nn.mish" ("x") {} Class::Unary(|_, x| x * if x > 20.0 { 1.0 } else { x.exp().ln_1p().tanh() });
    /// `x / 2 * (1 + erf(x / sqrt(2)))`; with `tanh`, `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.
    Gelu = "nn.gelu" ("x") { attr::TANH.or(false) } Class::Unary(gelu);
    /// Error function.
    Erf = "nn.erf" ("x") {} Class::Unary(|_, x| to_f32(erf(f64::from(x))));
    /// `exp(x)`.
    Exp = "nn.exp" ("x") {} Class::Unary(|_, x| x.exp());
    /// Natural logarithm.
    Log = "nn.log" ("x") {} Class::Unary(|_, x| x.ln());
    /// Square root.
    Sqrt = "nn.sqrt" ("x") {} Class::Unary(|_, x| x.sqrt());
    /// `1 / x`.
    Reciprocal = "nn.reciprocal" ("x") {} Class::Unary(|_, x| 1.0 / x);
    /// `-x`.
    Neg = "nn.neg" ("x") {} Class::Unary(|_, x| -x);
    /// `|x|`.
    Abs = "nn.abs" ("x") {} Class::Unary(|_, x| x.abs());
    /// Greatest integer not above `x`.
    Floor = "nn.floor" ("x") {} Class::Unary(|_, x| x.floor());
    /// Least integer not below `x`.
    Ceil = "nn.ceil" ("x") {} Class::Unary(|_, x| x.ceil());
    /// Nearest integer, ties to even.
    Round = "nn.round" ("x") {} Class::Unary(|_, x| x.round_ties_even());
    /// Nearest number of a narrower float format, ties to even: `fraction` bits behind the point, least exponent `exponent`, greatest
    /// number `greatest`. What is greater becomes that number, with `overflow` 1 infinite, with 2 not a number. Without `nan`, what is
    /// not a number becomes 0.
    RoundFloat = "nn.round_float" ("x")
        { attr::FRACTION.required(), attr::EXPONENT.required(), attr::GREATEST.or(f32::MAX), attr::OVERFLOW.or(0), attr::NAN.or(true) }
        Class::Unary(round_float);
    /// Sine.
    Sin = "nn.sin" ("x") {} Class::Unary(|_, x| x.sin());
    /// Cosine.
    Cos = "nn.cos" ("x") {} Class::Unary(|_, x| x.cos());
    /// Tangent.
    Tan = "nn.tan" ("x") {} Class::Unary(|_, x| x.tan());
    /// Inverse sine.
    Asin = "nn.asin" ("x") {} Class::Unary(|_, x| x.asin());
    /// Inverse cosine.
    Acos = "nn.acos" ("x") {} Class::Unary(|_, x| x.acos());
    /// Inverse tangent.
    Atan = "nn.atan" ("x") {} Class::Unary(|_, x| x.atan());
    /// Hyperbolic sine.
    Sinh = "nn.sinh" ("x") {} Class::Unary(|_, x| x.sinh());
    /// Hyperbolic cosine.
    Cosh = "nn.cosh" ("x") {} Class::Unary(|_, x| x.cosh());
    /// Inverse hyperbolic sine.
    Asinh = "nn.asinh" ("x") {} Class::Unary(|_, x| x.asinh());
    /// Inverse hyperbolic cosine.
    Acosh = "nn.acosh" ("x") {} Class::Unary(|_, x| x.acosh());
    /// Inverse hyperbolic tangent.
    Atanh = "nn.atanh" ("x") {} Class::Unary(|_, x| x.atanh());
    /// `x` moved by `bias` towards 0 where its magnitude is greater than `lambd`, else 0.
    Shrink = "nn.shrink" ("x") { attr::LAMBD.or(0.5), attr::BIAS.or(0.0) } Class::Unary(shrink);
    /// `body` of each element: functions of one value in one, so that nothing is rounded between them.
    Map = "nn.map" ("x") { attr::BODY.required() } Class::Unary(|a, x| a.get(attr::BODY).at(x));
    /// -1, 0 or 1.
    Sign = "nn.sign" ("x") {} Class::Unary(|_, x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { 0.0 });

    /// Sum. `signed` says that the runtime for which the model was quantized computes with codes of -128 to 127.
    Add = "nn.add" ("a", "b") { attr::SIGNED.or(false) } Class::Binary(Binary::Add);
    /// Difference.
    Sub = "nn.sub" ("a", "b") {} Class::Binary(Binary::Sub);
    /// Product, `signed` as in a sum.
    Mul = "nn.mul" ("a", "b") { attr::SIGNED.or(false) } Class::Binary(Binary::Mul);
    /// Quotient; integers truncate.
    Div = "nn.div" ("a", "b") {} Class::Binary(Binary::Div);
    /// The lesser.
    Min = "nn.min" ("a", "b") {} Class::Binary(Binary::Min);
    /// The greater.
    Max = "nn.max" ("a", "b") {} Class::Binary(Binary::Max);
    /// `a` to the power of `b`.
    Pow = "nn.pow" ("a", "b") {} Class::Binary(Binary::Pow);
    /// `x` where positive, else `slope * x`.
    PRelu = "nn.prelu" ("x", "slope") {} Class::Binary(Binary::PRelu);

    /// Convolution: `x` `[N, C, H, W]`, `w` `[O, C / groups, KH, KW]`, `bias` `[O]`. `pads` are top, left, bottom, right.
    Conv2d = "nn.conv2d" ("x", "w", "bias?") { STRIDES, PADS, DILATIONS, GROUPS, WEIGHTS } Class::Contract(Contract::Conv2d);
    /// `x * w^T + bias`: `x` `[.., K]`, `w` `[N, K]`, `bias` `[N]`.
    Linear = "nn.linear" ("x", "w", "bias?") { WEIGHTS } Class::Contract(Contract::Linear);
    /// `alpha` times the matrix product of the last two dimensions, broadcast over the others.
    MatMul = "nn.matmul" ("a", "b") { attr::ALPHA.or(1.0) } Class::Contract(Contract::MatMul);

    /// Greatest element of each window of `[N, C, H, W]`; padding does not take part.
    MaxPool = "nn.max_pool" ("x") { KERNEL, STRIDES, PADS, DILATIONS } Class::Pool(Pool::Max);
    /// Mean of each window of `[N, C, H, W]`; with `count_include_pad`, padding takes part as zeros.
    AveragePool = "nn.average_pool" ("x") { KERNEL, STRIDES, PADS, DILATIONS, attr::COUNT_INCLUDE_PAD.or(false) }
        Class::Pool(Pool::Average);

    /// Mean over `axes`.
    ReduceMean = "nn.reduce_mean" ("x") { attr::AXES.required(), KEEPDIMS } Class::Reduce(Reduce::Mean);
    /// Sum over `axes`.
    ReduceSum = "nn.reduce_sum" ("x") { attr::AXES.required(), KEEPDIMS } Class::Reduce(Reduce::Sum);
    /// Greatest over `axes`.
    ReduceMax = "nn.reduce_max" ("x") { attr::AXES.required(), KEEPDIMS } Class::Reduce(Reduce::Max);
    /// Least over `axes`.
    ReduceMin = "nn.reduce_min" ("x") { attr::AXES.required(), KEEPDIMS } Class::Reduce(Reduce::Min);

    /// `(x - mean) / sqrt(var + epsilon) * scale + bias` along axis 1.
    BatchNorm = "nn.batch_norm" ("x", "scale", "bias", "mean", "var") { attr::EPSILON.or(1e-5) }
        Class::Norm(Norm::Batch);
    /// `(x - mean) / sqrt(var + epsilon) * scale + bias`, mean and variance over the dimensions from `axis` on; `scale` and `bias`
    /// broadcast to `x`. Without `centered` the mean counts as 0: root mean square normalization.
    LayerNorm = "nn.layer_norm" ("x", "scale", "bias") { attr::AXIS.required(), attr::EPSILON.or(1e-5), attr::CENTERED.or(true) } Class::Norm(Norm::Layer);
    /// `exp(x) / sum(exp(x))` along `axis`.
    Softmax = "nn.softmax" ("x") { attr::AXIS.required() } Class::Norm(Norm::Softmax);

    /// The same elements in another shape.
    Reshape = "tensor.reshape" ("x") { attr::SHAPE.required() } Class::Move(Move::Reshape);
    /// Dimension `i` of the result is dimension `perm[i]` of `x`.
    Transpose = "tensor.transpose" ("x") { attr::PERM.required() } Class::Move(Move::Transpose);
    /// One after the other along `axis`.
    Concat = "tensor.concat" ("x*") { attr::AXIS.required() } Class::Move(Move::Concat);
    /// Elements `starts[i], starts[i] + steps[i], ..` below `ends[i]` of each dimension; steps are positive.
    Slice = "tensor.slice" ("x") { attr::STARTS.required(), attr::ENDS.required(), attr::STEPS.required() } Class::Move(Move::Slice);
    /// `pads` are the elements before each dimension, then those after each. On quantized types and plain integers
    /// `value` is the integer itself.
    Pad = "tensor.pad" ("x") { attr::PADS.required(), attr::VALUE.or(0.0) } Class::Move(Move::Pad);
    /// Slices of `data` along `axis` at the positions in `indices`; with `wrap` those from -1 to minus the extent count from the end.
    /// Positions outside take the last slice.
    Gather = "tensor.gather" ("data", "indices") { attr::AXIS.or(0), attr::WRAP.or(true) } Class::Move(Move::Gather);
    /// Broadcast to `shape`.
    Expand = "tensor.expand" ("x") { attr::SHAPE.required() } Class::Move(Move::Expand);
    /// To `to`: 0 f32, 1 i64, 2 i32, 3 i16, 4 i8, 5 u8, 6 bool. Integers keep their low bits; reals lose their fraction and stop at the ends
    /// of the type; true is what is not 0. Integers become reals between constants and in a mask before a softmax only.
    CastTo = "tensor.cast" ("x") { attr::TO.required() } Class::Move(Move::Cast);
    /// Elements of `x` where `condition` is not 0, else of `y`; operands broadcast.
    Where = "tensor.where" ("x", "y", "condition") {} Class::Move(Move::Where);
    /// The `k` greatest elements along `axis`, the greatest first, or the `k` least; of equal ones the first comes first.
    TopK = "tensor.top_k" ("x") { attr::AXIS.required(), attr::K.required(), attr::LARGEST.or(true) } Class::Move(Move::TopK);
    /// Positions along `axis`, i64, of the elements of `tensor.top_k`.
    TopKIndex = "tensor.top_k_index" ("x") { attr::AXIS.required(), attr::K.required(), attr::LARGEST.or(true) }
        Class::Move(Move::TopKIndex);
    /// Position along `axis`, i64, of the greatest element; of equal ones the first, or the last.
    ArgMax = "tensor.arg_max" ("x") { attr::AXIS.required(), KEEPDIMS, attr::LAST.or(false) }
        Class::Move(Move::ArgMax);
    /// Position, i64, of the element of `nn.max_pool` among all elements of `x`, counted as they lie; of equal ones the first.
    MaxPoolIndex = "tensor.max_pool_index" ("x") { KERNEL, STRIDES, PADS, DILATIONS } Class::Move(Move::MaxPoolIndex);

    /// Real to quantized: `qcc_num::edge` equation (6).
    QCast = "quant.qcast" ("x") {} Class::Cast(Cast::Quantize);
    /// Quantized to real: `qcc_num::edge` equation (7).
    DCast = "quant.dcast" ("x") {} Class::Cast(Cast::Dequantize);
    /// From one quantization to another.
    SCast = "quant.scast" ("x") {} Class::Cast(Cast::Requantize);

    /// Accumulators of a convolution: `x` u8 `[N, H, W, C]`, `w` i8 `[O, KH, KW, C / groups]`, `bias` i32 `[O]`; outside `x` is `pad_value`.
    IConv2d = "int.conv2d" ("x", "w", "bias") { STRIDES, PADS, DILATIONS, GROUPS, PAD_VALUE } Class::Int(IntOp::Conv2d);
    /// Accumulators `bias + x * w^T`: `x` u8 `[.., K]`, `w` i8 `[N, K]`, `bias` i32 `[N]`.
    ILinear = "int.linear" ("x", "w", "bias") {} Class::Int(IntOp::Linear);
    /// 32-bit accumulators to u8 by `qcc_num::requant`, or by `qcc_num::requant_f32` where `f32_fraction_bits` is not 0; `mult` i32 has one element, or one for each of the last dimension.
    Requant = "int.requant" ("acc", "mult") { SHL, OFFSET, F32_FRACTION_BITS, LO, HI } Class::Int(IntOp::Requant);
    /// `int.requant` of `int.conv2d`, with an optional `residual` of the result's shape added before the rounding.
    QConv2d = "int.qconv2d" ("x", "w", "bias", "mult", "residual?")
        { STRIDES, PADS, DILATIONS, GROUPS, PAD_VALUE, SHL, OFFSET, F32_FRACTION_BITS, LO, HI, RESIDUAL_MULT } Class::Int(IntOp::QConv2d);
    /// `int.requant` of `int.linear`, with an optional `residual` of the result's shape added before the rounding.
    QLinear = "int.qlinear" ("x", "w", "bias", "mult", "residual?") { SHL, OFFSET, F32_FRACTION_BITS, LO, HI, RESIDUAL_MULT }
        Class::Int(IntOp::QLinear);
    /// Accumulators `sum over k of (a[.., m, k] - zeros[0]) * (b[.., k, n] - zeros[1])`: `a` and `b` u8, broadcast over the
    /// dimensions before the last two.
    IMatMul = "int.matmul" ("a", "b") { ZEROS } Class::Int(IntOp::MatMul);
    /// `sum over k of (a[.., m, k] - zeros[0]) * (b[.., k, n] - zeros[1])` requantized by `qcc_num::requant` with `mult`: `a` and
    /// `b` u8, broadcast over the dimensions before the last two.
    QMatMul = "int.qmatmul" ("a", "b") { ZEROS, MULT, SHL, OFFSET, F32_FRACTION_BITS, LO, HI }
        Class::Int(IntOp::QMatMul);
    /// `a * mults[0] + b * mults[1]` by `qcc_num::affine`, operands broadcast.
    IAdd = "int.add" ("a", "b") { attr::MULTS.required().within(-(1 << 23), 1 << 23), SHIFT, AFFINE_OFFSET, LO, HI } Class::Int(IntOp::Add);
    /// `(a - zeros[0]) * (b - zeros[1])` requantized by `qcc_num::requant` with `mult`, operands broadcast.
    IMul = "int.mul" ("a", "b") { ZEROS, MULT, SHL, OFFSET, LO, HI } Class::Int(IntOp::Mul);
    /// `x * mult` by `qcc_num::affine`: a change of scale.
    Rescale = "int.rescale" ("x") { AFFINE_MULT, SHIFT, AFFINE_OFFSET, LO, HI } Class::Int(IntOp::Rescale);
    /// `x * mult[c] + offset[c]` by `qcc_num::affine`, `c` the index in the last dimension: `mult` i16, `offset` i32.
    ScaleChannels = "int.scale_channels" ("x", "mult", "offset") { SHIFT, LO, HI } Class::Int(IntOp::ScaleChannels);
    /// `table[x]`: any function of one operand. `table` u8 or i16, `[256]` for `x` u8 and `[65536]`, from -32768 on, for `x` i16.
    Lut = "int.lut" ("x", "table") {} Class::Int(IntOp::Lut);
    /// `table[256 * a + b]`, operands broadcast: any function of two 8-bit operands. `table` u8 `[65536]`.
    Lut2 = "int.lut2" ("a", "b", "table") {} Class::Int(IntOp::Lut2);
    /// `min(max(x, lo), hi)`.
    Clamp = "int.clamp" ("x") { LO, HI } Class::Int(IntOp::Clamp);
    /// Greatest element of each window of u8 `[N, H, W, C]`; padding does not take part. Of i16 without padding.
    IMaxPool = "int.max_pool" ("x") { KERNEL, STRIDES, PADS, DILATIONS } Class::Int(IntOp::MaxPool);
    /// Sum of `x - zero` over each window of u8 `[N, H, W, C]`, requantized by `qcc_num::requant`. `mult` i32 has one element,
    /// or one for each output position `[OH, OW]` where border windows have fewer elements.
    IAveragePool = "int.average_pool" ("x", "mult")
        { KERNEL, STRIDES, PADS, DILATIONS, ZERO, SHL, OFFSET, F32_FRACTION_BITS, LO, HI } Class::Int(IntOp::AveragePool);
    /// Sum of `x - zero` over `axes`, requantized by `qcc_num::requant` with `mult`.
    IMean = "int.mean" ("x") { attr::AXES.required(), KEEPDIMS, ZERO, MULT, SHL, OFFSET, F32_FRACTION_BITS, LO, HI }
        Class::Int(IntOp::Mean);
    /// Normalization of u8, i16 or i32 of 24 bits over the dimensions from `axis` on by `qcc_num::norm`, of which `epsilon` is the `E`; `mult` i32 and
    /// `offset` i32 broadcast to `x`. Deviations are from `center`, which counts from the least code, or from the mean where it is -1. The
    /// result is u8 within `lo` and `hi`, or with `bits` 16 any i16.
    ILayerNorm = "int.layer_norm" ("x", "mult", "offset") { attr::AXIS.required(), attr::INT_EPSILON.or(0).within(0, qcc_num::norm::GREATEST_EPSILON), LO, HI, attr::CENTER.or(-1).within(-1, (1 << 24) - 1), BITS }
        Class::Int(IntOp::LayerNorm);
    /// Softmax along the last dimension: with `e = table[max - x]` (i32, not negative, `[256]` for `x` u8 and `[65536]` for i16),
    /// `s = sum(e)` in 64 bits and `r = floor(mult * 2^32 / s)`, the result is `min(255, floor((e * r + 2^39) / 2^40))`; its scale is
    /// `256 / mult`, its zero point 0. With `bits` 16 it is i16: `min(65535, ..) - 32768`, with zero point -32768. With `masked` the
    /// least code is switched off where a row has others: its `e` is 0.
    ISoftmax = "int.softmax" ("x", "table") { attr::MULT.or(65280).within(1, I32.1), BITS, attr::MASKED.or(false) } Class::Int(IntOp::Softmax);
    /// Least and greatest of each channel, the last dimension, over `rows` positions after one another: i32 `[parts, 2, C]`.
    Extrema = "int.extrema" ("acc") { attr::ROWS.required() } Class::Int(IntOp::Extrema);
    /// Parameters of `int.dynamic_requant` by `qcc_num::dynamic`, from the `extrema` of accumulators, the `scale` of the operand
    /// they were computed from, and mantissas `[C]` of the weights' scales, of the bias and of a greatest value, if there is one. The
    /// result begins with its scale.
    DynamicScale = "int.dynamic_scale" ("extrema", "scale", "weights", "bias", "ceiling?")
        { attr::WEIGHT_EXPONENT.required().within(EXPONENTS.0, EXPONENTS.1), attr::BIAS_EXPONENT.required().within(EXPONENTS.0, EXPONENTS.1), attr::CEILING_EXPONENT.or(0).within(EXPONENTS.0, EXPONENTS.1), attr::RECTIFY.or(false) }
        Class::Int(IntOp::DynamicScale);
    /// 32-bit accumulators to u8 by `qcc_num::dynamic`: zero point 0 if rectified, else 128.
    DynamicRequant = "int.dynamic_requant" ("acc", "params") { attr::RECTIFY.or(false) } Class::Int(IntOp::DynamicRequant);
    /// The scale of a sum of two dynamically scaled values, and the factors of both, by `qcc_num::dynamic` equation (13).
    AlignScales = "int.align_scales" ("a", "b") {} Class::Int(IntOp::AlignScales);
    /// `(a - zeros[0]) * factors[2] + (b - zeros[1]) * factors[3]` in 32 bits, with the factors of `int.align_scales`.
    DynamicAdd = "int.dynamic_add" ("a", "b", "factors") { ZEROS } Class::Int(IntOp::DynamicAdd);
    /// The low byte of `x + 2^15`, `x` i16, or the high one: `x + 2^15 = 256 high + low`. Of `x` i32 byte number `index` of `x + 2^23`, the
    /// lowest being 0.
    Byte = "int.byte" ("x") { attr::HIGH.or(false), attr::INDEX.or(0).within(0, 2) } Class::Int(IntOp::Byte);
    /// The function of `x - center`, `x` i32 of 24 bits, that `table` i32 `[8734]` holds, by `qcc_num::curve` equation (31), as u8 or with `bits`
    /// 16 as i16.
    Curve = "int.curve" ("x", "table") { attr::CENTER.required().within(-(1 << 23), (1 << 23) - 1), BITS } Class::Int(IntOp::Curve);
    /// `bias + sum of factors[i] * xs[i]` requantized by `qcc_num::wide` with `mult` and `offset` to u8, with `bits` 16 to i16, or with 32 to i32 of 24 bits. `xs`
    /// u8, i16 or i32, broadcast; `bias`, `mult`, `offset` i64, broadcast to them.
    Combine = "int.combine" ("bias", "mult", "offset", "xs*") { FACTORS, WIDE_LO, WIDE_HI, BITS }
        Class::Int(IntOp::Combine);
    /// `(a - zeros[0]) * (b - zeros[1])` requantized by `qcc_num::wide` with `mult` and `offset` to u8, i16 or i32, as `int.combine` is. `a` and
    /// `b` u8 or i16, broadcast.
    WideMul = "int.wide_mul" ("a", "b") { WIDE_ZEROS, WIDE_MULT, WIDE_OFFSET, WIDE_LO, WIDE_HI, BITS }
        Class::Int(IntOp::WideMul);
    /// The quotient of `a - zeros[0]` by `b - zeros[1]` by `qcc_num::wide` equation (28), with `mult`, `shift` and the zero point `offset`, as u8
    /// or with `bits` 16 as i16. `a` and `b` u8 or i16, broadcast.
    WideDiv = "int.wide_div" ("a", "b") { WIDE_ZEROS, QUOTIENT_MULT, QUOTIENT_SHIFT, OFFSET, WIDE_LO, WIDE_HI, BITS }
        Class::Int(IntOp::WideDiv);
    /// A scale for all of some values, of whose codes `levels` are used to either side, and the factors from theirs to it, by
    /// `qcc_num::dynamic` equation (16): the values' levels come first, that of the result is the last one.
    CommonScale = "int.common_scale" ("scales*") { attr::LEVELS.required() } Class::Int(IntOp::CommonScale);
    /// `result_zero + floor(((x - zero) * factor + 2^13) / 2^14)`, the factor being number `index` of `int.common_scale`, as u8 or with `bits`
    /// 16 as i16.
    DynamicRescale = "int.dynamic_rescale" ("x", "scales") { attr::INDEX.required(), ZERO, RESULT_ZERO, BITS }
        Class::Int(IntOp::DynamicRescale);
    /// The scale of a product of two dynamically scaled values.
    ProductScale = "int.product_scale" ("a", "b") {} Class::Int(IntOp::ProductScale);
    /// `(a - zeros[0]) * (b - zeros[1])` in 32 bits, operands broadcast.
    DynamicMul = "int.dynamic_mul" ("a", "b") { ZEROS } Class::Int(IntOp::DynamicMul);
    /// The table of a function, given by `samples` i32 `[5, 1026]` below 2^30 with an exponent at each row's end, for codes with a scale
    /// known at run time only, and the scale of its results, by `qcc_num::dynamic` equations (17) and (18): mantissa, exponent, and
    /// four codes in each number.
    DynamicTable = "int.dynamic_table" ("scale", "samples") { ZERO, RESULT_ZERO }
        Class::Int(IntOp::DynamicTable);
    /// As `int.dynamic_table`, for codes of which those in `x` occur, from `samples` in every octave by `qcc_num::dynamic` equations (29) and (30):
    /// i32 `[9218]`, or `[18434]` with those for negative operands. With `half` 0 counts as half a code.
    DynamicCurve = "int.dynamic_curve" ("scale", "samples", "x") { ZERO, RESULT_ZERO, attr::HALF.or(false) }
        Class::Int(IntOp::DynamicCurve);
    /// The table of `int.softmax` for codes with a scale known at run time only, by `qcc_num::dynamic` equation (19), from `samples`
    /// i32 `[1025]` of `2^30 2^(-j / 1024)`.
    ExpTable = "int.exp_table" ("scale", "samples") {} Class::Int(IntOp::ExpTable);
    /// The codes of `int.dynamic_table` at the positions that `x` tells.
    DynamicLut = "int.dynamic_lut" ("x", "table") {} Class::Int(IntOp::DynamicLut);
    /// Normalization of u8 over the dimensions from `axis` on, whose `scale` is known at run time only: `floor(u * mult / 2^32) + offset`
    /// in 32 bits, `u` by `qcc_num::norm` with the `E` of `qcc_num::dynamic` equation (22). `mult` i32 and `offset` i32 broadcast to `x`. `center` as in `int.layer_norm`.
    DynamicNorm = "int.dynamic_norm" ("x", "scale", "mult", "offset") { attr::AXIS.required(), attr::INT_EPSILON.required().within(0, I32.1), attr::EXPONENT.required().within(EXPONENTS.0, EXPONENTS.1), attr::CENTER.or(-1).within(-1, 255) }
        Class::Int(IntOp::DynamicNorm);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consistent() {
        for (i, info) in OPS.iter().enumerate() {
            assert_eq!(info.op as usize, i);
            assert_eq!(Opcode::from_name(info.name), Some(info.op), "{} is doubly named", info.name);
            assert!(info.doc.trim().ends_with('.'), "{}", info.name);
            let open = info.operands.iter().position(|o| o.ends_with(['?', '*'])).unwrap_or(info.operands.len());
            assert!(
                info.operands[open..].iter().all(|o| o.ends_with(['?', '*'])),
                "{}: optional operands come last",
                info.name
            );
        }
    }

    /// Values from Abramowitz and Stegun 1964, table 7.1.
    #[test]
    fn erf_matches_the_table() {
        for (x, y) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (3.5, 0.999_999_257)]
        {
            assert!((erf(x) - y).abs() < 1e-9, "{x}: {}", erf(x));
            assert!((erf(-x) + y).abs() < 1e-9);
        }
    }
}
