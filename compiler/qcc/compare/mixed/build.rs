//! The steps of the network between float and quantized, made from the graph with explicit casts, and their grouping into parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qcc_interp::Schedule;
use qcc_ir::diag::Code;
use qcc_ir::{Def, Diag, Elem, Graph, NodeId, Opcode, Tensor, Type, ValueId};
use qcc_passes::op_traits::{clamps, selects};

use super::evaluate::dequantized;
use super::{Action, Mixed, Operand, Parameter, Part, Step};
use crate::cost::multiply_accumulates;

/// The type of a value on real numbers.
fn real(ty: &Type) -> Type {
    match ty.elem {
        Elem::Uniform(_) | Elem::Calibrated(_) => ty.with_elem(Elem::F32),
        Elem::F32 | Elem::Bool | Elem::Int(_) => ty.clone(),
    }
}

pub(super) struct Builder<'a> {
    float: &'a Graph,
    g: &'a Graph,
    slots: HashMap<ValueId, usize>,
    steps: Vec<Step>,
    /// How diagnostics call them.
    names: Vec<String>,
    /// For each step that rounds: the step that stands for its part.
    root: HashMap<usize, usize>,
    /// The node of each step, and the value that it computes or rounds.
    origin: Vec<(NodeId, ValueId)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(float: &'a Graph, g: &'a Graph) -> Builder<'a> {
        let slots = g.inputs().iter().enumerate().map(|(i, &v)| (v, i)).collect();
        Builder { float, g, slots, steps: Vec::new(), names: Vec::new(), root: HashMap::new(), origin: Vec::new() }
    }

    pub(super) fn build(mut self) -> Result<Mixed, Diag> {
        let g = self.g;
        for n in g.order() {
            self.node(n)?;
        }
        let inputs = g.inputs().len();
        let slot = |&v: &ValueId| {
            let missing = || Diag::new(Code::UNSUPPORTED, format!("output %{} is a constant", g.name_of(v)));
            self.slots.get(&v).copied().ok_or_else(missing)
        };
        let outputs: Vec<usize> = g.outputs().iter().map(slot).collect::<Result<_, Diag>>()?;
        let parts = self.parts(inputs);
        let reads = self.names.into_iter().zip(self.steps.iter().map(Step::reads));
        let schedule = Schedule::new(inputs, reads, &outputs);
        Ok(Mixed { schedule, steps: self.steps, outputs, parts })
    }

    fn push(&mut self, n: NodeId, v: ValueId, action: Action) -> usize {
        self.names.push(self.g.describe(n));
        let macs = multiply_accumulates(self.g, n);
        self.steps.push(Step { action, part: None, macs });
        self.origin.push((n, v));
        let slot = self.g.inputs().len() + self.steps.len() - 1;
        self.slots.insert(self.g.result(n), slot);
        slot
    }

    fn node(&mut self, n: NodeId) -> Result<(), Diag> {
        let (g, y) = (self.g, self.g.result(n));
        let operands = g.operands(n);
        let x = operands.first().and_then(|v| self.slots.get(v).copied());
        match (g.op(n), x) {
            (Opcode::DCast, Some(slot)) => {
                self.slots.insert(y, slot);
            }
            // What reads it takes the constant.
            (Opcode::DCast, None) => {}
            (Opcode::QCast | Opcode::SCast, Some(of)) => {
                self.push(n, operands[0], Action::Round { of, to: g.ty(y).clone() });
                let step = self.steps.len() - 1;
                let root = self.repeats(of, g.ty(y)).unwrap_or(step);
                self.root.insert(step, root);
            }
            _ => {
                let node = g.node(n);
                let operands = (0..operands.len()).map(|i| self.operand(n, i)).collect::<Result<_, Diag>>()?;
                let action = Action::Compute { op: node.op, attrs: node.attrs.clone(), operands, ty: real(g.ty(y)) };
                self.push(n, y, action);
            }
        }
        Ok(())
    }

    /// If the value of a slot is an activation or a move of one that was rounded to the same type: the part of that.
    fn repeats(&self, slot: usize, ty: &Type) -> Option<usize> {
        let inputs = self.g.inputs().len();
        let step = &self.steps[slot.checked_sub(inputs)?];
        let Action::Compute { op, operands, .. } = &step.action else { return None };
        let mut read = operands.iter().filter_map(Operand::slot);
        let (Some(x), None) = (read.next(), read.next()) else { return None };
        let before = x.checked_sub(inputs)?;
        let Action::Round { to, .. } = &self.steps[before].action else { return None };
        let same = to.elem == ty.elem && (clamps(*op) || selects(*op));
        same.then(|| self.root[&before])
    }

    fn operand(&self, n: NodeId, i: usize) -> Result<Operand, Diag> {
        let g = self.g;
        let v = g.operands(n)[i];
        if let Some(&slot) = self.slots.get(&v) {
            return Ok(Operand::Slot(slot));
        }
        let cast = g.producer(v).filter(|&p| g.op(p) == Opcode::DCast).map(|p| g.operands(p)[0]);
        let constant = cast.unwrap_or(v);
        let Def::Const(tensor) = g.def(constant) else {
            let message = format!("%{} is used before it is computed", g.name_of(v));
            return Err(Diag::new(Code::VERIFY, message).at(g.describe(n)));
        };
        let Some(uniform) = g.ty(constant).uniform() else { return Ok(Operand::Constant(tensor)) };
        let rounded = Arc::new(dequantized(&tensor, g.ty(constant))?);
        let (name, real) = match self.original(n, i) {
            // A bias that was added to correct the layer.
            Some(None) => (g.name_of(constant), Arc::new(Tensor::f32(&rounded.dims, vec![0.0; rounded.data.len()]))),
            Some(Some((name, real))) if real.dims == rounded.dims => (name, real.clone()),
            _ => (g.name_of(constant), rounded.clone()),
        };
        Ok(Operand::Parameter(Parameter { name: name.to_string(), real, rounded, uniform: uniform.clone() }))
    }

    /// The constant that is operand `i` of the same node where nothing was quantized yet; inner `None` if that has no such operand.
    fn original(&self, n: NodeId, i: usize) -> Option<Option<(&str, &Arc<Tensor>)>> {
        let (g, float) = (self.g, self.float);
        let m = float.producer(float.find(g.name_of(g.result(n)))?).filter(|&m| float.op(m) == g.op(n))?;
        match float.operands(m).get(i) {
            Some(&v) => float.constant(v).filter(|t| t.as_f32().is_some()).map(|t| Some((float.name_of(v), t))),
            None => Some(None),
        }
    }

    /// Groups the steps into parts.
    fn parts(&mut self, inputs: usize) -> Vec<Part> {
        let g = self.g;
        let mut parts: Vec<Part> = Vec::new();
        let mut by_root: HashMap<usize, usize> = HashMap::new();
        for i in 0..self.steps.len() {
            let (n, v) = self.origin[i];
            let Action::Round { of, to } = &self.steps[i].action else { continue };
            let (of, to) = (*of, to.clone());
            let part = *by_root.entry(self.root[&i]).or_insert_with(|| {
                let producer = of.checked_sub(inputs).map(|s| self.origin[s].0).filter(|&p| g.op(p) != Opcode::QCast);
                parts.push(Part {
                    name: g.name_of(v).to_string(),
                    values: Vec::new(),
                    op: producer.map_or("input", |p| g.op(p).name()),
                    is_rounded: true,
                    is_named: g.op(n) == Opcode::QCast,
                    ty: to.clone(),
                    slot: of,
                    rounded_slot: inputs + i,
                    layer: None,
                    sources: Vec::new(),
                });
                parts.len() - 1
            });
            let entry = &mut parts[part];
            entry.values.push(g.name_of(v).to_string());
            (entry.slot, entry.rounded_slot, entry.ty) = (of, inputs + i, to);
            self.steps[i].part = Some(part);
        }
        self.assign_layers(inputs, &mut parts);
        let part_of = |s: usize| {
            s.checked_sub(inputs).and_then(|s| match &self.steps[s].action {
                Action::Round { .. } => self.steps[s].part,
                Action::Compute { .. } => None,
            })
        };
        for (p, part) in parts.iter_mut().enumerate() {
            let mut open = vec![part.slot];
            let mut seen = HashSet::new();
            while let Some(slot) = open.pop() {
                match part_of(slot).filter(|&q| q != p) {
                    Some(q) => part.sources.push(q),
                    None => {
                        let Some(step) = slot.checked_sub(inputs) else { continue };
                        open.extend(self.steps[step].reads().into_iter().filter(|&s| seen.insert(s)));
                    }
                }
            }
        }
        parts
    }

    /// Gives every step with parameters to the part of its result; where that is not rounded, to a part of its own.
    fn assign_layers(&mut self, inputs: usize, parts: &mut Vec<Part>) {
        let g = self.g;
        for i in 0..self.steps.len() {
            let Action::Compute { op, operands, ty, .. } = &self.steps[i].action else { continue };
            if !operands.iter().any(|o| matches!(o, Operand::Parameter(_))) {
                continue;
            }
            let v = self.origin[i].1;
            let is_rounded = |s: &Step| matches!(s.action, Action::Round { of, .. } if of == inputs + i);
            let part = match self.steps.iter().find(|s| is_rounded(s)).and_then(|s| s.part) {
                Some(part) => part,
                None => {
                    parts.push(Part {
                        name: g.name_of(v).to_string(),
                        values: vec![g.name_of(v).to_string()],
                        op: op.name(),
                        is_rounded: false,
                        is_named: false,
                        ty: ty.clone(),
                        slot: inputs + i,
                        rounded_slot: inputs + i,
                        layer: None,
                        sources: Vec::new(),
                    });
                    parts.len() - 1
                }
            };
            parts[part].layer = Some(i);
            self.steps[i].part = Some(part);
        }
    }
}
