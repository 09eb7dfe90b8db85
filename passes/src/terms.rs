//! Quantized regions as terms of an e-graph (Willsey et al., POPL 2021), for `cancel-qdq` and `fuse`.
//!
//! ```text
//! (q T x)       quant.qcast of x to type T          (op T a b ..)   an operation on quantized types with result type T
//! (dq x)        quant.dcast                         (op a b ..)     the same on real numbers
//! (s T x)       quant.scast to T                    leaves          types, and values from outside the region
//! ```
//!
//! A region is a maximal tree: it ends where a value has several uses or none, so that a value inside has one reader. What
//! a rule may assume about uses therefore holds by construction, and the cost of a tree, summed by egg's extractor, is
//! exact: on a graph with shared values that sum grows exponentially. Costs are compared in this order: operations on real
//! numbers, requantizations, bytes moved, number of terms.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use egg::{
    Analysis, Applier, CostFunction, DidMerge, EGraph, Extractor, Id, Language, PatternAst, RecExpr, Rewrite, Runner,
    SimpleScheduler, Subst, Symbol,
};
use qcc_ir::{Attrs, Def, Edit, Elem, Graph, NodeId, Opcode, Origin, Type, Uniform, ValueId};

macro_rules! index {
    ($(#[doc = $doc:literal] $name:ident $prefix:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) usize);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(s: &str) -> Result<$name, ()> {
                s.strip_prefix($prefix).and_then(|n| n.parse().ok()).map($name).ok_or(())
            }
        }
    )*};
}

index! {
    /// A quantized type of the region.
    TypeId "!";
    /// A value from outside the region.
    LeafId "%";
    /// An operation of the region.
    Site "@";
}

egg::define_language! {
    /// A term.
    pub(crate) enum Term {
        "q" = Quantize([Id; 2]),
        "dq" = Dequantize([Id; 1]),
        "s" = Rescale([Id; 2]),
        Type(TypeId),
        Leaf(LeafId),
        // The result type is the first child.
        Exact(Site, Box<[Id]>),
        Real(Site, Vec<Id>),
    }
}

/// What a class of terms is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Type(TypeId),
    Quantized(TypeId),
    Real,
}

/// An operation of the graph.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) op: Opcode,
    pub(crate) attrs: Attrs,
    origin: Option<Arc<Origin>>,
    name: String,
    dims: Vec<usize>,
    real_elem: Elem,
}

/// What terms refer to by number.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    types: Vec<Arc<Uniform>>,
    leaves: Vec<(ValueId, Kind)>,
    sites: Vec<Operation>,
}

impl Facts {
    pub(crate) fn uniform(&self, t: TypeId) -> &Arc<Uniform> {
        &self.types[t.0]
    }

    pub(crate) fn site(&self, s: Site) -> &Operation {
        &self.sites[s.0]
    }

    fn type_id(&mut self, u: &Arc<Uniform>) -> TypeId {
        let known = self.types.iter().position(|t| t == u);
        TypeId(known.unwrap_or_else(|| {
            self.types.push(u.clone());
            self.types.len() - 1
        }))
    }
}

/// The terms of one region.
pub(crate) type Terms = EGraph<Term, Facts>;

impl Analysis<Term> for Facts {
    type Data = Kind;

    fn make(egraph: &mut Terms, term: &Term, _id: Id) -> Kind {
        let of_type = |id: Id| match egraph[id].data {
            Kind::Type(t) => Kind::Quantized(t),
            other => other,
        };
        match term {
            Term::Type(t) => Kind::Type(*t),
            Term::Leaf(l) => egraph.analysis.leaves[l.0].1,
            Term::Quantize([t, _]) | Term::Rescale([t, _]) => of_type(*t),
            Term::Exact(_, children) => of_type(children[0]),
            Term::Dequantize(_) | Term::Real(..) => Kind::Real,
        }
    }

    fn merge(&mut self, a: &mut Kind, b: Kind) -> DidMerge {
        debug_assert_eq!(*a, b, "equal terms have equal types");
        DidMerge(false, false)
    }
}

/// Adds the term that a function derives from a class, if any, to the class.
pub(crate) struct By(pub(crate) fn(&mut Terms, Id) -> Option<Id>);

impl Applier<Term, Facts> for By {
    fn apply_one(&self, egraph: &mut Terms, class: Id, _: &Subst, _: Option<&PatternAst<Term>>, _: Symbol) -> Vec<Id> {
        match (self.0)(egraph, class) {
            Some(new) if egraph.union(class, new) => vec![class],
            Some(_) | None => vec![],
        }
    }
}

/// The terms of a class that are operations on real numbers.
pub(crate) fn real_terms(egraph: &Terms, class: Id) -> Vec<(Site, Vec<Id>)> {
    let real = |t: &Term| if let Term::Real(s, children) = t { Some((*s, children.clone())) } else { None };
    egraph[class].nodes.iter().filter_map(real).collect()
}

/// What the class is the `dq` of, and the type of that.
pub(crate) fn dequantized(egraph: &Terms, class: Id) -> Option<(Id, TypeId)> {
    egraph[class].nodes.iter().find_map(|t| match t {
        Term::Dequantize([x]) => match egraph[*x].data {
            Kind::Quantized(t) => Some((*x, t)),
            Kind::Type(_) | Kind::Real => None,
        },
        _ => None,
    })
}

/// Runs `rules` on every region of the graph; `pass` names the edits.
pub(crate) fn rewrite_regions(edit: &mut Edit, pass: &str, rules: &[Rewrite<Term, Facts>]) {
    let roots: Vec<ValueId> = edit.graph().order().into_iter().map(|n| edit.graph().result(n)).collect();
    for root in roots {
        if is_root(edit.graph(), root) {
            rewrite_region(edit, pass, root, rules);
        }
    }
    edit.remove_dead();
}

fn is_root(g: &Graph, v: ValueId) -> bool {
    ends_region(g, v) && (g.is_output(v) || !g.uses(v).is_empty())
}

/// True if the value belongs to no other region than its own. A dequantization belongs to each of its readers, which are
/// then readers of what it dequantizes.
fn ends_region(g: &Graph, v: ValueId) -> bool {
    let dequantizes = g.producer(v).is_some_and(|n| g.op(n) == Opcode::DCast) && !g.is_output(v);
    !dequantizes && (g.is_output(v) || readers(g, v) != 1)
}

/// Number of uses, seen through dequantizations.
fn readers(g: &Graph, v: ValueId) -> usize {
    let through = |n: NodeId| match g.op(n) {
        Opcode::DCast => readers(g, g.result(n)) + usize::from(g.is_output(g.result(n))),
        _ => 1,
    };
    g.uses(v).into_iter().map(|(n, _)| through(n)).sum()
}

fn rewrite_region(edit: &mut Edit, pass: &str, root: ValueId, rules: &[Rewrite<Term, Facts>]) {
    let mut region = Region { g: edit.graph(), facts: Facts::default(), expr: RecExpr::default(), inside: Vec::new() };
    region.value(root, true);
    let Region { facts, expr, inside, .. } = region;
    let runner = Runner::<Term, Facts>::new(facts)
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(1000)
        .with_node_limit(1_000_000)
        .with_time_limit(Duration::from_secs(3600))
        .with_expr(&expr)
        .run(rules);
    let (_, best) = Extractor::new(&runner.egraph, Cost { facts: &runner.egraph.analysis }).find_best(runner.roots[0]);
    if best == expr || !edit.begin(format!("{pass}: %{}", edit.graph().name_of(root))) {
        return;
    }
    Rebuild { egraph: &runner.egraph, edit, inside: &inside }.run(&best, root);
}

/// Cost of one term with the terms below it, in the order said in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Price {
    real: u64,
    requantizations: u64,
    bytes: u64,
    terms: u64,
}

struct Cost<'f> {
    facts: &'f Facts,
}

impl CostFunction<Term> for Cost<'_> {
    type Cost = Price;

    fn cost<C: FnMut(Id) -> Price>(&mut self, term: &Term, mut costs: C) -> Price {
        let elements = |s: &Site| self.facts.site(*s).dims.iter().product::<usize>() as u64;
        let own = match term {
            Term::Type(_) | Term::Leaf(_) => Price::default(),
            Term::Quantize(_) => Price { requantizations: 1, ..Price::default() },
            Term::Dequantize(_) => Price::default(),
            Term::Rescale(_) => Price { requantizations: 1, ..Price::default() },
            Term::Exact(s, _) => Price { bytes: elements(s), ..Price::default() },
            Term::Real(s, _) => Price { real: 1, bytes: 4 * elements(s), ..Price::default() },
        };
        let own = Price { terms: 1, ..own };
        term.children().iter().fold(own, |sum, &c| {
            let c = costs(c);
            Price {
                real: sum.real.saturating_add(c.real),
                requantizations: sum.requantizations.saturating_add(c.requantizations),
                bytes: sum.bytes.saturating_add(c.bytes),
                terms: sum.terms.saturating_add(c.terms),
            }
        })
    }
}

/// Builds the term of a region.
struct Region<'g> {
    g: &'g Graph,
    facts: Facts,
    expr: RecExpr<Term>,
    /// Values computed inside.
    inside: Vec<ValueId>,
}

impl Region<'_> {
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

/// Puts an extracted term in the place of its region.
struct Rebuild<'a, 'g> {
    egraph: &'a Terms,
    edit: &'a mut Edit<'g>,
    inside: &'a [ValueId],
}

impl Rebuild<'_, '_> {
    fn run(mut self, best: &RecExpr<Term>, root: ValueId) {
        let name = self.edit.graph().name_of(root).to_string();
        // The new values take the names of the old ones, which go away.
        for &v in self.inside {
            let name = format!("{}.dead", self.edit.graph().name_of(v));
            self.edit.rename(v, &name);
        }
        let classes = self.egraph.lookup_expr_ids(best).unwrap_or_default();
        let mut values: HashMap<Id, ValueId> = HashMap::new();
        let mut last = root;
        for (i, term) in best.as_ref().iter().enumerate() {
            if let Some(v) = self.term(best, term, classes.get(i).copied(), &values) {
                values.insert(Id::from(i), v);
                last = v;
            }
        }
        let leaf = matches!(best.as_ref().last(), Some(Term::Leaf(_)));
        if leaf && self.edit.graph().is_output(root) {
            last = self.named_output(last, &name);
        }
        self.edit.replace_uses(root, last);
        if !leaf {
            self.take_name(last, &name);
        }
    }

    /// A value that takes the place of an output: with the output's name, and as a value of its own if it is an input or an output
    /// already.
    fn named_output(&mut self, v: ValueId, name: &str) -> ValueId {
        let name = name.strip_suffix(".q").unwrap_or(name);
        let g = self.edit.graph();
        if g.producer(v).is_some() && !g.is_output(v) {
            self.edit.rename(v, name);
            return v;
        }
        let ty = g.ty(v).clone();
        let attrs = Attrs::new(Opcode::Reshape).with("shape", ty.dims.as_slice());
        self.edit.add(Opcode::Reshape, &[v], attrs, name, ty, None)
    }

    /// The name of the region's root, or of the real value that it is the quantization of, if that is gone.
    fn take_name(&mut self, v: ValueId, name: &str) {
        let real = name.strip_suffix(".q").unwrap_or(name);
        let wanted = [real, name].into_iter().find(|n| self.edit.graph().find(n).is_none());
        if let Some(wanted) = wanted.filter(|_| self.edit.graph().name_of(v) != real) {
            self.edit.rename(v, wanted);
        }
    }

    /// The last operation whose result the class is: a rectifier that vanished gives its name to what it rectified.
    fn named_after(&self, class: Option<Id>, site: Site) -> &str {
        let sites = class.into_iter().flat_map(|c| &self.egraph[c].nodes).filter_map(|t| match t {
            Term::Exact(s, _) => Some(*s),
            _ => None,
        });
        &self.egraph.analysis.site(sites.max().unwrap_or(site)).name
    }

    fn type_of(&self, best: &RecExpr<Term>, id: Id) -> Option<Elem> {
        match &best[id] {
            Term::Type(t) => Some(Elem::Uniform(self.egraph.analysis.uniform(*t).clone())),
            _ => None,
        }
    }

    fn term(
        &mut self,
        best: &RecExpr<Term>,
        term: &Term,
        class: Option<Id>,
        values: &HashMap<Id, ValueId>,
    ) -> Option<ValueId> {
        match term {
            Term::Type(_) => None,
            Term::Leaf(l) => Some(self.egraph.analysis.leaves[l.0].0),
            Term::Quantize([t, x]) => self.cast(Opcode::QCast, *values.get(x)?, self.type_of(best, *t)?, ".q"),
            Term::Rescale([t, x]) => self.cast(Opcode::SCast, *values.get(x)?, self.type_of(best, *t)?, ".s"),
            Term::Dequantize([x]) => self.cast(Opcode::DCast, *values.get(x)?, Elem::F32, ".dq"),
            Term::Exact(s, children) => {
                let elem = self.type_of(best, children[0])?;
                let name = self.named_after(class, *s).to_string();
                self.operation(*s, &children[1..], &name, elem, values)
            }
            Term::Real(s, children) => {
                let site = self.egraph.analysis.site(*s);
                self.operation(*s, children, &site.name, site.real_elem.clone(), values)
            }
        }
    }

    fn cast(&mut self, op: Opcode, x: ValueId, elem: Elem, suffix: &str) -> Option<ValueId> {
        let g = self.edit.graph();
        let name = g.name_of(x);
        let base = if op == Opcode::DCast { name.strip_suffix(".q").unwrap_or(name) } else { name };
        let name = format!("{base}{suffix}");
        let ty = g.ty(x).with_elem(elem);
        let origin = match g.def(x) {
            Def::Node(n, _) => g.node(n).origin.clone(),
            Def::Input(_) | Def::Const(_) => None,
        };
        Some(self.edit.add(op, &[x], Attrs::new(op), &name, ty, origin))
    }

    fn operation(
        &mut self,
        s: Site,
        children: &[Id],
        name: &str,
        elem: Elem,
        values: &HashMap<Id, ValueId>,
    ) -> Option<ValueId> {
        let operands: Vec<ValueId> = children.iter().map(|c| values.get(c).copied()).collect::<Option<_>>()?;
        let site = self.egraph.analysis.site(s);
        let ty = Type { dims: site.dims.clone(), elem };
        let attrs = quantized_attrs(site, &ty);
        Some(self.edit.add(site.op, &operands, attrs, name, ty, site.origin.clone()))
    }
}

/// The value that `tensor.pad` writes is a real number on real operands and a code on quantized ones.
fn quantized_attrs(site: &Operation, ty: &Type) -> Attrs {
    match (site.op, ty.uniform(), &site.real_elem) {
        (Opcode::Pad, Some(u), Elem::F32 | Elem::Calibrated(_)) => {
            let code = crate::quantize::code(site.attrs.float("value"), u);
            site.attrs.clone().with("value", code as f32)
        }
        _ => site.attrs.clone(),
    }
}
