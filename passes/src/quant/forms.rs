//! Which formats operators read and give in their integer forms: a row for each class. Before an operand that takes fewer bits than a value
//! has, the value is rounded.

use qcc_ir::ops::{Binary, Class, Contract, Move, Norm, Reduce};
use qcc_ir::{Format, Graph, NodeId, ValueId};

use crate::rewrite::scalar;

/// Formats, by the bits of their storage.
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
/// A bias: accumulators of 32 bits, or sums of 64.
const BIAS: Formats = Formats { most: 64 };

static LAYER: Form = Form { reads: &[TWO_BYTES, TWO_BYTES, BIAS], gives: TWO_BYTES };
static FINE: Form = Form { reads: &[TWO_BYTES], gives: TWO_BYTES };
static COARSE: Form = Form { reads: &[BYTE], gives: BYTE };

impl Formats {
    /// True if the format is one of these.
    pub(crate) fn take(self, format: &Format) -> bool {
        format.storage().bits() <= self.most
    }
}

/// The row of a class; `has_scalar`: one of two operands is a constant number.
fn row(class: Class, has_scalar: bool) -> &'static Form {
    match class {
        Class::Contract(Contract::Conv2d | Contract::Linear) => &LAYER,
        Class::Contract(Contract::MatMul) => &COARSE,
        Class::Binary(Binary::Add | Binary::Sub | Binary::Mul) => &FINE,
        // With a constant it is a table.
        Class::Binary(Binary::Div | Binary::Min | Binary::Max | Binary::Pow | Binary::PRelu) if has_scalar => &FINE,
        Class::Binary(Binary::Div | Binary::Min | Binary::Max | Binary::Pow | Binary::PRelu) => &COARSE,
        Class::Reduce(Reduce::Mean | Reduce::Sum | Reduce::Max) => &FINE,
        Class::Reduce(Reduce::Min) => &COARSE,
        Class::Norm(Norm::Batch | Norm::Softmax) => &FINE,
        Class::Norm(Norm::Layer) => &COARSE,
        Class::Unary(_) | Class::Pool(_) | Class::Cast(_) => &FINE,
        Class::Move(
            Move::Reshape | Move::Transpose | Move::Concat | Move::Slice | Move::Pad | Move::Gather | Move::Expand,
        ) => &FINE,
        Class::Move(Move::Cast | Move::Where | Move::TopK | Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex) => {
            &COARSE
        }
        Class::Int(_) => &COARSE,
    }
}

/// The formats that an operation reads or gives.
pub(crate) fn form(g: &Graph, n: NodeId, side: Side) -> Formats {
    let has_scalar = g.operands(n).iter().take(2).any(|&v| scalar(g, v).is_some());
    let form = row(g.op(n).info().class, has_scalar);
    match side {
        Side::Gives => form.gives,
        Side::Reads(i) => form.reads[i.min(form.reads.len() - 1)],
    }
}

/// True if an operation moves values of any format.
pub(crate) fn moves_any(g: &Graph, n: NodeId) -> bool {
    matches!(g.op(n).info().class, Class::Move(_)) && form(g, n, Side::Gives) == TWO_BYTES
}

/// The format of a value, if it is quantized.
fn format_of(g: &Graph, v: ValueId) -> Option<&Format> {
    g.ty(v).uniform().map(|u| &u.format)
}

/// The format of a value that this side does not take.
pub(crate) fn refused(g: &Graph, v: ValueId, n: NodeId, side: Side) -> Option<&Format> {
    // What has more than two bytes is no activation.
    format_of(g, v).filter(|format| format.storage().bits() <= TWO_BYTES.most && !form(g, n, side).take(format))
}
