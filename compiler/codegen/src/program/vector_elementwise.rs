//! Elementwise steps by vector kernels.

use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_module::{DataId, FuncId, Linkage};
use qcc_ir::ops::IntOp;
use qcc_ir::{Diags, NodeId, Tensor, ValueId, attr};

use super::builder::{Builder, Operation, TaskCost, bug};
use super::collapse::{Level, Loops};
use super::task::Task;
use crate::kernel::elementwise::{self, ElementwiseSpec, Function, pack_channels, pack_multiplier, pack_pair};
use crate::kernel::window::signature;
use crate::plan::BufferView;

/// Bytes of a row where everything is one run.
const ROW: usize = 256;

/// Rows of a unit there.
const ROWS: usize = 16;

/// The kernels of a step.
struct Kernels {
    /// For whole rows.
    rows: FuncId,
    /// For what is left of a single run.
    rest: Option<FuncId>,
    data: Option<DataId>,
}

impl Builder<'_> {
    /// Emits an elementwise step by a kernel, if there is one for it; `shaped` are the operands in the result's shape.
    pub(super) fn vector_elementwise(
        &mut self,
        o: &Operation<'_>,
        op: IntOp,
        shaped: &[BufferView],
    ) -> Result<bool, Diags> {
        let (node, result) = (o.node, o.result);
        if !self.options.target.has_vector_kernels() {
            return Ok(false);
        }
        let Some((function, data)) = self.byte_function(node, op)? else { return Ok(false) };
        let operands = if matches!(op, IntOp::Add | IntOp::Mul) { 2 } else { 1 };
        let mut views: Vec<&BufferView> = shaped[..operands].iter().collect();
        views.push(result);
        let mut strides: Vec<&[usize]> = views.iter().map(|p| p.strides.as_slice()).collect();
        if op == IntOp::ScaleChannels {
            // Keeps the channels a run of their own.
            strides.push(&shaped[1].strides);
        }
        let mut loops = Loops::new(&result.dims, &strides);
        let dense = views.iter().zip(&loops.inner).all(|(p, &inner)| p.element == 1 && inner == 1);
        let by_channel = op != IntOp::ScaleChannels || loops.run == result.dims.last().copied().unwrap_or(1);
        if !(dense && by_channel) {
            return Ok(false);
        }
        let whole = (loops.outer.is_empty() && op != IntOp::ScaleChannels).then_some(loops.run);
        match whole {
            Some(run) => {
                loops.outer.push(Level { extent: run / ROW, strides: vec![ROW; views.len()] });
                loops.run = ROW;
            }
            None if loops.outer.is_empty() => loops.outer.push(Level { extent: 1, strides: vec![0; views.len()] }),
            None => {}
        }
        let last = &loops.outer[loops.outer.len() - 1].strides;
        let spec = ElementwiseSpec {
            run: loops.run,
            a_step: last[0],
            b_step: if operands == 2 { last[1] } else { 0 },
            out_step: last[operands],
            function,
        };
        let rest = whole.map(|run| run % ROW).filter(|&rest| rest > 0);
        let kernels = Kernels {
            rows: self.elementwise_kernel(&spec)?,
            rest: rest.map(|run| self.elementwise_kernel(&ElementwiseSpec { run, ..spec.clone() })).transpose()?,
            data: match data.is_empty() {
                true => None,
                false => Some(self.data(&format!("constants_{}", o.name), Linkage::Local, data)?),
            },
        };
        let units = match whole {
            Some(run) => run.div_ceil(ROW * ROWS),
            None => loops.outer[0].extent,
        };
        let cost = TaskCost::of(self.graph.op(node).name());
        self.task_of(o, units, cost, |t| call(t, &kernels, &loops, &views, whole))?;
        Ok(true)
    }

    /// What the kernel computes, and its data, which may be none at all.
    fn byte_function(&self, node: NodeId, op: IntOp) -> Result<Option<(Function, Vec<u8>)>, Diags> {
        let (graph, shape) = (self.graph, self.shape());
        let attrs = &graph.node(node).attrs;
        let short = |value: i64| i16::try_from(value).ok();
        let pair =
            |mults: [i64; 2], offset: i64| Some(pack_pair(shape, [short(mults[0])?, short(mults[1])?], offset as i32));
        Ok(match op {
            IntOp::Clamp => {
                let (lo, hi) = attrs.byte_bounds();
                Some((Function::Clamp { lo, hi }, Vec::new()))
            }
            IntOp::Rescale => pair([attrs.get(attr::MULT), 0], attrs.get(attr::OFFSET))
                .map(|data| (Function::Rescale(attrs.affine(0)), data)),
            IntOp::Add => {
                let mults = attrs.get(attr::MULTS);
                pair([mults[0], mults[1]], attrs.get(attr::OFFSET)).map(|data| (Function::Add(attrs.affine(0)), data))
            }
            IntOp::Mul => {
                let zeros = attrs.get(attr::ZEROS);
                let byte = |zero: i64| u8::try_from(zero).map_err(|_| bug(format!("zero point {zero} is not a byte")));
                let function = Function::Mul { zeros: [byte(zeros[0])?, byte(zeros[1])?], epilogue: attrs.epilogue() };
                Some((function, pack_multiplier(shape, attrs.get(attr::MULT) as i32)))
            }
            IntOp::Lut => self
                .constant_operand(node, 1)
                .and_then(|t| t.as_u8().map(<[u8]>::to_vec))
                .map(|table| (Function::Lut, table)),
            IntOp::ScaleChannels => {
                let (mults, offsets) = (self.constant_operand(node, 1), self.constant_operand(node, 2));
                let channels = *graph.ty(graph.result(node)).dims.last().unwrap_or(&1);
                match (mults.and_then(|t| t.as_i16()), offsets.and_then(|t| t.as_i32())) {
                    (Some(mults), Some(offsets)) if mults.len() == channels && offsets.len() == channels => {
                        let data = pack_channels(shape, mults, offsets);
                        Some((Function::ScaleChannels(attrs.affine(0)), data))
                    }
                    _ => None,
                }
            }
            _ => None,
        })
    }

    fn constant_operand(&self, node: NodeId, index: usize) -> Option<&Tensor> {
        let v: ValueId = *self.graph.operands(node).get(index)?;
        self.graph.constant(v).map(|t| &**t)
    }

    fn elementwise_kernel(&mut self, spec: &ElementwiseSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.elementwise_kernels.get(spec) {
            return Ok(id);
        }
        let signature = signature(self.module.target_config());
        let name = format!("lanes_{:03}", self.elementwise_kernels.len());
        let id = self.declare(&name, Linkage::Local, &signature)?;
        let code = elementwise::machine_code(spec, self.options.target.backend()).map_err(bug)?;
        let code = code.ok_or_else(|| bug("an elementwise kernel without vector kernels"))?;
        self.define_bytes(id, &name, &code)?;
        self.elementwise_kernels.insert(spec.clone(), id);
        Ok(id)
    }
}

/// Emits the task. `views` are the operands and the result.
fn call(t: &mut Task<'_>, kernels: &Kernels, loops: &Loops, views: &[&BufferView], whole: Option<usize>) {
    let bases: Vec<Value> = views.iter().map(|p| t.address(p)).collect();
    let data = kernels.data.map_or(bases[0], |data| t.data(data));
    let kernel = |t: &mut Task<'_>, function: FuncId, at: &[Value], rows: Value| {
        t.call(function, &[at[0], at[at.len() - 2], data, at[at.len() - 1], rows]);
    };
    let (last, levels) = loops.outer.split_last().expect("rows of a kernel");
    if let Some(run) = whole {
        let (begin, count) = t.share();
        let first = t.b.ins().imul_imm_s(begin, ROWS as i64);
        let wanted = t.b.ins().imul_imm_s(count, ROWS as i64);
        let all = t.iconst_ptr(run / ROW);
        let left = t.b.ins().isub(all, first);
        let rows = t.b.ins().umin(wanted, left);
        let at = t.moved(&bases, first, &last.strides);
        kernel(t, kernels.rows, &at, rows);
        if let Some(rest) = kernels.rest {
            let is_last = t.ends_at(run.div_ceil(ROW * ROWS));
            t.when(is_last, &mut |t| {
                let at = t.moved(&bases, all, &last.strides);
                let one = t.iconst_ptr(1);
                kernel(t, rest, &at, one);
            });
        }
        return;
    }
    if levels.is_empty() {
        let (begin, count) = t.share();
        let at = t.moved(&bases, begin, &last.strides);
        return kernel(t, kernels.rows, &at, count);
    }
    t.units(&mut |t, unit| {
        let at = t.moved(&bases, unit, &levels[0].strides);
        t.nest(&levels[1..], &at, &mut |t, at| {
            let rows = t.iconst_ptr(last.extent);
            kernel(t, kernels.rows, at, rows);
        });
    });
}
