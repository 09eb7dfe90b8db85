//! Evaluates, once and for all, what depends on constants only.
//!
//! ```text
//! %t = tensor.transpose(@w) {perm = [1, 0]}
//! %y = nn.linear(%x, %t)
//! // becomes
//! %y = nn.linear(%x, @t)
//! ```
//!
//! Evaluation is the reference interpreter's, so that folding changes no result.

use qcc_interp::eval_node;
use qcc_ir::{Budget, Def, Diags, Edit, Graph, NodeId, Tensor};

use crate::{Context, Pass};

/// The pass `fold-constants`.
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            let tensor = match evaluate(edit.graph(), n, &cx.budget) {
                Some(Ok(tensor)) => tensor,
                Some(Err(diag)) => {
                    faults.0.push(diag);
                    continue;
                }
                None => continue,
            };
            let g = edit.graph();
            let y = g.result(n);
            let (name, elem) = (g.name_of(y).to_string(), g.ty(y).elem.clone());
            // An output stays a computed value: a constant has no place among a model's results.
            if g.is_output(y) {
                edit.remark(format!("not folded: %{name} is an output"));
                continue;
            }
            let Some(mut change) = edit.begin(format!("fold-constants: %{name}")) else {
                break;
            };
            change.rename(y, &format!("{name}.dead"));
            let c = change.add_typed_const(&name, tensor, elem);
            change.replace_uses(y, c);
            let bytes = change.graph().constant_bytes();
            cx.budget.check_memory("the model's constants", bytes)?;
            cx.budget.check_time()?;
        }
        edit.remove_dead();
        faults.into_result()
    }
}

/// The node's result if all its operands are constants.
fn evaluate(g: &Graph, n: NodeId, budget: &Budget) -> Option<Result<Tensor, qcc_ir::Diag>> {
    let operands = g.operands(n);
    let mut constants = Vec::with_capacity(operands.len());
    for &v in &operands {
        match g.def(v) {
            Def::Const(t) => constants.push(t),
            Def::Input(_) | Def::Node(..) => return None,
        }
    }
    if constants.is_empty() {
        return None;
    }
    if let Err(diag) = budget.check_node(g, n) {
        return Some(Err(diag));
    }
    let typed: Vec<_> = constants.iter().zip(&operands).map(|(t, &v)| (t.as_ref(), g.ty(v))).collect();
    let node = g.node(n);
    Some(eval_node(node.op, &node.attrs, &typed, g.ty(g.result(n))).map_err(|d| d.at(g.describe(n))))
}
