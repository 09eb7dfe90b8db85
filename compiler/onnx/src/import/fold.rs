//! Evaluation during import. Shapes depend on constants that the model computes, so what is computed in integers or is
//! small is evaluated at once, by the interpreter; larger arithmetic waits for the pass that folds constants.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::ops::Move;
use qcc_ir::{Attrs, Class, Data, Elem, Graph, Int, Opcode, Tensor, Type, ValueId};

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
    let Some(constants) = constants else { return Ok(vanished(graph, op, operands, result)) };
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

/// What a value is, if it depends on constants only: float arithmetic and casts that [`evaluate`] left to later.
pub(crate) fn known(graph: &Graph, v: ValueId) -> Option<Arc<Tensor>> {
    let mut found: HashMap<ValueId, Arc<Tensor>> = HashMap::new();
    let mut waiting = vec![v];
    while let Some(&next) = waiting.last() {
        if found.contains_key(&next) {
            waiting.pop();
            continue;
        }
        if let Some(tensor) = graph.constant(next) {
            found.insert(next, tensor.clone());
            continue;
        }
        let (node, result) = (graph.producer(next)?, graph.ty(next));
        let is_small = result.checked_elements().is_some_and(|elements| elements <= LARGE);
        if !is_small {
            return None;
        }
        let operands = graph.operands(node);
        let missing: Vec<ValueId> = operands.iter().copied().filter(|v| !found.contains_key(v)).collect();
        if missing.is_empty() {
            let given: Vec<(&Tensor, &Type)> = operands.iter().map(|v| (found[v].as_ref(), graph.ty(*v))).collect();
            let tensor = eval_node(graph.op(node), &graph.node(node).attrs, &given, result).ok()?;
            found.insert(next, Arc::new(tensor));
        }
        waiting.extend(missing);
    }
    found.remove(&v)
}

/// Integers times zero, which models compute to keep an input that they do not need: zeros.
fn vanished(graph: &Graph, op: Opcode, operands: &[ValueId], result: &Type) -> Option<Tensor> {
    let is_zero = |&v: &ValueId| match graph.constant(v).map(|t| &t.data) {
        Some(Data::I64(v)) => v.iter().all(|&x| x == 0),
        Some(Data::I32(v)) => v.iter().all(|&x| x == 0),
        Some(_) | None => false,
    };
    let elements = result.checked_elements().filter(|&n| n <= SMALL)?;
    let zeros = match result.elem {
        Elem::Int(Int::I64) => Data::I64(vec![0; elements]),
        Elem::Int(Int::I32) => Data::I32(vec![0; elements]),
        _ => return None,
    };
    (op == Opcode::Mul && operands.iter().any(is_zero)).then(|| Tensor::new(&result.dims, zeros))
}
