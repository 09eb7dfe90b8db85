//! Which kernel a step becomes.

use qcc_ir::diag::Code;
use qcc_ir::ops::{Class, IntOp, Move};
use qcc_ir::{Diag, Diags, Graph, NodeId, Opcode, attr};

use super::builder::{Border, Builder, Operation, TaskCost, bug, symbol};
use super::dynamic::parameters::dynamic_scale;
use super::dynamic::{common, curve, tables};
use super::lookup::Lookup;
use super::mean::Mean;
use super::moves::{self, Copy};
use super::norm::LayerNorm;
use super::select::{self, Order};
use super::softmax::Softmax;
use super::task::Task;
use super::vector_window::Factors;
use super::window::{self, Reduction};
use super::{elementwise, int16};
use crate::kernel::microkernel::MAX_CHANNELS;
use crate::plan::{BufferView, Decoding, Step, StepKind, Storage, halo_window};

/// The operands that a product packs, weights, bias and factors; it reads the others as they are, as other operators do all.
pub fn packed(op: Opcode) -> std::ops::Range<usize> {
    match op.info().class {
        Class::Int(IntOp::Conv2d | IntOp::QConv2d | IntOp::Linear | IntOp::QLinear) => 1..4,
        _ => 0..0,
    }
}

fn not_codes(graph: &Graph, node: NodeId) -> Diags {
    let message = format!("`{}` on elements of more than 16 bits", graph.op(node).name());
    Diag::new(Code::NO_INTEGER_FORM, message).at(graph.describe(node)).into()
}

impl Builder<'_> {
    /// Emits the tasks of a step.
    pub(super) fn step(&mut self, index: usize, step: &Step) -> Result<(), Diags> {
        self.step = index;
        let name = format!("step_{index:03}_{}", symbol(&step.name));
        match &step.kind {
            StepKind::Fill { view, halo } => {
                let bytes = view.strides[0] * view.dims[0] - view.elements();
                self.task(&name, &step.name, 1, bytes, TaskCost::of("halo"), |t| moves::fill_halo(t, view, halo))
            }
            StepKind::Copy { from, to } => {
                let copy = Copy { from: from.clone(), to: to.clone() };
                self.copy(&name, &step.name, &copy, "copy")
            }
            StepKind::Node { node, operands, result } => {
                let before = self.tasks.len();
                let attrs = &self.graph.node(*node).attrs;
                self.operation(&Operation { name: &name, value: &step.name, node: *node, attrs, operands, result })?;
                self.count_reads(before, *node, operands);
                Ok(())
            }
        }
    }

    /// Notes what the tasks of a node read: its operands, or, of a movement in several tasks, as much as each writes. A product says itself what it
    /// reads of those that it packs.
    fn count_reads(&mut self, first: usize, node: NodeId, operands: &[BufferView]) {
        let packed = packed(self.graph.op(node));
        let bytes = |constant: bool| {
            let of_kind = |(i, p): &(usize, &BufferView)| {
                !packed.contains(i) && matches!(self.plan.buffers[p.buffer].storage, Storage::Const(_)) == constant
            };
            operands.iter().enumerate().filter(of_kind).map(|(_, p)| (p.elements() * p.element) as u64).sum::<u64>()
        };
        let (activations, constants) = (bytes(false), bytes(true));
        let tasks = &mut self.tasks[first..];
        let is_product = !packed.is_empty();
        let has_main = tasks.len() == 1 || is_product;
        match tasks {
            [.., task] if has_main => {
                task.input_bytes = activations;
                task.weight_bytes += constants;
            }
            _ => tasks.iter_mut().for_each(|task| task.input_bytes = task.output_bytes),
        }
    }

    /// Bytes of weights that a step reads first, if it is a product: those of its first block of channels.
    pub(super) fn first_weights(&self, step: &Step) -> Option<usize> {
        let StepKind::Node { node, .. } = &step.kind else { return None };
        let weights = *self.graph.operands(*node).get(1).filter(|_| packed(self.graph.op(*node)).contains(&1))?;
        let dims = &self.graph.value(weights).ty.dims;
        let (&channels, rest) = dims.split_first()?;
        let block = channels.min(MAX_CHANNELS) * rest.iter().product::<usize>();
        Some(match self.plan.storages.get(node) {
            Some(Decoding::Inside | Decoding::Scratch(_)) => block.div_ceil(2),
            Some(Decoding::Transformed { .. } | Decoding::Widened { .. }) | None => block * self.shape().weight_bytes,
        })
    }

    fn copy(&mut self, name: &str, value: &str, copy: &Copy, kernel: &str) -> Result<(), Diags> {
        let storage = |p: &BufferView| self.plan.buffers[p.buffer].storage;
        if matches!(storage(&copy.from), Storage::Input(_)) || matches!(storage(&copy.to), Storage::Output(_)) {
            self.borders.push(Border { step: self.step, task: self.tasks.len(), copy: copy.clone() });
        }
        let bytes = copy.to.elements() * copy.to.element;
        self.task(name, value, copy.units(), bytes, TaskCost::of(kernel), |t| copy.emit(t))?;
        if let Some(task) = self.tasks.last_mut() {
            task.input_bytes = bytes as u64;
        }
        Ok(())
    }

    /// Emits the tasks of an operation.
    fn operation(&mut self, o: &Operation<'_>) -> Result<(), Diags> {
        match self.graph.op(o.node).info().class {
            Class::Int(op) => self.integers(o, op),
            Class::Move(op) => self.movement(o, op),
            Class::Unary(_)
            | Class::Binary(_)
            | Class::Contract(_)
            | Class::Pool(_)
            | Class::Reduce(_)
            | Class::Norm(_)
            | Class::Cast(_) => Err(bug(format!("{} is not an integer operation", self.graph.describe(o.node)))),
        }
    }

    fn movement(&mut self, o: &Operation<'_>, op: Move) -> Result<(), Diags> {
        let graph = self.graph;
        let kernel = graph.op(o.node).name();
        match op {
            Move::TopK | Move::TopKIndex | Move::ArgMax => {
                if o.operands[0].element > 2 {
                    return Err(not_codes(graph, o.node));
                }
                let order = Order::new(op, o.attrs, &o.operands[0], o.result);
                self.task_of(o, order.units(), TaskCost::of(kernel), |t| order.emit(t))
            }
            Move::Gather if graph.constant(graph.operands(o.node)[1]).is_none() => {
                let positions = graph.ty(graph.operands(o.node)[1]);
                let lookup = Lookup::new(o.attrs, positions, o.operands, o.result);
                self.task_of(o, lookup.units(), TaskCost::of("lookup"), |t| lookup.emit(t))
            }
            Move::Where => {
                let operands: Vec<BufferView> = o.operands.iter().map(|p| p.broadcast(&o.result.dims)).collect();
                let loops = elementwise::loops(&operands, o.result);
                self.task_of(o, loops.units(), TaskCost::of("where"), |t| {
                    select::choose(t, &loops, &operands, o.result)
                })
            }
            Move::Cast => {
                let types = [graph.operands(o.node)[0], graph.result(o.node)].map(|v| graph.ty(v).elem.clone());
                self.each(o, o.operands, "tensor.cast", |t| select::cast(t, &types, o.operands, o.result))
            }
            Move::Reshape
            | Move::Transpose
            | Move::Concat
            | Move::Slice
            | Move::Pad
            | Move::Gather
            | Move::Expand
            | Move::MaxPoolIndex => {
                let (copies, fill) = moves::copies(graph, o.node, op, o.operands, o.result).map_err(Diags::from)?;
                if let Some(fill) = fill {
                    let filled = Operation { name: &format!("{}_fill", o.name), ..*o };
                    self.task_of(&filled, moves::fill_units(o.result), TaskCost::of("fill"), |t| {
                        moves::fill_view(t, o.result, fill);
                    })?;
                }
                for (i, copy) in copies.iter().enumerate() {
                    self.copy(&format!("{}_{i}", o.name), o.value, copy, kernel)?;
                }
                Ok(())
            }
        }
    }

    fn integers(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let &Operation { attrs, operands, result, .. } = o;
        match op {
            IntOp::Conv2d | IntOp::QConv2d | IntOp::Linear | IntOp::QLinear => self.product(o, op),
            IntOp::MaxPool => self.pool(o, &Reduction::Max),
            IntOp::AveragePool => {
                let (zero, mult) = (attrs.get(attr::ZERO), operands[1].clone());
                self.pool(o, &Reduction::Average { zero, mult, epilogue: attrs.epilogue() })
            }
            IntOp::Mean => self.mean(o),
            IntOp::LayerNorm | IntOp::DynamicNorm => {
                let norm = LayerNorm::new(op, attrs, operands, result);
                self.task_of(o, norm.units(), TaskCost::of("layer norm"), |t| norm.emit(t))
            }
            IntOp::MatMul | IntOp::QMatMul => self.matmul(o, op),
            IntOp::Softmax => {
                let softmax = Softmax::new(attrs, operands, result);
                self.task_of(o, softmax.units(), TaskCost::of("softmax"), |t| softmax.emit(t))
            }
            IntOp::Extrema => self.extrema(o),
            IntOp::DynamicScale => self.once(o, "dynamic_scale", |t| dynamic_scale(t, attrs, operands, result)),
            IntOp::DynamicRequant => self.dynamic_requant(o),
            IntOp::AlignScales => self.once(o, "align_scales", |t| common::align_scales(t, operands, result)),
            IntOp::CommonScale => {
                self.once(o, "common_scale", |t| common::common_scale(t, &attrs.get(attr::LEVELS), operands, result))
            }
            IntOp::ProductScale => self.once(o, "product_scale", |t| common::product_scale(t, operands, result)),
            IntOp::DynamicAdd => self.each(o, &operands[..2], "dynamic_add", |t| {
                common::add(t, &attrs.get(attr::ZEROS), operands, result);
            }),
            IntOp::DynamicMul => self.each(o, operands, "dynamic_mul", |t| {
                common::multiply(t, &attrs.get(attr::ZEROS), operands, result);
            }),
            IntOp::DynamicRescale => self.each(o, &operands[..1], "dynamic_rescale", |t| {
                common::rescale(t, attrs, operands, result);
            }),
            IntOp::DynamicTable => self.once(o, "dynamic_table", |t| tables::table(t, attrs, operands, result)),
            IntOp::DynamicCurve => self.once(o, "dynamic_curve", |t| curve::table(t, attrs, operands, result)),
            IntOp::ExpTable => self.once(o, "exp_table", |t| tables::exponentials(t, operands, result)),
            IntOp::DynamicLut => {
                let loops = tables::look_up_loops(operands, result);
                self.task_of(o, loops.units(), TaskCost::of("dynamic_lut"), |t| tables::look_up(t, operands, result))
            }
            IntOp::Combine => self.combine(o),
            IntOp::Byte => self.each(o, operands, "int.byte", |t| int16::byte(t, attrs, operands, result)),
            IntOp::Curve => self.each(o, &operands[..1], "int.curve", |t| {
                int16::curve(t, attrs, &operands[..1], &operands[1], result);
            }),
            IntOp::WideMul => self.each(o, operands, "int.wide_mul", |t| int16::product(t, attrs, operands, result)),
            IntOp::WideDiv => self.each(o, operands, "int.wide_div", |t| int16::quotient(t, attrs, operands, result)),
            IntOp::Lut if operands[0].element != 1 || result.element != 1 => {
                self.each(o, &operands[..1], "int.lut", |t| int16::lut(t, &operands[..1], &operands[1], result))
            }
            IntOp::Requant
            | IntOp::Add
            | IntOp::Mul
            | IntOp::Rescale
            | IntOp::ScaleChannels
            | IntOp::Lut
            | IntOp::Lut2
            | IntOp::Clamp => {
                let shaped = elementwise::broadcastable(op, operands, result);
                if self.vector_elementwise(o, op, &shaped)? {
                    return Ok(());
                }
                let kernel = self.graph.op(o.node).name();
                self.each(o, &shaped, kernel, |t| elementwise::emit(t, op, attrs, &shaped, result))
            }
        }
    }

    fn pool(&mut self, o: &Operation<'_>, reduction: &Reduction) -> Result<(), Diags> {
        let graph = self.graph;
        let w = halo_window(graph, o.node);
        let [height, width] = w.kernel;
        let mut cost = TaskCost::of(format!("{} {height}x{width} stride {}", graph.op(o.node).name(), w.strides[0]));
        if o.result.element == 1 {
            let mult = graph.operands(o.node).get(1).and_then(|&v| graph.constant(v)).and_then(|t| t.as_i32());
            let factors = mult.map(|mult| Factors::average(o.attrs, &w, mult));
            match self.vector_window(o, (&o.operands[0], o.result), &w, factors.as_ref(), cost)? {
                Some(left) => cost = left,
                None => return Ok(()),
            }
        }
        let units = o.result.dims[0] * o.result.dims[1];
        self.task_of(o, units, cost, |t| window::emit(t, &o.operands[0], o.result, &w, reduction))
    }

    fn mean(&mut self, o: &Operation<'_>) -> Result<(), Diags> {
        let mean = Mean::new(o.attrs, &o.operands[0], o.result);
        let mut cost = TaskCost::of("mean");
        if let Some((window, factors)) = mean.as_window() {
            match self.vector_window(o, (&mean.x, &mean.result), &window, Some(&factors), cost)? {
                Some(left) => cost = left,
                None => return Ok(()),
            }
        }
        self.task_of(o, mean.units(), cost, |t| mean.emit(t))
    }

    /// Records a task of one unit.
    fn once(&mut self, o: &Operation<'_>, kernel: &str, emit: impl FnOnce(&mut Task<'_>)) -> Result<(), Diags> {
        self.task_of(o, 1, TaskCost::of(kernel), emit)
    }
}
