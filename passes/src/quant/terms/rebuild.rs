//! From a term back to the graph.

use std::collections::HashMap;

use egg::{Id, RecExpr};
use qcc_ir::{Attrs, Change, Elem, Opcode, Type, ValueId, attr};

use super::{Operation, Site, Term, Terms};
use crate::rewrite::origin_of;

/// Puts an extracted term in the place of its region.
pub struct Rebuild<'a, 'g> {
    pub egraph: &'a Terms,
    pub change: &'a mut Change<'g>,
    /// Values computed inside of the region.
    pub inside: &'a [ValueId],
}

impl Rebuild<'_, '_> {
    /// Adds the operations of `best`; the last one, which is returned, takes the place of `root`.
    pub fn run(mut self, best: &RecExpr<Term>, root: ValueId) -> ValueId {
        let name = self.change.graph().name_of(root).to_string();
        // The new values take the names of the old ones, which go away.
        for &v in self.inside {
            let name = format!("{}.dead", self.change.graph().name_of(v));
            self.change.rename(v, &name);
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
        if leaf && self.change.graph().is_output(root) {
            last = self.named_output(last, &name);
        }
        self.change.replace_uses(root, last);
        if !leaf {
            self.take_name(last, &name);
        }
        last
    }

    /// A value that takes the place of an output: with the output's name, and as a value of its own if it is an input or an output
    /// already.
    fn named_output(&mut self, v: ValueId, name: &str) -> ValueId {
        let name = name.strip_suffix(".q").unwrap_or(name);
        let g = self.change.graph();
        if g.producer(v).is_some() && !g.is_output(v) {
            self.change.rename(v, name);
            return v;
        }
        let ty = g.ty(v).clone();
        let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, ty.dims.as_slice());
        self.change.add(Opcode::Reshape, &[v], attrs, name, ty, None)
    }

    /// The name of the region's root, or of the real value that it is the quantization of, if that is gone.
    fn take_name(&mut self, v: ValueId, name: &str) {
        let real = name.strip_suffix(".q").unwrap_or(name);
        let wanted = [real, name].into_iter().find(|n| self.change.graph().find(n).is_none());
        if let Some(wanted) = wanted.filter(|_| self.change.graph().name_of(v) != real) {
            self.change.rename(v, wanted);
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
        let g = self.change.graph();
        let name = g.name_of(x);
        let base = if op == Opcode::DCast { name.strip_suffix(".q").unwrap_or(name) } else { name };
        let name = format!("{base}{suffix}");
        let ty = g.ty(x).with_elem(elem);
        let origin = origin_of(g, x);
        Some(self.change.add(op, &[x], Attrs::new(op), &name, ty, origin))
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
        Some(self.change.add(site.op, &operands, attrs, name, ty, site.origin.clone()))
    }
}

/// The value that `tensor.pad` writes is a real number on real operands and a code on quantized ones.
fn quantized_attrs(site: &Operation, ty: &Type) -> Attrs {
    match (site.op, ty.uniform(), &site.real_elem) {
        (Opcode::Pad, Some(u), Elem::F32 | Elem::Calibrated(_)) => {
            let code = crate::quant::quantize::code(site.attrs.get(attr::VALUE), u);
            site.attrs.clone().with(attr::VALUE, code as f32)
        }
        _ => site.attrs.clone(),
    }
}
