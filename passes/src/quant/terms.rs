//! Quantized regions as terms of an e-graph (Willsey et al., POPL 2021), for `cancel-qdq` and `fuse`.
//!
//! ```text
//! (q T x)       quant.qcast of x to type T          (op T a b ..)   an operation on quantized types with result type T
//! (dq x)        quant.dcast                         (op a b ..)     the same on real numbers
//! (s T x)       quant.scast to T                    leaves          types, and values from outside the region
//! ```
//!
//! A region is a maximal tree up to some height: it ends where a value has several uses or none, so that a value inside has one reader. What
//! a rule may assume about uses therefore holds by construction, and the cost of a tree, summed by egg's extractor, is
//! exact: on a graph with shared values that sum grows exponentially. Costs are compared in this order: operations on real
//! numbers, requantizations, bytes moved, number of terms.

mod rebuild;
mod region;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use egg::{
    Analysis, Applier, CostFunction, DidMerge, EGraph, Extractor, Id, Language, PatternAst, Rewrite, Runner,
    SimpleScheduler, Subst, Symbol,
};
use qcc_ir::{Attrs, Edit, Elem, Opcode, Origin, Uniform, ValueId};

use rebuild::Rebuild;
use region::{Ends, Region};

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
    let mut ends = Ends::of(edit.graph());
    for root in roots {
        if ends.is_root(edit.graph(), root) {
            rewrite_region(edit, pass, root, rules, &mut ends);
        }
    }
    edit.remove_dead();
}

fn rewrite_region(edit: &mut Edit, pass: &str, root: ValueId, rules: &[Rewrite<Term, Facts>], ends: &mut Ends) {
    let Region { facts, expr, inside, .. } = Region::of(edit.graph(), ends, root);
    let runner = Runner::<Term, Facts>::new(facts)
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(1000)
        .with_node_limit(1_000_000)
        .with_time_limit(Duration::from_secs(3600))
        .with_expr(&expr)
        .run(rules);
    let (_, best) = Extractor::new(&runner.egraph, Cost { facts: &runner.egraph.analysis }).find_best(runner.roots[0]);
    if best == expr {
        return;
    }
    let Some(mut change) = edit.begin(format!("{pass}: %{}", edit.graph().name_of(root))) else {
        return;
    };
    let new = Rebuild { egraph: &runner.egraph, change: &mut change, inside: &inside }.run(&best, root);
    ends.moved(change.graph(), root, new);
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
