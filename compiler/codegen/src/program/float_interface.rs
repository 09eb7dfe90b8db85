//! The float interface: `run_f32` takes and gives floats where the integer model has bytes.
//!
//! ```text
//! measure, scale      of an input with a dynamic scale
//! quantize            all of an input into the staging area; or
//!   in place of a copy  of an input into the arena, such as the transposition of its channels: floats go where the bytes would
//! the integer tasks
//!   in place of a copy  of the arena into an output: bytes become floats where they would be moved
//! dequantize          all of an output from the staging area
//! ```
//! These are the only functions with float instructions. They lie in a section of their own. They are tasks like those of
//! integer steps: their units can be done in any order and on any thread. The arithmetic is equations (6), (7) and (14) of
//! [`qcc_num::edge`].

mod conversion;
mod fused;
mod inner_loop;
mod measure;
mod scale;
mod values;

use std::collections::HashMap;

use cranelift_module::{FuncId, Linkage};
use qcc_ir::{Diags, Int, ValueId};

use super::builder::{Border, Builder, bug};
use super::call::Call;
use super::task::{Task, frame};
use crate::kernel::float_conversion::{ConversionKind, ConversionSpec, Layout, emit as emit_kernel};
use crate::kernel::window::signature;
use crate::plan::{ALIGN, element_bytes};
use conversion::{Bytes, Conversion, Scale};
use fused::{Fused, early_scale, fused, zmm};
use inner_loop::InnerLoop;
use measure::Measure;
pub use values::refusal;
use values::{FLOAT, boundary, real_values};

/// What `run_f32` does.
pub(super) struct FloatInterface {
    /// Offsets, from the start of the scratch, of what stands for the inputs and outputs of the integer model.
    pub inputs: Vec<usize>,
    /// See [`FloatInterface::inputs`].
    pub outputs: Vec<usize>,
    /// Offset of the array of input pointers; that of the outputs follows it.
    pub pointers: usize,
    /// Number of real inputs and outputs.
    pub reals: [usize; 2],
    /// Bytes of scratch in all.
    pub scratch_bytes: usize,
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// Names of the functions that the interface consists of.
    pub names: Vec<String>,
}

/// Offsets in the scratch, of inputs and of outputs.
type Staged = [Vec<Option<usize>>; 2];

/// A real input or output.
struct RealTensor {
    quantize: bool,
    /// Position among the real inputs or outputs.
    index: usize,
    v: ValueId,
    /// Position of its dynamic scale.
    scale: Option<usize>,
    /// The copies that conversions take the place of.
    fused: Fused,
}

/// A conversion in the making: where its kernel is, and what belongs to its function.
struct InterfaceBuilder<'b, 'a> {
    builder: &'b mut Builder<'a>,
    kernels: HashMap<ConversionSpec, FuncId>,
    names: Vec<String>,
    /// Next free byte of the scratch.
    bytes: usize,
}

impl InterfaceBuilder<'_, '_> {
    /// Takes so many bytes of the scratch.
    fn stage(&mut self, bytes: usize) -> usize {
        let here = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGN);
        here
    }

    /// The kernel and the length of its blocks, for an inner loop that is not shorter.
    fn kernel(&mut self, spec: ConversionSpec, length: usize) -> Result<Option<(FuncId, usize)>, Diags> {
        if length < spec.block() {
            return Ok(None);
        }
        if let Some(&id) = self.kernels.get(&spec) {
            return Ok(Some((id, spec.block())));
        }
        let name = format!("conversion_{}", self.kernels.len());
        let signature = signature(self.builder.module.target_config());
        let id = self.builder.declare(&name, Linkage::Local, &signature)?;
        self.builder.define_bytes(id, &name, &emit_kernel(&spec).map_err(bug)?)?;
        self.kernels.insert(spec, id);
        self.names.push(name);
        Ok(Some((id, spec.block())))
    }

    fn task(
        &mut self,
        name: String,
        units: usize,
        bytes: usize,
        emit: impl FnOnce(&mut Task<'_>),
    ) -> Result<Call, Diags> {
        let function = self.builder.task_function(&name, emit)?;
        self.names.push(name);
        Ok(Call::moving(function, units, bytes))
    }

    /// Takes room in the scratch for what stands for the inputs and outputs of the integer model: integers that are not converted,
    /// scales among them, and what nothing else takes the place of.
    fn stage_boundary(
        &mut self,
        sides: [&[(ValueId, Option<usize>)]; 2],
        borders: &[Border],
    ) -> (Staged, Vec<RealTensor>) {
        let graph = self.builder.graph;
        let mut staged = [vec![None; graph.inputs().len()], vec![None; graph.outputs().len()]];
        let mut all = Vec::new();
        for (side, reals) in sides.into_iter().enumerate() {
            let quantize = side == 0;
            for (index, &(v, scale)) in reals.iter().enumerate() {
                // Only bytes without a sign have conversions in place of copies.
                let bytes = graph.ty(v).uniform().is_some_and(|u| u.storage() == Int::U8);
                let fused = if bytes { fused(self.builder, quantize, index, borders) } else { Vec::new() };
                if fused.is_empty() {
                    let ty = graph.ty(v);
                    staged[side][index] = Some(self.stage(ty.elements() * element_bytes(ty)));
                }
                all.push(RealTensor { quantize, index, v, scale, fused });
            }
            for (i, offset) in staged[side].iter_mut().enumerate() {
                let is_scale = reals.iter().any(|(_, scale)| *scale == Some(i));
                if is_scale && offset.is_none() {
                    *offset = Some(self.stage(2 * FLOAT));
                }
            }
        }
        (staged, all)
    }

    /// Finds the scale of a real input.
    fn measure(&mut self, index: usize, elements: usize, scale: usize) -> Result<[Call; 2], Diags> {
        let mut measure = Measure { index, elements, partial: 0, scale };
        measure.partial = self.stage(FLOAT * measure.units());
        let spec =
            |zmm| ConversionSpec { kind: ConversionKind::Measure, layout: Layout::Run, zero: 0, zmm, far: false };
        let kernel = zmm(self.builder).map(|zmm| self.kernel(spec(zmm), elements)).transpose()?.flatten();
        let name = |what: &str| format!("float_{what}_{index}");
        let units = measure.units();
        Ok([
            self.task(name("measure"), units, FLOAT * elements, |t| measure.emit(t, kernel))?,
            self.task(name("scale"), 1, 0, |t| measure.emit_scale(t))?,
        ])
    }

    fn convert(&mut self, c: &Conversion) -> Result<Call, Diags> {
        let kernel = match zmm(self.builder) {
            // Kernels convert bytes without a sign.
            Some(zmm) if c.uniform.storage() == Int::U8 => self.kernel(c.spec(zmm), c.inner.length())?,
            Some(_) | None => None,
        };
        let kind = if c.quantize { "quantize" } else { "dequantize" };
        let name = format!("float_{kind}_{}_{}", c.index, self.names.len());
        self.task(name, c.units(), c.float_bytes(), |t| c.emit(t, kernel))
    }
}

/// Emits the functions of the interface beside its entry points.
pub(super) fn emit(builder: &mut Builder<'_>, tasks: &[Call]) -> Result<FloatInterface, Diags> {
    let graph = builder.graph;
    let (inputs, outputs) = (real_values(graph, graph.inputs()), real_values(graph, graph.outputs()));
    let borders = std::mem::take(&mut builder.borders);
    let bytes = (frame::ARENA + builder.plan.arena_bytes).next_multiple_of(ALIGN);
    let mut m = InterfaceBuilder { builder, kernels: HashMap::new(), names: Vec::new(), bytes };
    let (staged, reals) = m.stage_boundary([&inputs, &outputs], &borders);
    let [staged_inputs, staged_outputs] = &staged;
    let mut instead: HashMap<usize, Conversion> = HashMap::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for RealTensor { quantize, index, v, scale, fused } in reals {
        let uniform = boundary(graph, v)?;
        let staged = if quantize { staged_inputs } else { staged_outputs };
        let missing = || bug(format!("%{} has no room at the interface", graph.name_of(v)));
        let scale_at = match scale {
            None => Scale::Constant(uniform.scale()),
            Some(s) => Scale::Scratch(staged[s].ok_or_else(missing)?),
        };
        if let (true, Scale::Scratch(to)) = (quantize, &scale_at) {
            before.extend(m.measure(index, graph.ty(v).elements(), *to)?);
        }
        if fused.is_empty() {
            let bytes = Bytes::Scratch(staged[index].ok_or_else(missing)?);
            let inner = InnerLoop::Run(graph.ty(v).elements());
            let c =
                Conversion { quantize, index, uniform, scale: scale_at, bytes, skipped: 0, outer: Vec::new(), inner };
            let call = m.convert(&c)?;
            if quantize {
                before.push(call)
            } else {
                after.push(call)
            }
            continue;
        }
        for (border, outer, inner) in fused {
            let copy = &borders[border].copy;
            let (ours, callers) = if quantize { (&copy.to, &copy.from) } else { (&copy.from, &copy.to) };
            let (bytes, skipped) = (Bytes::View(ours.clone()), callers.offset);
            let scale = match (quantize, scale) {
                (false, Some(s)) => {
                    Scale::View(early_scale(m.builder.plan, s, borders[border].step).ok_or_else(missing)?)
                }
                _ => scale_at.clone(),
            };
            let uniform = uniform.clone();
            let conversion = Conversion { quantize, index, uniform, scale, bytes, skipped, outer, inner };
            instead.insert(borders[border].task, conversion);
        }
    }
    let mut calls = before;
    for (i, task) in tasks.iter().enumerate() {
        calls.push(match instead.get(&i) {
            Some(conversion) => m.convert(conversion)?,
            None => *task,
        });
    }
    calls.extend(after);
    let pointers = m.stage(8 * (graph.inputs().len() + graph.outputs().len()));
    let offsets = |staged: &[Option<usize>]| staged.iter().map(|offset| offset.unwrap_or(pointers)).collect();
    Ok(FloatInterface {
        inputs: offsets(staged_inputs),
        outputs: offsets(staged_outputs),
        pointers,
        reals: [inputs.len(), outputs.len()],
        scratch_bytes: m.bytes,
        calls,
        names: m.names,
    })
}
