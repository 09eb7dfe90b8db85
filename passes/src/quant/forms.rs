//! Which formats operators read and give in their integer forms: a row for each class. Before an operand that takes fewer bits than a value
//! has, the value is rounded.

use qcc_ir::ops::{Binary, Class, Contract, Move, Norm, Pool, Reduce};
use qcc_ir::{Format, Graph, NodeId, Opcode, ValueId, attr};

use crate::op_traits::clamps;
use crate::rewrite::scalar;

/// Formats, by the bits of their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formats {
    /// The greatest number of bits.
    pub(crate) most: u32,
}

/// What is asked of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What it reads as operand of this number.
    Reads(usize),
    /// What it gives.
    Gives,
}

/// A row: what an operation reads, the last one as often as needed, and gives.
struct Form {
    reads: &'static [Formats],
    gives: Formats,
}

/// One byte: products, tables and extremes of 8 bits.
const BYTE: Formats = Formats { most: 8 };
/// One byte or two: sums in 64 bits, tables of 65536.
const TWO_BYTES: Formats = Formats { most: 16 };
/// One byte to three: sums in 64 bits, which are exact whatever they are made of.
const THREE_BYTES: Formats = Formats { most: 24 };
/// A bias: accumulators of 32 bits, or sums of 64.
const BIAS: Formats = Formats { most: 64 };

static LAYER: Form = Form { reads: &[THREE_BYTES, TWO_BYTES, BIAS], gives: THREE_BYTES };
static SUM: Form = Form { reads: &[THREE_BYTES], gives: THREE_BYTES };
static PRODUCT: Form = Form { reads: &[TWO_BYTES], gives: THREE_BYTES };
static CURVE: Form = Form { reads: &[THREE_BYTES, TWO_BYTES], gives: TWO_BYTES };
static FINE: Form = Form { reads: &[TWO_BYTES], gives: TWO_BYTES };
static COARSE: Form = Form { reads: &[BYTE], gives: BYTE };

impl Formats {
    /// True if the format is one of these.
    pub(crate) fn take(self, format: &Format) -> bool {
        format.bits() <= self.most
    }
}

/// The row of an operation.
fn row(g: &Graph, n: NodeId) -> &'static Form {
    let operands = g.operands(n);
    let has_scalar = operands.iter().take(2).any(|&v| scalar(g, v).is_some());
    let has_constant = operands.iter().take(2).any(|&v| g.constant(v).is_some());
    match g.op(n).info().class {
        Class::Contract(Contract::Conv2d | Contract::Linear) => &LAYER,
        _ if is_square(g, n) => &PRODUCT,
        Class::Binary(Binary::Add | Binary::Sub) | Class::Norm(Norm::Batch) | Class::Cast(_) => &SUM,
        Class::Reduce(Reduce::Mean | Reduce::Sum) | Class::Pool(Pool::Average) => &SUM,
        Class::Binary(Binary::Mul) if has_constant => &SUM,
        Class::Binary(Binary::Mul) => &PRODUCT,
        // A power of two values is a table of both; with a constant it is one of the other.
        Class::Binary(Binary::Pow) if !has_scalar => &COARSE,
        Class::Unary(_) if clamps(g.op(n)) => &SUM,
        Class::Unary(_) | Class::Norm(Norm::Layer) => &CURVE,
        Class::Binary(_) if has_scalar => &CURVE,
        Class::Contract(Contract::MatMul) | Class::Binary(_) | Class::Reduce(_) | Class::Norm(_) | Class::Pool(_) => {
            &FINE
        }
        Class::Move(Move::Reshape | Move::Transpose | Move::Slice | Move::Concat) => &SUM,
        Class::Move(Move::MaxPoolIndex) | Class::Int(_) => &COARSE,
        Class::Move(_) => &FINE,
    }
}

/// Whether the operation is a square, however it is written.
pub(crate) fn is_square(g: &Graph, n: NodeId) -> bool {
    let (node, operands) = (g.node(n), g.operands(n));
    match node.op {
        Opcode::Pow => scalar(g, operands[1]) == Some(2.0),
        Opcode::Mul => operands[0] == operands[1],
        Opcode::Map => ["mul(x, x)", "pow(x, 2.0)"].contains(&node.attrs.get(attr::BODY).text()),
        _ => false,
    }
}

/// The formats that an operation reads or gives.
pub(crate) fn form(g: &Graph, n: NodeId, side: Side) -> Formats {
    let form = row(g, n);
    match side {
        Side::Gives => form.gives,
        Side::Reads(i) => form.reads[i.min(form.reads.len() - 1)],
    }
}

/// True if an operation only places values of any format.
pub(crate) fn moves_any(g: &Graph, n: NodeId) -> bool {
    use Move::{Concat, Expand, Gather, Pad, Reshape, Slice, Transpose};
    matches!(g.op(n).info().class, Class::Move(Reshape | Transpose | Concat | Slice | Pad | Gather | Expand))
}

/// The format of a value, if it is quantized.
fn format_of(g: &Graph, v: ValueId) -> Option<&Format> {
    g.ty(v).uniform().map(|u| &u.format)
}

/// The format of a value that this side does not take.
pub(crate) fn refused(g: &Graph, v: ValueId, n: NodeId, side: Side) -> Option<&Format> {
    // What has more than three bytes is no activation.
    format_of(g, v).filter(|format| format.bits() <= THREE_BYTES.most && !form(g, n, side).take(format))
}
