//! Takes casts into the operators between them, by rewriting in an e-graph (`terms`): after it every operator works on
//! quantized types, and the inputs and outputs of the graph are the quantized values themselves.
//!
//! ```text
//! %x.dq = quant.dcast(%x)         : f32
//! %c    = nn.conv2d(%x.dq, ..)    : f32
//! %c.q  = quant.qcast(%c)         : !t
//! %c.dq = quant.dcast(%c.q)       : f32
//! %r    = nn.relu(%c.dq)          : f32
//! %r.q  = quant.qcast(%r)         : !t                 // zero point 0: no code stands for less than 0
//! // becomes
//! %c    = nn.conv2d(%x, ..)       : !t
//! ```
//!
//! Rules beside those of `cancel-qdq`:
//!
//! | rule | exact |
//! |---|---|
//! | `q t (op (dq a) ..) = op t a ..` | yes: that is what an operator on quantized types means |
//! | `f t x = x` where the table of `f` from the type of `x` to `t` is the identity | yes: a rectifier or clip that saturation does |
//! | `s u (q t r) = q u r` | no: one rounding less; left out with `exact` |

use egg::{Id, Rewrite, rewrite};
use qcc_ir::{Attrs, Class, Def, Diags, Edit, Elem, Int, Opcode, attr};
use qcc_num::convert::count_i64;

use crate::op_traits::{clamps, selects};
use crate::quant::cancel_qdq;
use crate::quant::constant_operands;
use crate::quant::quantize;
use crate::quant::terms::{By, Facts, Kind, Site, Term, Terms, dequantized, real_terms, rewrite_regions};
use crate::{Context, Options, Pass};

/// The pass `fuse`.
pub struct Fuse {
    exact: bool,
}

impl Fuse {
    /// The pass with its options.
    pub fn new(options: &Options) -> Fuse {
        Fuse { exact: options.exact() }
    }
}

impl Pass for Fuse {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        outputs(edit);
        inputs(edit);
        positions(edit);
        edit.remove_dead();
        let mut rules: Vec<Rewrite<Term, Facts>> = cancel_qdq::rules(self.exact);
        if !self.exact {
            rules.push(rewrite!("rescale-result"; "(s ?u (q ?t ?x))" => "(q ?u ?x)"));
        }
        rules.extend([
            rewrite!("compute-quantized"; "(q ?t ?x)" => { By(compute_quantized) }),
            rewrite!("saturation-clamps"; "?x" => { By(saturation_clamps) }),
        ]);
        rewrite_regions(edit, "fuse", &rules);
        constant_operands::quantize(edit);
        Ok(())
    }
}

/// An input that is only quantized is given quantized.
fn inputs(edit: &mut Edit) {
    for x in edit.graph().inputs().to_vec() {
        let g = edit.graph();
        let casts: Vec<_> = g.uses(x).into_iter().map(|(n, _)| n).collect();
        let Some(&first) = casts.first() else { continue };
        let ty = g.ty(g.result(first)).clone();
        let alike = casts.iter().all(|&n| g.op(n) == Opcode::QCast && *g.ty(g.result(n)) == ty);
        let label = format!("fuse: input %{} is quantized", g.name_of(x));
        if !alike || g.is_output(x) {
            continue;
        }
        let Some(mut change) = edit.begin(label) else {
            continue;
        };
        let shape: Vec<i64> = ty.dims.iter().map(|&d| count_i64(d)).collect();
        change.set_type(x, ty);
        for n in casts {
            let q = change.graph().result(n);
            if change.graph().is_output(q) {
                // An output is no input, and has its own name.
                change.set_op(n, Opcode::Reshape, Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape.clone()));
            } else {
                change.replace_uses(q, x);
            }
        }
    }
}

/// Positions of elements, and integers made of them, are the same of codes as of the real numbers for which these stand.
fn positions(edit: &mut Edit) {
    for n in edit.graph().order() {
        let g = edit.graph();
        let y = g.result(n);
        let is_whole = matches!(g.ty(y).elem, Elem::Int(_) | Elem::Bool);
        let reads = matches!(g.op(n), Opcode::ArgMax | Opcode::TopKIndex | Opcode::CastTo).then(|| g.operands(n)[0]);
        let cast = reads.and_then(|x| g.producer(x)).filter(|&p| is_whole && g.op(p) == Opcode::DCast);
        let Some(q) = cast.map(|p| g.operands(p)[0]) else { continue };
        let has_one_scale = g.ty(q).uniform().is_some_and(|u| u.axis.is_none());
        let label = format!("fuse: %{} of codes", g.name_of(y));
        if has_one_scale && let Some(mut change) = edit.begin(label) {
            change.set_operand(n, 0, q);
        }
    }
}

/// An output that is only dequantized is given quantized.
fn outputs(edit: &mut Edit) {
    let mut outputs = edit.graph().outputs().to_vec();
    for i in 0..outputs.len() {
        let g = edit.graph();
        if let Def::Node(n, _) = g.def(outputs[i])
            && g.op(n) == Opcode::DCast
        {
            let q = g.operands(n)[0];
            let label = format!("fuse: output %{} is quantized", g.name_of(q));
            let (is_taken, ty) = (matches!(g.def(q), Def::Input(_)) || outputs.contains(&q), g.ty(q).clone());
            let Some(mut change) = edit.begin(label) else { return };
            if is_taken {
                // What has a name of the interface already gives a second value.
                let shape: Vec<i64> = ty.dims.iter().map(|&d| count_i64(d)).collect();
                change.set_type(outputs[i], ty);
                change.set_op(n, Opcode::Reshape, Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape));
            } else {
                outputs[i] = q;
                change.set_outputs(outputs.clone());
            }
        }
    }
}

fn compute_quantized(egraph: &mut Terms, class: Id) -> Option<Id> {
    let casts: Vec<(Id, Id)> = egraph[class]
        .nodes
        .iter()
        .filter_map(|t| if let Term::Quantize([t, x]) = t { Some((*t, *x)) } else { None })
        .collect();
    for (ty, x) in casts {
        // What selects elements keeps the type of its operand: `cancel-qdq` knows how.
        let computes = |s: &Site| !selects(egraph.analysis.site(*s).op);
        for (site, children) in real_terms(egraph, x).into_iter().filter(|(s, _)| computes(s)) {
            let constant = |c: Id| egraph[c].nodes.iter().any(|t| matches!(t, Term::Leaf(_)));
            let quantized = children.iter().map(|&c| match dequantized(egraph, c) {
                Some((x, _)) => Some(x),
                None => constant(c).then_some(c),
            });
            let Some(quantized) = quantized.collect::<Option<Vec<Id>>>() else { continue };
            let children: Vec<Id> = [ty].into_iter().chain(quantized).collect();
            return Some(egraph.add(Term::Exact(site, children.into())));
        }
    }
    None
}

fn saturation_clamps(egraph: &mut Terms, class: Id) -> Option<Id> {
    let Kind::Quantized(to) = egraph[class].data else { return None };
    let to = egraph.analysis.uniform(to);
    egraph[class].nodes.iter().find_map(|term| {
        let Term::Exact(site, children) = term else { return None };
        let [_, x] = children[..] else { return None };
        let Kind::Quantized(from) = egraph[x].data else { return None };
        let from = egraph.analysis.uniform(from);
        // The same codes in another type stand for other numbers: `x / 2` of a swish near zero.
        if from != to {
            return None;
        }
        let operation = egraph.analysis.site(*site);
        let Class::Unary(f) = operation.op.info().class else { return None };
        if from.axis.is_some() {
            return None;
        }
        match from.storage() {
            Int::U8 => {}
            // What keeps the order of numbers and the ends of the range keeps all in between.
            Int::I16 if clamps(operation.op) => {
                let keeps = |q: i64| {
                    let same = |q| quantize::code(f(&operation.attrs, quantize::real(q, from)), to) == q;
                    i32::try_from(q).is_ok_and(same)
                };
                return (keeps(from.min()) && keeps(from.max())).then_some(x);
            }
            _ => return None,
        }
        let table = quantize::table(from, to, |v| f(&operation.attrs, v));
        table.iter().enumerate().all(|(q, &y)| q == usize::from(y)).then_some(x)
    })
}
