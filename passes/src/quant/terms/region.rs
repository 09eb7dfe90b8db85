//! From the graph to the term of a region.

use std::collections::{HashMap, HashSet};

use egg::{Id, RecExpr};
use qcc_ir::{Elem, Graph, NodeId, Opcode, ValueId};

use super::{Facts, Kind, LeafId, Operation, Site, Term};

/// Values in a row after which a region ends in any case: rewriting walks up a region term by term, and the extractor is recursive.
const MOST_HEIGHT: usize = 384;

/// Where regions end.
#[derive(Debug, Default)]
pub struct Ends {
    /// Values in which a region ends for its height alone.
    cuts: HashSet<ValueId>,
}

impl Ends {
    /// The ends of a graph's regions.
    pub fn of(g: &Graph) -> Ends {
        let mut ends = Ends::default();
        let mut heights: HashMap<ValueId, usize> = HashMap::new();
        for n in g.order() {
            let y = g.result(n);
            let below =
                g.operands(n).into_iter().filter(|&v| !ends.ends(g, v)).map(|v| heights.get(&v).map_or(0, |h| *h));
            let height = below.max().unwrap_or(0) + 1;
            let cut = height >= MOST_HEIGHT && !dequantizes(g, y);
            if cut {
                ends.cuts.insert(y);
            }
            heights.insert(y, height);
        }
        ends
    }

    /// Says that `new` has taken the place of `old`, in which a region ended.
    pub fn moved(&mut self, g: &Graph, old: ValueId, new: ValueId) {
        if self.cuts.remove(&old) {
            let quantized = g.producer(new).filter(|_| dequantizes(g, new)).map(|n| g.operands(n)[0]);
            self.cuts.insert(quantized.unwrap_or(new));
        }
    }

    /// True if a region ends in the value, and something reads it.
    pub fn is_root(&self, g: &Graph, v: ValueId) -> bool {
        self.ends(g, v) && (g.is_output(v) || g.use_count(v, 1) != 0)
    }

    /// True if the value belongs to no other region than its own, as integers and conditions do. A dequantization belongs to each of its
    /// readers, which are then readers of what it dequantizes.
    fn ends(&self, g: &Graph, v: ValueId) -> bool {
        let is_whole = matches!(g.ty(v).elem, Elem::Int(_) | Elem::Bool);
        is_whole || self.cuts.contains(&v) || !dequantizes(g, v) && (g.is_output(v) || readers(g, v, 2) != 1)
    }
}

/// Whether the value is a dequantization that no caller sees.
fn dequantizes(g: &Graph, v: ValueId) -> bool {
    g.producer(v).is_some_and(|n| g.op(n) == Opcode::DCast) && !g.is_output(v)
}

/// Number of uses, seen through dequantizations; counted no further than `most`.
fn readers(g: &Graph, v: ValueId, most: usize) -> usize {
    let mut count = 0;
    for n in g.users(v) {
        count += match g.op(n) {
            Opcode::DCast => readers(g, g.result(n), most) + usize::from(g.is_output(g.result(n))),
            _ => 1,
        };
        if count >= most {
            break;
        }
    }
    count
}

/// Builds the term of a region.
pub struct Region<'g> {
    g: &'g Graph,
    ends: &'g Ends,
    pub facts: Facts,
    pub expr: RecExpr<Term>,
    /// Values computed inside.
    pub inside: Vec<ValueId>,
}

impl Region<'_> {
    /// The region that ends in `root`.
    pub fn of<'g>(g: &'g Graph, ends: &'g Ends, root: ValueId) -> Region<'g> {
        let mut region = Region { g, ends, facts: Facts::default(), expr: RecExpr::default(), inside: Vec::new() };
        region.value(root, true);
        region
    }

    fn value(&mut self, v: ValueId, is_root: bool) -> Id {
        match self.g.producer(v) {
            Some(n) if is_root || !self.ends.ends(self.g, v) => {
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
