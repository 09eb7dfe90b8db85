//! From the graph to the term of a region.

use egg::{Id, RecExpr};
use qcc_ir::{Elem, Graph, NodeId, Opcode, ValueId};

use super::{Facts, Kind, LeafId, Operation, Site, Term};

/// True if a region ends in the value.
pub fn is_root(g: &Graph, v: ValueId) -> bool {
    ends_region(g, v) && (g.is_output(v) || !g.uses(v).is_empty())
}

/// True if the value belongs to no other region than its own, as integers and conditions do. A dequantization belongs to each of its readers, which are
/// then readers of what it dequantizes.
fn ends_region(g: &Graph, v: ValueId) -> bool {
    let dequantizes = g.producer(v).is_some_and(|n| g.op(n) == Opcode::DCast) && !g.is_output(v);
    let is_whole = matches!(g.ty(v).elem, Elem::Int(_) | Elem::Bool);
    is_whole || !dequantizes && (g.is_output(v) || readers(g, v) != 1)
}

/// Number of uses, seen through dequantizations.
fn readers(g: &Graph, v: ValueId) -> usize {
    let through = |n: NodeId| match g.op(n) {
        Opcode::DCast => readers(g, g.result(n)) + usize::from(g.is_output(g.result(n))),
        _ => 1,
    };
    g.uses(v).into_iter().map(|(n, _)| through(n)).sum()
}

/// Builds the term of a region.
pub struct Region<'g> {
    g: &'g Graph,
    pub facts: Facts,
    pub expr: RecExpr<Term>,
    /// Values computed inside.
    pub inside: Vec<ValueId>,
}

impl Region<'_> {
    /// The region that ends in `root`.
    pub fn of(g: &Graph, root: ValueId) -> Region<'_> {
        let mut region = Region { g, facts: Facts::default(), expr: RecExpr::default(), inside: Vec::new() };
        region.value(root, true);
        region
    }

    fn value(&mut self, v: ValueId, is_root: bool) -> Id {
        match self.g.producer(v) {
            Some(n) if is_root || !ends_region(self.g, v) => {
                self.inside.push(v);
                self.node(n, v)
            }
            _ => self.leaf(v),
        }
    }

    fn leaf(&mut self, v: ValueId) -> Id {
        let known = self.facts.leaves.iter().position(|l| l.0 == v);
        let l = known.unwrap_or_else(|| {
            let kind = match self.g.ty(v).uniform() {
                Some(u) => Kind::Quantized(self.facts.type_id(&u.clone())),
                None => Kind::Real,
            };
            self.facts.leaves.push((v, kind));
            self.facts.leaves.len() - 1
        });
        self.expr.add(Term::Leaf(LeafId(l)))
    }

    fn node(&mut self, n: NodeId, y: ValueId) -> Id {
        let node = self.g.node(n);
        let children: Vec<Id> = self.g.operands(n).into_iter().map(|v| self.value(v, false)).collect();
        let result = self.g.ty(y).uniform().map(|u| {
            let t = self.facts.type_id(&u.clone());
            self.expr.add(Term::Type(t))
        });
        let term = match (node.op, result, &children[..]) {
            (Opcode::QCast, Some(t), &[x]) => Term::Quantize([t, x]),
            (Opcode::DCast, None, &[x]) => Term::Dequantize([x]),
            (Opcode::SCast, Some(t), &[x]) => Term::Rescale([t, x]),
            (_, result, children) => {
                let site = Site(self.facts.sites.len());
                self.facts.sites.push(Operation {
                    op: node.op,
                    attrs: node.attrs.clone(),
                    origin: node.origin.clone(),
                    name: self.g.name_of(y).to_string(),
                    dims: self.g.ty(y).dims.clone(),
                    real_elem: self.g.ty(y).elem.clone(),
                });
                match result {
                    Some(t) => Term::Exact(site, [&[t], children].concat().into()),
                    None => Term::Real(site, children.to_vec()),
                }
            }
        };
        self.expr.add(term)
    }
}
