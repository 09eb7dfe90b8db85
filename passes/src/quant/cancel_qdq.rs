//! Cancels casts that meet and lets data movement work on quantized types, by rewriting in an e-graph (`terms`).
//!
//! ```text
//! %a.dq = quant.dcast(%a) : f32                    %a  : !t
//! %m    = tensor.transpose(%a.dq) {perm = [1, 0]}
//! %m.q  = quant.qcast(%m) : !u
//! // becomes
//! %m    = tensor.transpose(%a) {perm = [1, 0]} : !t
//! %m.s  = quant.scast(%m) : !u                      // only if !u is not !t
//! ```
//!
//! | rule | exact |
//! |---|---|
//! | `q t (dq x) = x` if `x` has type `t` | yes: every code survives the round trip (`qcc_num::edge`) |
//! | `q t (dq x) = s t x` otherwise | yes, by the meaning of `quant.scast` |
//! | `s u (s t x) = s u x` | no: one rounding less |
//! | `move (dq x) = dq (move x)` for what only selects elements, maxima among them | yes, if padding is representable |
//! | `q t (concat a b) = concat (q t a) (q t b)`, and for padding and selection by a condition | yes: what pads is rounded as any element is |

use egg::{Id, Rewrite, Subst, rewrite};
use qcc_ir::{Diags, Edit, Opcode, attr};

use crate::op_traits::selects;
use crate::quant::quantize;
use crate::quant::terms::{By, Facts, Kind, Site, Term, Terms, dequantized, real_terms, rewrite_regions};
use crate::{Context, Pass};

/// The pass `cancel-qdq`.
pub struct CancelQdq;

impl Pass for CancelQdq {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        rewrite_regions(edit, "cancel-qdq", &rules(false));
        Ok(())
    }
}

/// The rules in the table above; `exact`, only those that are.
pub(crate) fn rules(exact: bool) -> Vec<Rewrite<Term, Facts>> {
    let mut rules = vec![
        rewrite!("cancel-equal"; "(q ?t (dq ?x))" => "?x" if of_type("?t", "?x", true)),
        rewrite!("cancel-unequal"; "(q ?t (dq ?x))" => "(s ?t ?x)" if of_type("?t", "?x", false)),
        rewrite!("drop-rescale"; "(s ?t ?x)" => "?x" if of_type("?t", "?x", true)),
        rewrite!("move-quantized"; "?x" => { By(move_quantized) }),
        rewrite!("quantize-operands"; "(q ?t ?x)" => { By(quantize_operands) }),
    ];
    if !exact {
        rules.push(rewrite!("merge-rescale"; "(s ?u (s ?t ?x))" => "(s ?u ?x)"));
    }
    rules
}

/// Whether `x` has the type `t`, or not.
fn of_type(t: &str, x: &str, wanted: bool) -> impl Fn(&mut Terms, Id, &Subst) -> bool + use<> {
    let (t, x) = (t.parse::<egg::Var>(), x.parse::<egg::Var>());
    move |egraph, _, subst| {
        let (Ok(t), Ok(x)) = (&t, &x) else { return false };
        match (egraph[subst[*t]].data, egraph[subst[*x]].data) {
            (Kind::Type(t), Kind::Quantized(u)) => (t == u) == wanted,
            _ => false,
        }
    }
}

fn move_quantized(egraph: &mut Terms, class: Id) -> Option<Id> {
    let (site, children) = real_terms(egraph, class).into_iter().find(|(s, _)| selects(egraph.analysis.site(*s).op))?;
    let (_, ty) = dequantized(egraph, *children.first()?)?;
    let operation = egraph.analysis.site(site);
    let uniform = egraph.analysis.uniform(ty);
    if operation.op == Opcode::Pad {
        let value = operation.attrs.get(attr::VALUE);
        let code = quantize::code(value, uniform);
        if quantize::real(code, uniform) != value {
            return None;
        }
    }
    // Indices of a gather are no reals, nor is a condition.
    let data = match operation.op {
        Opcode::Gather => 1,
        Opcode::Where => 2,
        _ => children.len(),
    };
    let mut quantized = vec![egraph.add(Term::Type(ty))];
    for (i, &c) in children.iter().enumerate() {
        quantized.push(match dequantized(egraph, c) {
            Some((x, t)) if t == ty => x,
            None if i >= data => c,
            Some(_) | None => return None,
        });
    }
    let moved = egraph.add(Term::Exact(site, quantized.into()));
    Some(egraph.add(Term::Dequantize([moved])))
}

fn quantize_operands(egraph: &mut Terms, class: Id) -> Option<Id> {
    let casts = egraph[class].nodes.iter().find_map(|t| match t {
        Term::Quantize([t, x]) => {
            let mut moves = real_terms(egraph, *x).into_iter();
            let any = |s: Site| matches!(egraph.analysis.site(s).op, Opcode::Concat | Opcode::Pad | Opcode::Where);
            Some((*t, moves.find(|(s, _)| any(*s))?))
        }
        _ => None,
    });
    let (ty, (site, children)) = casts?;
    // A condition is no real.
    let data = if egraph.analysis.site(site).op == Opcode::Where { 2 } else { children.len() };
    let parts = children.into_iter().enumerate();
    let parts: Vec<Id> = parts.map(|(i, c)| if i < data { egraph.add(Term::Quantize([ty, c])) } else { c }).collect();
    let children: Vec<Id> = [ty].into_iter().chain(parts).collect();
    Some(egraph.add(Term::Exact(site, children.into())))
}
