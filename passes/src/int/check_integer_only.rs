//! Checks that no float is left: only `int.*` and `tensor.*` operators, and no value of a float type.
//!
//! Everything that is left is reported at once. What this pass accepts can be compiled without a float instruction.

use qcc_ir::{Diags, Edit, Level, check_level};

use crate::{Context, Pass};

/// The pass `check-integer-only`.
pub struct CheckIntegerOnly;

impl Pass for CheckIntegerOnly {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        check_level(edit.graph(), Level::Int)
    }
}
