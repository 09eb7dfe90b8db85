//! Values in two forms, as the quantized network has them and as real numbers, and how any operation is evaluated in both.

use std::borrow::Cow;

use qcc_interp::{Numbering, Operand, SampleState, eval_node};
use qcc_ir::{Attrs, Diag, Elem, Graph, Opcode, Tensor, Type, attr};

use crate::quant::quantize;

/// A value in both forms.
pub(super) struct Pair {
    pub(super) real: Tensor,
    pub(super) quantized: Tensor,
}

/// Bytes of an element of a [`Pair`]: a real number and a code.
pub(super) const PAIR_BYTES: usize = 5;

/// The type of a value in the real network.
pub(super) fn real(ty: &Type) -> Type {
    if ty.uniform().is_some() { ty.with_elem(Elem::F32) } else { ty.clone() }
}

/// A cast between a value's two types.
pub(super) fn cast(op: Opcode, x: &Tensor, from: &Type, to: &Type) -> Result<Tensor, Diag> {
    eval_node(op, &Attrs::new(op), &[(x, from)], to)
}

impl Pair {
    /// An input of type `ty`.
    pub(super) fn of_input(real: Tensor, ty: &Type) -> Result<Pair, Diag> {
        let quantized = match ty.uniform() {
            Some(_) => cast(Opcode::QCast, &real, &ty.with_elem(Elem::F32), ty)?,
            None => real.clone(),
        };
        Ok(Pair { real, quantized })
    }

    /// Adds the squares of the elements, and those of what the quantized ones are off by, one after the other.
    pub(super) fn add_powers(&self, ty: &Type, [signal, noise]: &mut [f64; 2]) -> Result<(), Diag> {
        let found = match ty.uniform() {
            Some(_) => Cow::Owned(cast(Opcode::DCast, &self.quantized, ty, &real(ty))?),
            None => Cow::Borrowed(&self.quantized),
        };
        let (Some(y), Some(x)) = (self.real.as_f32(), found.as_f32()) else { return Ok(()) };
        for (x, y) in x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y))) {
            (*signal, *noise) = (*signal + y * y, *noise + (x - y) * (x - y));
        }
        Ok(())
    }
}

/// What an operation reads, in both forms.
enum Source<'g> {
    Slot(usize),
    Constant { real: Cow<'g, Tensor>, quantized: &'g Tensor },
}

/// An operation to be evaluated in both forms.
pub(super) struct PairedNode<'g> {
    op: Opcode,
    attrs: &'g Attrs,
    /// The attributes on quantized types.
    quantized_attrs: Cow<'g, Attrs>,
    sources: Vec<Source<'g>>,
    types: Vec<&'g Type>,
    real_types: Vec<Type>,
    ty: &'g Type,
}

impl<'g> PairedNode<'g> {
    /// The operation of a step.
    pub(super) fn new(g: &'g Graph, numbering: &Numbering, step: usize) -> Result<PairedNode<'g>, Diag> {
        let n = numbering.node(step);
        let (node, ty) = (g.node(n), g.ty(g.result(n)));
        let (mut sources, mut types) = (Vec::new(), Vec::new());
        for (operand, ty) in numbering.operands(g, step) {
            types.push(ty);
            sources.push(match operand {
                Operand::Slot(slot) => Source::Slot(slot),
                Operand::Constant(t) if ty.uniform().is_some() => {
                    Source::Constant { real: Cow::Owned(cast(Opcode::DCast, t, ty, &real(ty))?), quantized: t }
                }
                Operand::Constant(t) => Source::Constant { real: Cow::Borrowed(t), quantized: t },
            });
        }
        // What pads is a real number until casts are explicit; on quantized types the interpreter wants its code.
        let quantized_attrs = match (node.op, ty.uniform()) {
            (Opcode::Pad, Some(u)) => {
                let code = quantize::code(node.attrs.get(attr::VALUE), u) as f32;
                Cow::Owned(node.attrs.clone().with(attr::VALUE, code))
            }
            _ => Cow::Borrowed(&node.attrs),
        };
        let real_types = types.iter().map(|ty| real(ty)).collect();
        Ok(PairedNode { op: node.op, attrs: &node.attrs, quantized_attrs, sources, types, real_types, ty })
    }

    /// Its result in one sample.
    pub(super) fn evaluate(&self, sample: &SampleState<Pair>) -> Result<Pair, Diag> {
        let (mut reals, mut quantized) = (Vec::new(), Vec::new());
        for (source, (ty, real_ty)) in self.sources.iter().zip(self.types.iter().zip(&self.real_types)) {
            let (a, b) = match source {
                Source::Slot(slot) => {
                    let pair = sample.get(*slot)?;
                    (&pair.real, &pair.quantized)
                }
                Source::Constant { real, quantized } => (real.as_ref(), *quantized),
            };
            reals.push((a, real_ty));
            quantized.push((b, *ty));
        }
        let result = eval_node(self.op, &self.quantized_attrs, &quantized, self.ty)?;
        // Another quantization of the same real numbers.
        let real_result = match (self.op, reals.first()) {
            (Opcode::SCast, Some((x, _))) => Tensor::clone(x),
            _ => eval_node(self.op, self.attrs, &reals, &real(self.ty))?,
        };
        Ok(Pair { real: real_result, quantized: result })
    }
}
