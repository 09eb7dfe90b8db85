//! What passes ask of an operator, whatever graph it is in.

use qcc_ir::ops::{Move, Pool, Reduce};
use qcc_ir::{Class, Opcode, Range};

/// Operators whose results are some of the operand's elements.
pub fn selects(op: Opcode) -> bool {
    match op.info().class {
        Class::Move(Move::Cast | Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex) => false,
        Class::Move(_) | Class::Pool(Pool::Max) | Class::Reduce(Reduce::Max | Reduce::Min) => true,
        _ => false,
    }
}

/// Operators that clamp their operand.
pub fn clamps(op: Opcode) -> bool {
    matches!(op, Opcode::Relu | Opcode::Clip)
}

/// The range of results of a function that has one by itself.
pub(crate) fn natural_range(op: Opcode) -> Option<Range> {
    match op {
        Opcode::Sigmoid | Opcode::HardSigmoid | Opcode::Softmax => Some(Range { min: 0.0, max: 1.0 }),
        Opcode::Tanh | Opcode::Erf | Opcode::Softsign => Some(Range { min: -1.0, max: 1.0 }),
        _ => None,
    }
}
