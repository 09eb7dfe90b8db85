//! Elementwise steps by leaf kernels of the wide machine.

use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_module::{DataId, FuncId, Linkage};
use qcc_ir::ops::IntOp;
use qcc_ir::{Diags, NodeId, Tensor, ValueId, attr};

use super::collapse::{Level, Loops};
use super::elementwise::{affine_of, epilogue_of};
use super::step::{Cost, Operation};
use super::task::Task;
use super::{Builder, bug};
use crate::kernel::lanes::{self, Function, LanesSpec, pack_channels, pack_multiplier, pack_pair};
use crate::kernel::window::signature;
use crate::plan::Place;

/// Bytes of a row where everything is one run.
const ROW: usize = 256;

/// Rows of a unit there.
const ROWS: usize = 16;

/// The leaves of a step.
struct Leaves {
    /// For whole rows.
    rows: FuncId,
    /// For what is left of a single run.
    rest: Option<FuncId>,
    data: Option<DataId>,
}

impl Builder<'_> {
    /// Emits an elementwise step by a leaf, if there is one for it; `shaped` are the operands in the result's shape.
    pub(super) fn wide_lanes(&mut self, o: &Operation<'_>, op: IntOp, shaped: &[Place]) -> Result<bool, Diags> {
        let (node, result) = (o.node, o.result);
        if !self.options.target.has_wide_kernels() {
            return Ok(false);
        }
        let Some((function, data)) = self.byte_function(node, op)? else { return Ok(false) };
        let operands = if matches!(op, IntOp::Add | IntOp::Mul) { 2 } else { 1 };
        let mut places: Vec<&Place> = shaped[..operands].iter().collect();
        places.push(result);
        let mut strides: Vec<&[usize]> = places.iter().map(|p| p.strides.as_slice()).collect();
        if op == IntOp::ScaleChannels {
            // Keeps the channels a run of their own.
            strides.push(&shaped[1].strides);
        }
        let mut loops = Loops::new(&result.dims, &strides);
        let dense = places.iter().zip(&loops.inner).all(|(p, &inner)| p.element == 1 && inner == 1);
        let by_channel = op != IntOp::ScaleChannels || loops.run == result.dims.last().copied().unwrap_or(1);
        if !(dense && by_channel) {
            return Ok(false);
        }
        let whole = (loops.outer.is_empty() && op != IntOp::ScaleChannels).then_some(loops.run);
        match whole {
            Some(run) => {
                loops.outer.push(Level { extent: run / ROW, strides: vec![ROW; places.len()] });
                loops.run = ROW;
            }
            None if loops.outer.is_empty() => loops.outer.push(Level { extent: 1, strides: vec![0; places.len()] }),
            None => {}
        }
        let last = &loops.outer[loops.outer.len() - 1].strides;
        let spec = LanesSpec {
            run: loops.run,
            a_step: last[0],
            b_step: if operands == 2 { last[1] } else { 0 },
            out_step: last[operands],
            function,
        };
        let rest = whole.map(|run| run % ROW).filter(|&rest| rest > 0);
        let leaves = Leaves {
            rows: self.lanes_leaf(&spec)?,
            rest: rest.map(|run| self.lanes_leaf(&LanesSpec { run, ..spec.clone() })).transpose()?,
            data: match data.is_empty() {
                true => None,
                false => Some(self.data(&format!("constants_{}", o.name), Linkage::Local, data)?),
            },
        };
        let units = match whole {
            Some(run) => run.div_ceil(ROW * ROWS),
            None => loops.outer[0].extent,
        };
        let cost = Cost::of(self.graph.op(node).name());
        self.task_of(o, units, cost, |t| call(t, &leaves, &loops, &places, whole))?;
        Ok(true)
    }

    /// What the leaf computes, and its data, which may be none at all.
    fn byte_function(&self, node: NodeId, op: IntOp) -> Result<Option<(Function, Vec<u8>)>, Diags> {
        let (graph, shape) = (self.graph, self.shape());
        let attrs = &graph.node(node).attrs;
        let short = |value: i64| i16::try_from(value).ok();
        let pair =
            |mults: [i64; 2], offset: i64| Some(pack_pair(shape, [short(mults[0])?, short(mults[1])?], offset as i32));
        Ok(match op {
            IntOp::Clamp => {
                let rule = epilogue_limits(attrs);
                Some((Function::Clamp { lo: rule.0, hi: rule.1 }, Vec::new()))
            }
            IntOp::Rescale => pair([attrs.get(attr::MULT), 0], attrs.get(attr::OFFSET))
                .map(|data| (Function::Rescale(affine_of(attrs, 0)), data)),
            IntOp::Add => {
                let mults = attrs.get(attr::MULTS);
                pair([mults[0], mults[1]], attrs.get(attr::OFFSET))
                    .map(|data| (Function::Add(affine_of(attrs, 0)), data))
            }
            IntOp::Mul => {
                let zeros = attrs.get(attr::ZEROS);
                let byte = |zero: i64| u8::try_from(zero).map_err(|_| bug(format!("zero point {zero} is not a byte")));
                let function =
                    Function::Mul { zeros: [byte(zeros[0])?, byte(zeros[1])?], epilogue: epilogue_of(attrs) };
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
                        Some((Function::ScaleChannels(affine_of(attrs, 0)), data))
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

    fn lanes_leaf(&mut self, spec: &LanesSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.lanes_leaves.get(spec) {
            return Ok(id);
        }
        let signature = signature(self.module.target_config());
        let name = format!("lanes_{:03}", self.lanes_leaves.len());
        let id = self.declare(&name, Linkage::Local, &signature)?;
        let code = lanes::machine_code(spec, self.options.target.backend()).map_err(bug)?;
        let code = code.ok_or_else(|| bug("an elementwise leaf without wide kernels"))?;
        self.define_bytes(id, &name, &code)?;
        self.lanes_leaves.insert(spec.clone(), id);
        Ok(id)
    }
}

fn epilogue_limits(attrs: &qcc_ir::Attrs) -> (u8, u8) {
    let byte = |key: attr::Key<i64>| attrs.get(key).clamp(0, 255) as u8;
    (byte(attr::LO), byte(attr::HI))
}

/// Emits the task. `places` are the operands and the result.
fn call(t: &mut Task<'_>, leaves: &Leaves, loops: &Loops, places: &[&Place], whole: Option<usize>) {
    let bases: Vec<Value> = places.iter().map(|p| t.address(p)).collect();
    let data = leaves.data.map_or(bases[0], |data| t.data(data));
    let leaf = |t: &mut Task<'_>, function: FuncId, at: &[Value], rows: Value| {
        t.call(function, &[at[0], at[at.len() - 2], data, at[at.len() - 1], rows]);
    };
    let (last, levels) = loops.outer.split_last().expect("rows of a leaf");
    if let Some(run) = whole {
        let (begin, count) = t.share();
        let first = t.b.ins().imul_imm_s(begin, ROWS as i64);
        let wanted = t.b.ins().imul_imm_s(count, ROWS as i64);
        let all = t.word(run / ROW);
        let left = t.b.ins().isub(all, first);
        let rows = t.b.ins().umin(wanted, left);
        let at = t.moved(&bases, first, &last.strides);
        leaf(t, leaves.rows, &at, rows);
        if let Some(rest) = leaves.rest {
            let is_last = t.ends_at(run.div_ceil(ROW * ROWS));
            t.when(is_last, &mut |t| {
                let at = t.moved(&bases, all, &last.strides);
                let one = t.word(1);
                leaf(t, rest, &at, one);
            });
        }
        return;
    }
    if levels.is_empty() {
        let (begin, count) = t.share();
        let at = t.moved(&bases, begin, &last.strides);
        return leaf(t, leaves.rows, &at, count);
    }
    t.units(&mut |t, unit| {
        let at = t.moved(&bases, unit, &levels[0].strides);
        t.nest(&levels[1..], &at, &mut |t, at| {
            let rows = t.word(last.extent);
            leaf(t, leaves.rows, at, rows);
        });
    });
}
