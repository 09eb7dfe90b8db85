//! An integer graph as kernels in their order, and what in it belongs to which parameter.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_interp::{Numbering, Operand, Schedule};
use qcc_ir::diag::Code;
use qcc_ir::{Diag, Graph, Int, NodeId, Opcode, Tensor, Type, Uniform, ValueId, attr};

use crate::kernel::{Codes, Kernel, Site, kernel};
use crate::scores::codes_of_scores;

/// Which layer a constant belongs to, and which scale a type.
pub(crate) struct Owners<'a> {
    /// Number of the layer whose weights the constant of this name is.
    pub(crate) layer: &'a dyn Fn(&str) -> Option<usize>,
    /// Numbers of scales by their types.
    pub(crate) scales: ScaleTypes,
}

/// Numbers of scales by the addresses of their types, which are held: no other type gets the address of one.
#[derive(Default)]
pub(crate) struct ScaleTypes(HashMap<*const Uniform, (Arc<Uniform>, usize)>);

impl ScaleTypes {
    pub(crate) fn insert(&mut self, ty: Arc<Uniform>, number: usize) {
        self.0.insert(Arc::as_ptr(&ty), (ty, number));
    }

    fn get(&self, ty: &Arc<Uniform>) -> Option<usize> {
        self.0.get(&Arc::as_ptr(ty)).map(|(_, number)| *number)
    }
}

/// A value of the graph.
pub(crate) struct Slot {
    pub(crate) ty: Type,
    /// Number of its scale, if that is learned.
    pub(crate) scale: Option<usize>,
    /// Whether a parameter has an effect on it.
    pub(crate) trained: bool,
}

/// What a step reads.
pub(crate) enum Source {
    Slot(usize),
    Constant(Arc<Tensor>),
}

/// A node.
pub(crate) struct Step {
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) operands: Vec<Source>,
    pub(crate) op: Opcode,
    /// Its layer, and how many weights and outputs that has.
    pub(crate) layer: Option<(usize, [usize; 2])>,
}

/// The graph.
pub(crate) struct Program {
    pub(crate) schedule: Schedule,
    pub(crate) slots: Vec<Slot>,
    pub(crate) steps: Vec<Step>,
    /// Slots of the outputs.
    pub(crate) outputs: Vec<usize>,
    /// Slots of what outputs are compared by: scores instead of their softmax.
    pub(crate) compared: Vec<usize>,
}

impl Program {
    /// Makes kernels of the nodes.
    pub(crate) fn new(g: &Graph, owners: &Owners) -> Result<Program, Diag> {
        let numbering = Numbering::of(g);
        let schedule = numbering.schedule(g, g.outputs());
        let slot_of = |v: ValueId| {
            let ty = g.ty(v).clone();
            let scale = ty.uniform().and_then(|u| owners.scales.get(u));
            Slot { ty, scale, trained: false }
        };
        let mut slots: Vec<Slot> = g.inputs().iter().map(|&v| slot_of(v)).collect();
        let mut steps = Vec::with_capacity(schedule.steps());
        for step in 0..schedule.steps() {
            let n = numbering.node(step);
            let site = site(g, n, owners);
            let operands: Vec<Source> = numbering
                .operands(g, step)
                .into_iter()
                .map(|(operand, _)| match operand {
                    Operand::Slot(slot) => Source::Slot(slot),
                    Operand::Constant(tensor) => Source::Constant(tensor.clone()),
                })
                .collect();
            let own = site.layer.and_then(|layer| {
                let sizes = [1, 2].map(|i| site.operands.get(i).map_or(0, |(_, ty)| ty.elements()));
                Some((layer, sizes)).filter(|(_, sizes)| sizes[0] > 0)
            });
            let reads = operands.iter().any(|o| matches!(o, Source::Slot(s) if slots[*s].trained));
            let mut slot = slot_of(g.result(n));
            slot.trained = reads || own.is_some() || slot.scale.is_some();
            slots.push(slot);
            let kernel = kernel(site).map_err(|d| d.at(schedule.name(step)))?;
            steps.push(Step { kernel, operands, op: g.op(n), layer: own });
        }
        let slot = |v: ValueId| numbering.slot(v).ok_or_else(|| constant_output(g, v));
        let outputs = g.outputs().iter().map(|&v| slot(v)).collect::<Result<Vec<usize>, Diag>>()?;
        let compared =
            g.outputs().iter().map(|&v| slot(codes_of_scores(g, v))).collect::<Result<Vec<usize>, Diag>>()?;
        Ok(Program { schedule, slots, steps, outputs, compared })
    }

    /// What a step reads.
    pub(crate) fn codes<'a>(
        &'a self,
        step: usize,
        value: impl Fn(usize) -> Option<Codes<'a>>,
    ) -> Option<Vec<Codes<'a>>> {
        let one = |source: &'a Source| match source {
            Source::Slot(slot) => value(*slot),
            Source::Constant(t) => Some(Codes::Constant(t)),
        };
        self.steps[step].operands.iter().map(one).collect()
    }

    /// Bytes that the values of a sample take: of all, as a run forward and back has them.
    pub(crate) fn bytes(&self, batch: usize) -> usize {
        let bits = |slot: &Slot| slot.ty.elem.storage().map_or(8, Int::bits) as usize;
        let values: usize = self.slots.iter().map(|s| s.ty.elements() * (bits(s) / 8 + 1)).sum();
        // Backwards there are derivatives of what is still needed, each of 4 bytes: of an operand of each step, and of its result.
        let widest = self.steps.iter().enumerate().map(|(i, step)| {
            let reads = step.operands.iter().map(|o| match o {
                Source::Slot(s) => self.slots[*s].ty.elements(),
                Source::Constant(_) => 0,
            });
            4 * (step.kernel.scratch(batch)
                + batch * (reads.sum::<usize>() + self.slots[self.schedule.result(i)].ty.elements()))
        });
        batch * values + 2 * widest.max().unwrap_or(0)
    }
}

fn constant_output(g: &Graph, v: ValueId) -> Diag {
    let message = format!("output %{} depends on no input: nothing can be learned of it", g.name_of(v));
    Diag::new(Code::UNSUPPORTED, message)
}

/// A node with what its kernel needs to know.
fn site(g: &Graph, n: NodeId, owners: &Owners) -> Site {
    let operands = g.operands(n);
    let constant = |v: ValueId| (g.constant(v).cloned(), g.ty(v).clone());
    let layer = operands.get(1).filter(|&&w| g.constant(w).is_some()).and_then(|&w| (owners.layer)(g.name_of(w)));
    Site {
        op: g.op(n),
        attrs: g.node(n).attrs.clone(),
        zero: operands.first().map_or(0, |&x| zero_of(g, x)),
        operands: operands.into_iter().map(constant).collect(),
        result: g.ty(g.result(n)).clone(),
        layer,
    }
}

/// The code that stands for zero; of a byte of a number its part of it.
pub(crate) fn zero_of(g: &Graph, v: ValueId) -> u8 {
    if let Some(u) = g.ty(v).uniform() {
        return u8::try_from(u.zero_point()).unwrap_or(0);
    }
    let Some(n) = g.producer(v).filter(|&n| g.op(n) == Opcode::Byte) else { return 0 };
    let Some(u) = g.ty(g.operands(n)[0]).uniform() else { return 0 };
    let attrs = &g.node(n).attrs;
    let index = if attrs.get(attr::HIGH) { 1 } else { attrs.get(attr::INDEX) };
    let byte = ((u.zero_point() - u.min()) >> (8 * index)) & 255;
    u8::try_from(byte).unwrap_or(0)
}
