//! The float edge: `run_f32` takes and gives floats where the integer model has bytes.
//!
//! ```text
//! measure, scale      of an input whose scale is found at run time
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
mod measure;

use std::collections::HashMap;

use cranelift_module::{FuncId, Linkage};
use qcc_ir::{Diag, Diags, Graph, Int, Uniform, ValueId, diag::Code};
use qcc_num::dynamic::SCALE_SUFFIX;

use super::moves::Copy;
use super::task::{Task, frame};
use super::{Builder, bug};
use crate::kernel::edge::{EdgeSpec, Layout, Way, emit as emit_leaf};
use crate::kernel::window::signature;
use crate::plan::{ALIGN, element_bytes};
use crate::target::Backend;
use conversion::{Bytes, Conversion, Line, Scale, code_bytes};
use fused::Fused;
use measure::Measure;

/// Bytes of a float.
const FLOAT: usize = 4;

/// Inputs or outputs that are real numbers at the edge, and for each the position of its run-time scale, if it has one.
/// Scales follow all other values.
pub fn real_values(graph: &Graph, values: &[ValueId]) -> Vec<(ValueId, Option<usize>)> {
    let scale_of = |v: ValueId| {
        let name = format!("{}{SCALE_SUFFIX}", graph.name_of(v));
        let is_scale =
            |s: &ValueId| *graph.ty(*s) == qcc_ir::Type::int(qcc_ir::Int::I32, &[2]) && graph.name_of(*s) == name;
        values.iter().position(is_scale).filter(|_| graph.ty(v).uniform().is_some())
    };
    let scales: Vec<Option<usize>> = values.iter().map(|&v| scale_of(v)).collect();
    let is_scale = |i: usize| scales.contains(&Some(i));
    (0..values.len()).filter(|&i| !is_scale(i)).map(|i| (values[i], scales[i])).collect()
}

/// A copy between the caller's memory and another place, as a task of the integer model.
pub(super) struct Border {
    /// Index of the step.
    pub step: usize,
    /// Index of the task.
    pub task: usize,
    /// What is copied.
    pub copy: Copy,
}

/// One call of the sequence that an entry point makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub function: FuncId,
    pub units: usize,
    /// Rough time in nanoseconds.
    pub estimate: u64,
}

/// What `run_f32` does.
pub(super) struct Edge {
    /// Offsets, from the start of the scratch, of what stands for the inputs and outputs of the integer model.
    pub inputs: Vec<usize>,
    /// See [`Edge::inputs`].
    pub outputs: Vec<usize>,
    /// Offset of the array of input pointers; that of the outputs follows it.
    pub pointers: usize,
    /// Number of real inputs and outputs.
    pub reals: [usize; 2],
    /// Bytes of scratch in all.
    pub scratch_bytes: usize,
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// Names of the functions that the edge consists of.
    pub names: Vec<String>,
}

/// The quantization of a value at the boundary, as the float edge needs it.
fn boundary(graph: &Graph, v: ValueId) -> Result<std::sync::Arc<Uniform>, Diag> {
    let value = graph.value(v);
    match value.ty.uniform() {
        Some(u) if matches!(u.storage, Int::U8 | Int::I16) && u.axis.is_none() => Ok(u.clone()),
        _ => Err(Diag::new(Code::TARGET, format!("%{} of type {} has no float edge", value.name, value.ty))
            .help("compile with --io int")),
    }
}

/// Why a model with this graph cannot take and give floats: the first input or output that is not their quantization.
pub fn refusal(graph: &Graph) -> Option<Diag> {
    let mut sides = [graph.inputs(), graph.outputs()].into_iter();
    sides.find_map(|side| real_values(graph, side).into_iter().find_map(|(v, _)| boundary(graph, v).err()))
}

/// Offsets in the scratch, of inputs and of outputs.
type Staged = [Vec<Option<usize>>; 2];

/// A real input or output.
struct Real {
    quantize: bool,
    /// Position among the real inputs or outputs.
    index: usize,
    v: ValueId,
    /// Position of its run-time scale.
    scale: Option<usize>,
    /// The copies that conversions take the place of.
    fused: Fused,
}

/// A conversion in the making: where its leaf is, and what belongs to its function.
struct Maker<'b, 'a> {
    builder: &'b mut Builder<'a>,
    leaves: HashMap<EdgeSpec, FuncId>,
    names: Vec<String>,
    /// Next free byte of the scratch.
    bytes: usize,
}

impl Maker<'_, '_> {
    /// Takes so many bytes of the scratch.
    fn stage(&mut self, bytes: usize) -> usize {
        let here = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGN);
        here
    }

    /// Whether the target has leaves, and whether their vectors are the wider ones.
    fn wide(&self) -> Option<bool> {
        match self.builder.options.target.backend() {
            Backend::Avx512 => Some(true),
            Backend::Ymm(_) => Some(false),
            Backend::Clif => None,
        }
    }

    /// The leaf and the length of its blocks, for a line that is not shorter.
    fn leaf(&mut self, spec: EdgeSpec, length: usize) -> Result<Option<(FuncId, usize)>, Diags> {
        if length < spec.block() {
            return Ok(None);
        }
        if let Some(&id) = self.leaves.get(&spec) {
            return Ok(Some((id, spec.block())));
        }
        let name = format!("edge_leaf_{}", self.leaves.len());
        let signature = signature(self.builder.module.target_config());
        let id = self.builder.declare(&name, Linkage::Local, &signature)?;
        self.builder.define_bytes(id, &name, &emit_leaf(&spec).map_err(bug)?)?;
        self.leaves.insert(spec, id);
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
        Ok(Call { function, units, estimate: bytes as u64 / super::entry::BYTES_A_NANOSECOND })
    }

    /// Takes places in the scratch for what stands for the inputs and outputs of the integer model: integers that are not converted,
    /// scales among them, and what nothing else takes the place of.
    fn stage_boundary(&mut self, sides: [&[(ValueId, Option<usize>)]; 2], borders: &[Border]) -> (Staged, Vec<Real>) {
        let graph = self.builder.graph;
        let mut places = [vec![None; graph.inputs().len()], vec![None; graph.outputs().len()]];
        let mut all = Vec::new();
        for (side, reals) in sides.into_iter().enumerate() {
            let quantize = side == 0;
            for (index, &(v, scale)) in reals.iter().enumerate() {
                let fused = self.fused(quantize, index, borders);
                if fused.is_empty() {
                    let ty = graph.ty(v);
                    places[side][index] = Some(self.stage(ty.elements() * element_bytes(ty)));
                }
                all.push(Real { quantize, index, v, scale, fused });
            }
            for (i, place) in places[side].iter_mut().enumerate() {
                let is_scale = reals.iter().any(|(_, scale)| *scale == Some(i));
                if is_scale && place.is_none() {
                    *place = Some(self.stage(2 * FLOAT));
                }
            }
        }
        (places, all)
    }

    /// Finds the scale of a real input.
    fn measure(&mut self, index: usize, elements: usize, scale: usize) -> Result<[Call; 2], Diags> {
        let mut measure = Measure { index, elements, partial: 0, scale };
        measure.partial = self.stage(FLOAT * measure.units());
        let spec = |wide| EdgeSpec { way: Way::Measure, layout: Layout::Run, zero: 0, wide, far: false };
        let leaf = self.wide().map(|wide| self.leaf(spec(wide), elements)).transpose()?.flatten();
        let name = |what: &str| format!("edge_{what}_{index}");
        let units = measure.units();
        Ok([
            self.task(name("measure"), units, FLOAT * elements, |t| measure.emit(t, leaf))?,
            self.task(name("scale"), 1, 0, |t| measure.emit_scale(t))?,
        ])
    }

    fn convert(&mut self, c: &Conversion) -> Result<Call, Diags> {
        let leaf = match self.wide() {
            // Leaves convert bytes.
            Some(wide) if code_bytes(&c.uniform) == 1 => self.leaf(c.spec(wide), c.line.length())?,
            Some(_) | None => None,
        };
        let way = if c.quantize { "quantize" } else { "dequantize" };
        let name = format!("edge_{way}_{}_{}", c.index, self.names.len());
        self.task(name, c.units(), c.float_bytes(), |t| c.emit(t, leaf))
    }
}

/// Emits the functions of the edge beside its entry points.
pub(super) fn emit(builder: &mut Builder<'_>, tasks: &[Call]) -> Result<Edge, Diags> {
    let graph = builder.graph;
    let (inputs, outputs) = (real_values(graph, graph.inputs()), real_values(graph, graph.outputs()));
    let borders = std::mem::take(&mut builder.borders);
    let bytes = (frame::ARENA + builder.plan.arena_bytes).next_multiple_of(ALIGN);
    let mut m = Maker { builder, leaves: HashMap::new(), names: Vec::new(), bytes };
    let (places, reals) = m.stage_boundary([&inputs, &outputs], &borders);
    let [staged_inputs, staged_outputs] = &places;
    let mut instead: HashMap<usize, Conversion> = HashMap::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for Real { quantize, index, v, scale, fused } in reals {
        let uniform = boundary(graph, v)?;
        let staged = if quantize { staged_inputs } else { staged_outputs };
        let missing = || bug(format!("%{} has no place at the edge", graph.name_of(v)));
        let scale_at = match scale {
            None => Scale::Constant(uniform.scale()),
            Some(s) => Scale::Scratch(staged[s].ok_or_else(missing)?),
        };
        if let (true, Scale::Scratch(to)) = (quantize, &scale_at) {
            before.extend(m.measure(index, graph.ty(v).elements(), *to)?);
        }
        if fused.is_empty() {
            let bytes = Bytes::Scratch(staged[index].ok_or_else(missing)?);
            let line = Line::Run(graph.ty(v).elements());
            let c =
                Conversion { quantize, index, uniform, scale: scale_at, bytes, skipped: 0, outer: Vec::new(), line };
            let call = m.convert(&c)?;
            if quantize {
                before.push(call)
            } else {
                after.push(call)
            }
            continue;
        }
        for (border, outer, line) in fused {
            let copy = &borders[border].copy;
            let (ours, callers) = if quantize { (&copy.to, &copy.from) } else { (&copy.from, &copy.to) };
            let (bytes, skipped) = (Bytes::Place(ours.clone()), callers.offset);
            let scale = match (quantize, scale) {
                (false, Some(s)) => Scale::Place(m.early_scale(s, borders[border].step).ok_or_else(missing)?),
                _ => scale_at.clone(),
            };
            let uniform = uniform.clone();
            let conversion = Conversion { quantize, index, uniform, scale, bytes, skipped, outer, line };
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
    let offsets = |places: &[Option<usize>]| places.iter().map(|place| place.unwrap_or(pointers)).collect();
    Ok(Edge {
        inputs: offsets(staged_inputs),
        outputs: offsets(staged_outputs),
        pointers,
        reals: [inputs.len(), outputs.len()],
        scratch_bytes: m.bytes,
        calls,
        names: m.names,
    })
}
