//! Which kernel a step becomes.

use cranelift_codegen::ir::Function;
use cranelift_module::{FuncId, Linkage};
use qcc_ir::diag::Code;
use qcc_ir::ops::{Class, IntOp, Move};
use qcc_ir::{Attrs, Diag, Diags, Graph, NodeId, Opcode};
use qcc_num::dynamic::Rule;

use super::dynamic::{self, Extrema};
use super::edge::Border;
use super::lookup::Lookup;
use super::matmul::MatMul;
use super::moves::{self, Copy};
use super::norm::LayerNorm;
use super::reduce::{self, Mean};
use super::scales;
use super::select::{self, Order};
use super::task::Task;
use super::wide_window::Factors;
use super::window::{self, Reduction};
use super::{Builder, Choice, TaskInfo, bug, elementwise, symbol};
use crate::kernel::conv::MAX_CHANNELS;
use crate::plan::{Place, Step, StepKind, Storage, halo_window};

/// True for operators whose constants are packed rather than read as they are.
pub fn packs_constants(op: Opcode) -> bool {
    matches!(op.info().class, Class::Int(IntOp::Conv2d | IntOp::QConv2d | IntOp::Linear | IntOp::QLinear))
}

fn not_bytes(graph: &Graph, node: NodeId) -> Diags {
    let message = format!("`{}` on elements of more than 8 bits", graph.op(node).name());
    Diag::new(Code::NO_INTEGER_FORM, message).at(graph.describe(node)).into()
}

/// What is known of a task beside its code.
pub(super) struct Cost {
    pub kernel: String,
    pub macs: u64,
    pub weight_bytes: u64,
    pub choices: Vec<Choice>,
}

impl Cost {
    /// A task without multiplications.
    pub fn of(kernel: impl Into<String>) -> Cost {
        Cost { kernel: kernel.into(), macs: 0, weight_bytes: 0, choices: Vec::new() }
    }
}

impl Builder<'_> {
    /// Emits the tasks of a step.
    pub(super) fn step(&mut self, index: usize, step: &Step) -> Result<(), Diags> {
        self.step = index;
        let name = format!("step_{index:03}_{}", symbol(&step.name));
        match &step.kind {
            StepKind::Fill { place, halo } => {
                let bytes = place.strides[0] * place.dims[0] - place.elements();
                self.task(&name, &step.name, 1, bytes, Cost::of("halo"), |t| moves::fill_halo(t, place, halo))
            }
            StepKind::Copy { from, to } => {
                let copy = Copy { from: from.clone(), to: to.clone() };
                self.copy(&name, &step.name, &copy, "copy")
            }
            StepKind::Node { node, operands, result } => {
                let before = self.tasks.len();
                self.node(&name, &step.name, *node, operands, result)?;
                self.count_reads(before, operands);
                Ok(())
            }
        }
    }

    /// Notes what the tasks of a node read: its operands, or, of a movement in several tasks, as much as each writes.
    fn count_reads(&mut self, first: usize, operands: &[Place]) {
        let bytes = |constant: bool| {
            let of_kind = |p: &&Place| matches!(self.plan.buffers[p.buffer].storage, Storage::Const(_)) == constant;
            operands.iter().filter(of_kind).map(|p| (p.elements() * p.element) as u64).sum::<u64>()
        };
        let (activations, constants) = (bytes(false), bytes(true));
        let tasks = &mut self.tasks[first..];
        if let [task] = tasks {
            task.input_bytes = activations;
            task.weight_bytes = task.weight_bytes.max(constants);
            return;
        }
        for task in tasks {
            task.input_bytes = task.output_bytes;
        }
    }

    /// Bytes of weights that a step reads first, if it is a product: those of its first block of channels.
    pub(super) fn first_weights(&self, step: &Step) -> Option<usize> {
        let StepKind::Node { node, .. } = &step.kind else { return None };
        let weights = *self.graph.operands(*node).get(1).filter(|_| packs_constants(self.graph.op(*node)))?;
        let dims = &self.graph.value(weights).ty.dims;
        let (&channels, rest) = dims.split_first()?;
        Some(channels.min(MAX_CHANNELS) * rest.iter().product::<usize>() * self.shape().weight_bytes)
    }

    fn copy(&mut self, name: &str, value: &str, copy: &Copy, kernel: &str) -> Result<(), Diags> {
        let storage = |p: &Place| self.plan.buffers[p.buffer].storage;
        if matches!(storage(&copy.from), Storage::Input(_)) || matches!(storage(&copy.to), Storage::Output(_)) {
            self.borders.push(Border { step: self.step, task: self.tasks.len(), copy: copy.clone() });
        }
        let bytes = copy.to.elements() * copy.to.element;
        self.task(name, value, copy.units(), bytes, Cost::of(kernel), |t| copy.emit(t))?;
        if let Some(task) = self.tasks.last_mut() {
            task.input_bytes = bytes as u64;
        }
        Ok(())
    }

    fn node(&mut self, name: &str, value: &str, node: NodeId, operands: &[Place], result: &Place) -> Result<(), Diags> {
        let graph = self.graph;
        let attrs = &graph.node(node).attrs;
        let bytes = result.elements() * result.element;
        let op = match graph.op(node).info().class {
            Class::Int(op) => op,
            Class::Move(op @ (Move::TopK | Move::TopKIndex | Move::ArgMax)) => {
                if operands[0].element != 1 {
                    return Err(not_bytes(graph, node));
                }
                let order = Order::new(op, attrs, &operands[0], result);
                return self
                    .task(name, value, order.units(), bytes, Cost::of(graph.op(node).name()), |t| order.emit(t));
            }
            Class::Move(Move::Gather) if graph.constant(graph.operands(node)[1]).is_none() => {
                let positions = graph.ty(graph.operands(node)[1]);
                let lookup = Lookup::new(attrs, positions, operands, result);
                return self.task(name, value, lookup.units(), bytes, Cost::of("lookup"), |t| lookup.emit(t));
            }
            Class::Move(Move::Where) => {
                if operands.iter().any(|p| p.element != 1) {
                    return Err(not_bytes(graph, node));
                }
                let operands: Vec<Place> = operands.iter().map(|p| p.broadcast(&result.dims)).collect();
                let loops = elementwise::loops(&operands, result);
                let units = loops.units();
                return self.task(name, value, units, bytes, Cost::of("where"), |t| {
                    select::choose(t, &loops, &operands, result);
                });
            }
            Class::Move(op) => {
                let kernel = graph.op(node).name();
                let (copies, fill) = moves::copies(graph, node, op, operands, result).map_err(Diags::from)?;
                if let Some(fill) = fill {
                    let units = moves::fill_units(result);
                    self.task(&format!("{name}_fill"), value, units, bytes, Cost::of("fill"), |t| {
                        moves::fill_place(t, result, fill);
                    })?;
                }
                for (i, copy) in copies.iter().enumerate() {
                    self.copy(&format!("{name}_{i}"), value, copy, kernel)?;
                }
                return Ok(());
            }
            Class::Unary(_)
            | Class::Binary(_)
            | Class::Contract(_)
            | Class::Pool(_)
            | Class::Reduce(_)
            | Class::Norm(_)
            | Class::Cast(_) => {
                return Err(bug(format!("{} is not an integer operation", graph.describe(node))));
            }
        };
        match op {
            IntOp::Conv2d | IntOp::QConv2d | IntOp::Linear | IntOp::QLinear => {
                self.product(name, value, node, op, operands, result)
            }
            IntOp::MaxPool | IntOp::AveragePool => {
                let w = halo_window(graph, node);
                let reduction = match op {
                    IntOp::MaxPool => Reduction::Max,
                    _ => Reduction::Average {
                        zero: attrs.int("zero"),
                        mult: operands[1].clone(),
                        epilogue: elementwise::epilogue_of(attrs),
                    },
                };
                let units = result.dims[0] * result.dims[1];
                let kernel =
                    format!("{} {}x{} stride {}", graph.op(node).name(), w.kernel[0], w.kernel[1], w.strides[0]);
                let mult = graph.operands(node).get(1).and_then(|&v| graph.constant(v)).and_then(|t| t.as_i32());
                let factors = mult.map(|mult| Factors::average(attrs, &w, mult));
                let cost = Cost::of(kernel);
                let cost = match result.element {
                    1 => self.wide_window(name, value, (&operands[0], result), &w, factors.as_ref(), cost)?,
                    _ => Some(cost),
                };
                let Some(cost) = cost else { return Ok(()) };
                self.task(name, value, units, bytes, cost, |t| {
                    window::emit(t, &operands[0], result, &w, &reduction);
                })
            }
            IntOp::Mean => {
                let mean = Mean::new(attrs, &operands[0], result);
                if let Some((window, factors)) = mean.as_window() {
                    let places = (&mean.x, &mean.result);
                    let cost = self.wide_window(name, value, places, &window, Some(&factors), Cost::of("mean"))?;
                    if cost.is_none() {
                        return Ok(());
                    }
                }
                self.task(name, value, mean.units(), bytes, Cost::of("mean"), |t| mean.emit(t))
            }
            IntOp::LayerNorm => {
                let norm = LayerNorm::new(attrs, operands, result);
                self.task(name, value, norm.units(), bytes, Cost::of("layer norm"), |t| norm.emit(t))
            }
            IntOp::QMatMul => {
                let product = MatMul::new(attrs, operands, result);
                let cost = Cost { macs: product.macs(), ..Cost::of(product.describe()) };
                self.task(name, value, product.units(), bytes, cost, |t| product.emit(t))
            }
            IntOp::Softmax => {
                let extent = result.dims.last().copied().unwrap_or(1).max(1);
                let units = result.elements() / extent;
                self.task(name, value, units, bytes, Cost::of("softmax"), |t| {
                    reduce::softmax(t, &operands[0], &operands[1], attrs.int("mult"), result);
                })
            }
            IntOp::Extrema | IntOp::DynamicScale | IntOp::DynamicRequant | IntOp::AlignScales | IntOp::DynamicAdd => {
                self.dynamic(name, value, op, attrs, operands, result)
            }
            IntOp::Byte | IntOp::Combine | IntOp::WideMul => self.wide((name, value), node, op, operands, result),
            IntOp::Lut if operands[0].element != 1 || result.element != 1 => {
                self.wide((name, value), node, op, operands, result)
            }
            IntOp::CommonScale => self.task(name, value, 1, bytes, Cost::of("common_scale"), |t| {
                scales::common_scale(t, &attrs.ints("levels"), operands, result);
            }),
            IntOp::ProductScale => self.task(name, value, 1, bytes, Cost::of("product_scale"), |t| {
                scales::product_scale(t, operands, result);
            }),
            IntOp::DynamicTable => self.task(name, value, 1, bytes, Cost::of("dynamic_table"), |t| {
                scales::table(t, attrs, operands, result);
            }),
            IntOp::ExpTable => {
                self.task(name, value, 1, bytes, Cost::of("exp_table"), |t| scales::exponentials(t, operands, result))
            }
            IntOp::DynamicRescale => {
                let units = elementwise::loops(&operands[..1], result).units();
                self.task(name, value, units, bytes, Cost::of("dynamic_rescale"), |t| {
                    scales::rescale(t, attrs, operands, result);
                })
            }
            IntOp::DynamicMul => {
                let units = elementwise::loops(operands, result).units();
                self.task(name, value, units, bytes, Cost::of("dynamic_mul"), |t| {
                    scales::multiply(t, &attrs.ints("zeros"), operands, result);
                })
            }
            IntOp::DynamicLut => {
                let units = scales::look_up_loops(operands, result).units();
                self.task(name, value, units, bytes, Cost::of("dynamic_lut"), |t| scales::look_up(t, operands, result))
            }
            IntOp::Requant
            | IntOp::Add
            | IntOp::Mul
            | IntOp::Rescale
            | IntOp::ScaleChannels
            | IntOp::Lut
            | IntOp::Lut2
            | IntOp::Clamp => {
                let operands: &[Place] = operands;
                let shaped = elementwise::broadcastable(op, operands, result);
                if self.wide_lanes((name, value), node, op, &shaped, result)? {
                    return Ok(());
                }
                let units = elementwise::loops(&shaped, result).units();
                let kernel = graph.op(node).name();
                self.task(name, value, units, bytes, Cost::of(kernel), |t| {
                    elementwise::emit(t, op, attrs, &shaped, result);
                })
            }
        }
    }

    /// Steps of values whose scale is found at run time.
    fn dynamic(
        &mut self,
        name: &str,
        value: &str,
        op: IntOp,
        attrs: &Attrs,
        operands: &[Place],
        result: &Place,
    ) -> Result<(), Diags> {
        let bytes = result.elements() * result.element;
        let flag = || attrs.bool("rectify");
        match op {
            IntOp::Extrema => {
                let rows = attrs.int("rows") as usize;
                let (acc, result) = (operands[0].clone(), result.clone());
                if !acc.is_dense() {
                    return Err(bug(format!("{value}: accumulators with gaps")));
                }
                let parts = self.plan.part_extrema.get(&acc.buffer).zip(self.part_extrema.get(&acc.buffer));
                if let Some((&offset, parts)) = parts.filter(|_| rows >= acc.elements() / result.dims[2]) {
                    let (from, parts) = (Place { offset, ..acc.clone() }, parts.clone());
                    let extrema = Extrema { acc, result, rows };
                    return self.task(name, value, 1, bytes, Cost::of("extrema of parts"), |t| {
                        extrema.emit_parts(t, &parts, &from);
                    });
                }
                let extrema = Extrema { acc, result, rows };
                self.task(name, value, extrema.units(), bytes, Cost::of("extrema"), |t| extrema.emit(t))
            }
            IntOp::DynamicScale => {
                let exponent = |name: &str| attrs.int(name) as i32;
                let rule = Rule {
                    weight_exponent: exponent("weight_exponent"),
                    bias_exponent: exponent("bias_exponent"),
                    rectify: flag(),
                    ceiling_exponent: exponent("ceiling_exponent"),
                };
                self.task(name, value, 1, bytes, Cost::of("dynamic_scale"), |t| {
                    dynamic::dynamic_scale(t, &rule, operands, result);
                })
            }
            IntOp::AlignScales => self.task(name, value, 1, bytes, Cost::of("align_scales"), |t| {
                dynamic::align_scales(t, operands, result);
            }),
            IntOp::DynamicRequant => {
                if let Some(wide) = self.wide_requant(flag(), operands, result)? {
                    return self.task(name, value, wide.units(), bytes, Cost::of("dynamic_requant"), |t| {
                        wide.emit(t, operands, result);
                    });
                }
                let units = dynamic::requant_loops(operands, result).units();
                self.task(name, value, units, bytes, Cost::of("dynamic_requant"), |t| {
                    dynamic::dynamic_requant(t, flag(), operands, result);
                })
            }
            _ => {
                let units = elementwise::loops(&operands[..2], result).units();
                self.task(name, value, units, bytes, Cost::of("dynamic_add"), |t| {
                    dynamic::dynamic_add(t, &attrs.ints("zeros"), operands, result);
                })
            }
        }
    }

    /// Declares and emits the function of a task.
    pub(super) fn task_function(&mut self, name: &str, emit: impl FnOnce(&mut Task<'_>)) -> Result<FuncId, Diags> {
        let signature = self.signature(3, false);
        let function = self.declare(name, Linkage::Local, &signature)?;
        let mut code = Function::with_name_signature(Default::default(), signature);
        let constants = &self.constants;
        let constant = |v| constants.get(&v).copied();
        let mut t = Task::new(&mut code, &mut self.context, &mut *self.module, self.plan, &constant);
        emit(&mut t);
        t.finish();
        self.define(function, name, code)?;
        Ok(function)
    }

    /// Declares, emits and records a task.
    pub(super) fn task(
        &mut self,
        name: &str,
        value: &str,
        units: usize,
        output_bytes: usize,
        cost: Cost,
        emit: impl FnOnce(&mut Task<'_>),
    ) -> Result<(), Diags> {
        let function = self.task_function(name, emit)?;
        self.tasks.push(TaskInfo {
            name: value.to_string(),
            kernel: cost.kernel,
            function,
            units,
            macs: cost.macs,
            input_bytes: 0,
            output_bytes: output_bytes as u64,
            weight_bytes: cost.weight_bytes,
            choices: cost.choices,
        });
        Ok(())
    }
}
