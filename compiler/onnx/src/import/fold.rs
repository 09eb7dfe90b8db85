//! Evaluation during import. Shapes depend on constants that the model computes, so what is computed in integers or is
//! small is evaluated at once, by the interpreter; larger arithmetic waits for the pass that folds constants.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Class, Elem, Graph, Opcode, Tensor, Type, ValueId};

use crate::fault::{Fault, Outcome};

/// Most elements of a float result that is computed.
const SMALL: usize = 4096;
/// Most elements of a result of any kind: constants that repeat a few elements may be of any size.
const LARGE: usize = 1 << 24;

/// The result of an operation on constants, if it is to be evaluated now.
pub(crate) fn evaluate(
    graph: &Graph,
    op: Opcode,
    attrs: &Attrs,
    operands: &[ValueId],
    result: &Type,
) -> Outcome<Option<Tensor>> {
    let constants: Option<Vec<(Arc<Tensor>, &Type)>> =
        operands.iter().map(|&v| Some((graph.constant(v)?.clone(), graph.ty(v)))).collect();
    let Some(constants) = constants else { return Ok(None) };
    let elements = result.checked_elements().unwrap_or(usize::MAX);
    let stays = match op.info().class {
        Class::Cast(_) => true,
        // These rearrange what is there.
        Class::Move(Move::Reshape | Move::Transpose | Move::Slice | Move::Concat) => false,
        _ => elements > if result.elem == Elem::F32 { SMALL } else { LARGE },
    };
    if stays {
        return Ok(None);
    }
    let constants: Vec<(&Tensor, &Type)> = constants.iter().map(|(t, ty)| (t.as_ref(), *ty)).collect();
    match eval_node(op, attrs, &constants, result) {
        Ok(tensor) => Ok(Some(tensor)),
        // A float operation can as well be left to later stages.
        Err(_) if result.elem == Elem::F32 && !result.dims.contains(&0) => Ok(None),
        Err(diag) => Err(Fault::from(diag)),
    }
}
