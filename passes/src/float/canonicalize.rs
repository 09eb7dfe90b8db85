//! Removes what does nothing and writes equal things in one way, so that later passes meet few forms.
//!
//! ```text
//! %a = tensor.transpose(%x) {perm = [0, 2, 3, 1]}
//! %b = tensor.transpose(%a) {perm = [0, 3, 1, 2]}
//! %c = nn.matmul(%b, @w)                                       // w [K, N]
//! %d = nn.add(%c, @bias)
//! %e = nn.sigmoid(%d)
//! %f = nn.mul(%d, %e)
//! // becomes
//! %d = nn.linear(%x, @w.t, @bias)                              // w.t [N, K]
//! %f = nn.swish(%d)
//! ```
//!
//! | rules | module |
//! |---|---|
//! | operators that move nothing, chains of data movement, constants as second operand, dead code | here |
//! | additions, multiplications and padding beside a convolution or linear layer are taken into it | `absorb` |
//! | factors of matrix products, constants behind normalizations | `attention` |
//! | layer, root mean square and L2 normalization where they are spelled out | `normalization` |
//! | masks before a softmax | `mask` |
//! | softmax and its logarithm where they are spelled out | `softmax` |
//! | activations that exporters spell out: swish, hard-swish, hard-sigmoid, gelu, mish, clip | `activation` |
//!
//! Rules are exact in real numbers; in f32 they may round differently.

mod absorb;
mod activation;
mod attention;
mod mask;
mod normalization;
mod softmax;

pub(crate) use mask::SWITCHED_OFF;

use qcc_ir::{Attrs, Diags, Edit, NodeId, Opcode, Tensor, ValueId, attr};

use crate::rewrite::{bypass, can_bypass, floats, is_live, named, scalar, substitute};
use crate::{Context, Pass, moves};

/// The pass `canonicalize`.
pub struct Canonicalize;

/// Changes the graph at a node and says whether it did.
type Rule = fn(&mut Edit, NodeId) -> bool;

const RULES: &[Rule] = &[
    drop_identity,
    merge_moves,
    transpose_is_reshape,
    subtract_and_divide_by_constant,
    activation::clip_from_extremes,
    activation::hard_sigmoid,
    activation::gated,
    activation::hard_swish_scaled,
    activation::gelu,
    softmax::spelled_out,
    softmax::unshifted,
    softmax::logarithm_of,
    softmax::logarithm_of_sum,
    normalization::spelled_out,
    attention::affine_of_norm,
    attention::factor_of_product,
    attention::factor_of_operand,
    mask::scaled,
    mask::of_integers,
    mask::selected_sum,
    mask::selected_mask,
    mask::finite,
    absorb::matmul_is_linear,
    absorb::addition,
    absorb::multiplication,
    absorb::padding,
];

/// Rounds after which rewriting stops; each rule makes the graph smaller or simpler, so that it ends long before.
const ROUNDS: usize = 64;

impl Pass for Canonicalize {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        edit.remove_dead();
        for round in 0..ROUNDS {
            debug_assert!(round + 1 < ROUNDS, "rules of canonicalize undo each other: {:?}", edit.labels().last());
            let before = edit.labels().len();
            for n in edit.graph().order() {
                if is_live(edit.graph(), n) {
                    RULES.iter().any(|rule| rule(edit, n));
                }
            }
            edit.remove_dead();
            if edit.labels().len() == before {
                break;
            }
        }
        Ok(())
    }
}

/// The operand that the node gives back unchanged.
fn identity(edit: &Edit, n: NodeId) -> Option<ValueId> {
    let g = edit.graph();
    let attrs = &g.node(n).attrs;
    let operands = g.operands(n);
    let &x = operands.first()?;
    let y = g.result(n);
    let same_dims = g.ty(x).dims == g.ty(y).dims;
    let neutral = |constant: f32, either: bool| {
        let &b = operands.get(1)?;
        match (scalar(g, x), scalar(g, b)) {
            (_, Some(c)) if c == constant && same_dims => Some(x),
            (Some(c), _) if either && c == constant && g.ty(b).dims == g.ty(y).dims => Some(b),
            _ => None,
        }
    };
    match g.op(n) {
        op if moves::is_identity(g, n) => Some(x).filter(|_| op != Opcode::Gather),
        Opcode::MaxPool | Opcode::AveragePool => {
            (attrs.get(attr::KERNEL) == [1, 1] && attrs.get(attr::STRIDES) == [1, 1] && same_dims).then_some(x)
        }
        Opcode::Clip => (attrs.get(attr::MIN) == f32::MIN && attrs.get(attr::MAX) == f32::MAX).then_some(x),
        Opcode::ReduceMean | Opcode::ReduceSum | Opcode::ReduceMax | Opcode::ReduceMin => {
            (same_dims && attrs.sizes(attr::AXES).iter().all(|&a| g.ty(x).dims.get(a) == Some(&1))).then_some(x)
        }
        Opcode::Add => neutral(0.0, true),
        Opcode::Mul => neutral(1.0, true),
        Opcode::Relu => {
            let inner = g.producer(x)?;
            matches!(g.op(inner), Opcode::Relu | Opcode::Sigmoid | Opcode::Softmax | Opcode::HardSigmoid).then_some(x)
        }
        _ => None,
    }
}

fn drop_identity(edit: &mut Edit, n: NodeId) -> bool {
    let Some(x) = identity(edit, n) else { return false };
    let y = edit.graph().result(n);
    let label = format!("canonicalize: drop {}", named(edit, n));
    if !can_bypass(edit.graph(), y, x) {
        return false;
    }
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    bypass(&mut change, y, x);
    true
}

fn merge_moves(edit: &mut Edit, n: NodeId) -> bool {
    moves::merge(edit, n, "canonicalize")
}

fn transpose_is_reshape(edit: &mut Edit, n: NodeId) -> bool {
    moves::transpose_is_reshape(edit, n, "canonicalize")
}

/// `x - c` is `x + -c`, `x / c` is `x * (1 / c)`.
fn subtract_and_divide_by_constant(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let (op, f): (_, fn(f32) -> f32) = match g.op(n) {
        Opcode::Sub => (Opcode::Add, |c| -c),
        Opcode::Div => (Opcode::Mul, |c| 1.0 / c),
        _ => return false,
    };
    let [x, c] = g.operands(n)[..] else { return false };
    let Some((tensor, data)) = floats(g, c) else { return false };
    let data: Vec<f32> = data.iter().map(|&c| f(c)).collect();
    if g.constant(x).is_some() || data.iter().any(|c| !c.is_finite()) {
        return false;
    }
    let tensor = Tensor::f32(&tensor.dims, data);
    let (y, name) = (g.result(n), format!("{}.{}", g.name_of(c), if op == Opcode::Add { "neg" } else { "inv" }));
    let label = format!("canonicalize: {} by a constant", named(edit, n));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let c = change.add_const(&name, tensor);
    substitute(&mut change, y, op, &[x, c], Attrs::new(op));
    true
}
