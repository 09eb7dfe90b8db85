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

use std::collections::HashMap;

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_frontend::Variable;
use cranelift_module::{FuncId, Linkage};
use qcc_ir::{Diag, Diags, Graph, Int, Uniform, ValueId, diag::Code};
use qcc_num::dynamic::SCALE_SUFFIX;

use super::collapse::{Level, Loops};
use super::moves::Copy;
use super::task::{Task, frame};
use super::{Builder, bug};
use crate::clif::{self, VECTOR, memory};
use crate::kernel::edge::{EdgeSpec, FEW, GROUP, Layout, Way, emit as emit_leaf};
use crate::kernel::window::signature;
use crate::plan::{ALIGN, Place, StepKind, Storage, element_bytes};
use crate::target::Backend;

/// Floats of a run that a call of a leaf does.
const RUN: usize = 4096;

/// Pixels that a call of a leaf does: those of sixteen channels fit a first-level cache on both sides.
const PIXELS: usize = 256;

/// Floats of which one unit takes the greatest magnitude.
const MEASURED: usize = 1 << 16;

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

/// Where the scale of a value is known from.
#[derive(Clone)]
enum Scale {
    Constant(f32),
    /// Mantissa and exponent at this offset of the scratch.
    Scratch(usize),
    /// Mantissa and exponent in the arena.
    Place(Place),
}

/// Floats and bytes of one value, and how they lie.
struct Conversion {
    quantize: bool,
    /// Position among the real inputs or outputs.
    index: usize,
    uniform: std::sync::Arc<Uniform>,
    scale: Scale,
    bytes: Bytes,
    /// Floats in front of the first one that is converted: a copy may take a part of an input.
    skipped: usize,
    /// Strides of the bytes, then of the floats.
    outer: Vec<Level>,
    line: Line,
}

/// Where the bytes are.
#[derive(Clone)]
enum Bytes {
    Scratch(usize),
    Place(Place),
}

/// What the innermost loops go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many numbers, side by side.
    Run(usize),
    /// Channels in planes of floats and in pixels of bytes, so many bytes apart.
    Planes { pixels: usize, channels: usize, plane: usize, pixel: usize },
}

impl Line {
    fn length(self) -> usize {
        match self {
            Line::Run(length) => length,
            Line::Planes { pixels, .. } => pixels,
        }
    }

    fn chunk(self) -> usize {
        match self {
            Line::Run(_) => RUN,
            Line::Planes { .. } => PIXELS,
        }
    }
}

/// How a copy's innermost loops go, if a leaf does them. `quantize` tells whether the source becomes floats.
fn line(copy: &Copy, quantize: bool, block: impl Fn(Layout) -> usize) -> Option<(Vec<Level>, Line)> {
    if copy.to.element != 1 || copy.from.element != 1 {
        return None;
    }
    let mut loops = Loops::new(&copy.to.dims, &[&copy.from.strides, &copy.to.strides]);
    let line = match loops.inner[..] {
        [1, 1] => Line::Run(loops.run),
        [step, 1] => {
            let across = loops.outer.pop().filter(|level| level.strides[0] == 1)?;
            let (pixels, channels, plane, pixel) = match quantize {
                true => (across.extent, loops.run, step, across.strides[1]),
                false => (loops.run, across.extent, across.strides[1], step),
            };
            Line::Planes { pixels, channels, plane: FLOAT * plane, pixel }
        }
        _ => return None,
    };
    let fits = match line {
        Line::Run(length) => length >= block(Layout::Run),
        Line::Planes { pixels, channels, plane, pixel } => {
            let few = quantize && channels <= FEW && pixel == channels;
            let layout = Layout::Planes { channels, plane, pixel };
            (few || channels >= GROUP) && pixels >= block(layout) && plane < 1 << 26 && pixel < 1 << 26
        }
    };
    for level in &mut loops.outer {
        // Bytes before floats.
        if quantize {
            level.strides.swap(0, 1);
        }
        level.strides[1] *= FLOAT;
    }
    fits.then_some((loops.outer, line))
}

impl Conversion {
    /// Units of its task.
    fn units(&self) -> usize {
        match self.outer.first() {
            Some(level) => level.extent,
            None => self.line.length().div_ceil(self.line.chunk()),
        }
    }

    fn spec(&self, wide: bool) -> EdgeSpec {
        let byte = |x: i64| x.clamp(0, 255) as u8;
        let layout = match self.line {
            Line::Run(_) => Layout::Run,
            Line::Planes { channels, plane, pixel, .. } => {
                Layout::Planes { channels: if channels > FEW { GROUP } else { channels }, plane, pixel }
            }
        };
        let way = match self.quantize {
            true => Way::Quantize { lo: byte(self.uniform.min), hi: byte(self.uniform.max) },
            false => Way::Dequantize,
        };
        EdgeSpec { way, layout, zero: byte(self.uniform.zero_point()), wide }
    }

    /// Emits the task, with a leaf of blocks of so many, or without one for a run.
    fn emit(&self, t: &mut Task<'_>, leaf: Option<(FuncId, usize)>) {
        let array = if self.quantize { frame::REAL_INPUTS } else { frame::REAL_OUTPUTS };
        let floats = t.pointer_in(array, self.index);
        let floats = t.plus(floats, FLOAT * self.skipped);
        let bytes = match &self.bytes {
            Bytes::Scratch(offset) => t.scratch(*offset),
            Bytes::Place(place) => t.address(place),
        };
        let factor = self.factor(t);
        let Some((leaf, block)) = leaf else { return self.emit_run(t, floats, bytes, factor) };
        let factor = t.b.ins().bitcast(types::I32, MemFlagsData::new(), factor);
        let factor = t.b.ins().uextend(t.pointer, factor);
        let piece = |t: &mut Task<'_>, [bytes, floats]: [Value; 2], start: Value, blocks: usize| {
            let blocks = t.word(blocks);
            let floats = t.at(floats, start, FLOAT);
            let call = |t: &mut Task<'_>, bytes: Value, floats: Value| {
                let [from, to] = if self.quantize { [floats, bytes] } else { [bytes, floats] };
                t.call(leaf, &[from, to, factor, blocks, factor]);
            };
            match self.line {
                Line::Run(_) => {
                    let bytes = t.at(bytes, start, 1);
                    call(t, bytes, floats);
                }
                Line::Planes { channels, plane, pixel, .. } => {
                    let bytes = t.at(bytes, start, pixel);
                    if channels <= FEW {
                        return call(t, bytes, floats);
                    }
                    t.count(channels / GROUP, &mut |t, group| {
                        let (bytes, floats) = (t.at(bytes, group, GROUP), t.at(floats, group, GROUP * plane));
                        call(t, bytes, floats);
                    });
                    if !channels.is_multiple_of(GROUP) {
                        let first = channels - GROUP;
                        let (bytes, floats) = (t.plus(bytes, first), t.plus(floats, first * plane));
                        call(t, bytes, floats);
                    }
                }
            }
        };
        let (length, chunk) = (self.line.length(), self.line.chunk());
        let Some((first, rest)) = self.outer.split_first() else {
            return t.units(&mut |t, unit| {
                if length < chunk {
                    return whole(t, length, chunk, block, &mut |t, start, blocks| {
                        piece(t, [bytes, floats], start, blocks)
                    });
                }
                let start = t.b.ins().imul_imm_s(unit, chunk as i64);
                let last = t.word(length - chunk);
                let start = t.b.ins().umin(start, last);
                piece(t, [bytes, floats], start, chunk / block);
            });
        };
        t.units(&mut |t, unit| {
            let at = [t.at(bytes, unit, first.strides[0]), t.at(floats, unit, first.strides[1])];
            nest(t, rest, at, &mut |t, at| {
                whole(t, length, chunk, block, &mut |t, start, blocks| piece(t, at, start, blocks));
            });
        });
    }

    /// `S`.
    fn factor(&self, t: &mut Task<'_>) -> Value {
        let scale = match &self.scale {
            Scale::Constant(scale) => {
                return t.b.ins().f32const(*scale);
            }
            Scale::Scratch(offset) => t.scratch(*offset),
            Scale::Place(place) => t.address(place),
        };
        real_scale(t, scale)
    }

    /// A run with Cranelift's vectors.
    fn emit_run(&self, t: &mut Task<'_>, floats: Value, bytes: Value, factor: Value) {
        let (length, u) = (self.line.length(), &self.uniform);
        let loops = Loops { outer: Vec::new(), run: length, inner: vec![code_bytes(u), FLOAT] };
        let factor = t.b.ins().splat(types::F32X4, factor);
        t.lanes(&loops, &[bytes, floats], &mut |t, at, lanes| match self.quantize {
            true => quantize(t, at[1], at[0], lanes, u, factor),
            false => dequantize(t, at[0], at[1], lanes, u, factor),
        });
    }
}

/// All of a line: chunks, what is left of them, and a last block that overlaps others.
fn whole<'a>(
    t: &mut Task<'a>,
    length: usize,
    chunk: usize,
    block: usize,
    body: &mut dyn FnMut(&mut Task<'a>, Value, usize),
) {
    t.count(length / chunk, &mut |t, i| {
        let start = t.b.ins().imul_imm_s(i, chunk as i64);
        body(t, start, chunk / block);
    });
    let done = length / chunk * chunk;
    let blocks = (length - done) / block;
    if blocks > 0 {
        let start = t.word(done);
        body(t, start, blocks);
    }
    if !(length - done).is_multiple_of(block) {
        let start = t.word(length - block);
        body(t, start, 1);
    }
}

fn nest<'a>(t: &mut Task<'a>, levels: &[Level], at: [Value; 2], body: &mut dyn FnMut(&mut Task<'a>, [Value; 2])) {
    match levels {
        [] => body(t, at),
        [level, rest @ ..] => t.count(level.extent, &mut |t, i| {
            let at = [t.at(at[0], i, level.strides[0]), t.at(at[1], i, level.strides[1])];
            nest(t, rest, at, body);
        }),
    }
}

/// Bytes of a code: u8, or i16.
fn code_bytes(u: &Uniform) -> usize {
    if u.storage == Int::I16 { 2 } else { 1 }
}

/// Equation (6) on up to 16 floats.
fn quantize(t: &mut Task<'_>, floats: Value, bytes: Value, lanes: usize, u: &Uniform, scale: Value) {
    let b = &mut t.b;
    // Far beyond any code, and far enough from the ends of 32 bits for the zero point to be added.
    let (least, greatest) = (clif::splat(b, types::I32X4, -(1 << 30)), clif::splat(b, types::I32X4, 1 << 30));
    let zero_point = clif::splat(b, types::I32X4, u.zero_point());
    let codes: Vec<Value> = clif::load_lanes(b, types::I32, floats, lanes)
        .into_iter()
        .map(|x| {
            let x = clif::cast(b, types::F32X4, x);
            let scaled = b.ins().fdiv(x, scale);
            let rounded = b.ins().nearest(scaled);
            let code = b.ins().fcvt_to_sint_sat(types::I32X4, rounded);
            let code = b.ins().smax(code, least);
            let code = b.ins().smin(code, greatest);
            b.ins().iadd(code, zero_point)
        })
        .collect();
    let (low, high) = (b.ins().snarrow(codes[0], codes[1]), b.ins().snarrow(codes[2], codes[3]));
    if u.storage == Int::I16 {
        let (least, greatest) = (clif::splat(b, types::I16X8, u.min), clif::splat(b, types::I16X8, u.max));
        for (part, codes) in [low, high].into_iter().enumerate() {
            let codes = b.ins().smax(codes, least);
            let codes = b.ins().smin(codes, greatest);
            let used = (2 * lanes).saturating_sub(part * VECTOR).min(VECTOR);
            if used > 0 {
                let codes = clif::cast(b, types::I8X16, codes);
                clif::store_bytes(b, codes, bytes, (part * VECTOR) as i32, used);
            }
        }
        return;
    }
    let packed = b.ins().unarrow(low, high);
    let packed = clif::clamp(b, packed, u.min.clamp(0, 255) as u8, u.max.clamp(0, 255) as u8);
    clif::store_bytes(b, packed, bytes, 0, lanes);
}

/// Equation (7) on up to 16 codes.
fn dequantize(t: &mut Task<'_>, bytes: Value, floats: Value, lanes: usize, u: &Uniform, scale: Value) {
    let b = &mut t.b;
    let zero_point = clif::splat(b, types::I32X4, u.zero_point());
    let codes = if u.storage == Int::I16 {
        let x = clif::load_lanes(b, types::I16, bytes, lanes);
        [b.ins().swiden_low(x[0]), b.ins().swiden_high(x[0]), b.ins().swiden_low(x[1]), b.ins().swiden_high(x[1])]
    } else {
        let codes = clif::load_bytes(b, bytes, 0, lanes);
        clif::widen_bytes(b, codes)
    };
    for (part, code) in codes.into_iter().enumerate() {
        let used = lanes.saturating_sub(4 * part).min(4);
        if used == 0 {
            break;
        }
        let centred = b.ins().isub(code, zero_point);
        let real = b.ins().fcvt_from_sint(types::F32X4, centred);
        let real = b.ins().fmul(real, scale);
        let real = clif::cast(b, types::I8X16, real);
        clif::store_bytes(b, real, floats, (VECTOR * part) as i32, FLOAT * used);
    }
}

/// The measurement of an input.
struct Measure {
    index: usize,
    elements: usize,
    /// Offset of the greatest magnitudes, one a unit.
    partial: usize,
    /// Offset of mantissa and exponent.
    scale: usize,
}

impl Measure {
    fn units(&self) -> usize {
        self.elements.div_ceil(MEASURED).max(1)
    }

    /// The greatest magnitude, as bits, of each unit.
    fn emit(&self, t: &mut Task<'_>, leaf: Option<(FuncId, usize)>) {
        let floats = t.pointer_in(frame::REAL_INPUTS, self.index);
        let partial = t.scratch(self.partial);
        let length = self.elements;
        t.units(&mut |t, unit| {
            let to = t.at(partial, unit, FLOAT);
            let zero = t.b.ins().iconst(types::I32, 0);
            t.b.ins().store(memory(), zero, to, 0);
            let start = t.b.ins().imul_imm_s(unit, MEASURED as i64);
            let Some((leaf, block)) = leaf else {
                let (all, most) = (t.word(length), t.word(MEASURED));
                let end = t.b.ins().iadd(start, most);
                let end = t.b.ins().umin(end, all);
                return measure(t, floats, (start, end), to);
            };
            let mut piece = |t: &mut Task<'_>, start: Value, blocks: usize| {
                let (from, blocks) = (t.at(floats, start, FLOAT), t.word(blocks));
                t.call(leaf, &[from, to, from, blocks, from]);
            };
            if length < MEASURED {
                return whole(t, length, MEASURED, block, &mut piece);
            }
            let last = t.word(length - MEASURED);
            let start = t.b.ins().umin(start, last);
            piece(t, start, MEASURED / block);
        });
    }

    /// Equation (14) from the greatest of the units' magnitudes.
    fn emit_scale(&self, t: &mut Task<'_>) {
        let (partial, to, units) = (t.scratch(self.partial), t.scratch(self.scale), self.units());
        t.units(&mut |t, _| {
            let greatest = t.b.declare_var(types::I32);
            let zero = t.b.ins().iconst(types::I32, 0);
            t.b.def_var(greatest, zero);
            t.count(units, &mut |t, unit| {
                let from = t.at(partial, unit, FLOAT);
                let x = t.b.ins().load(types::I32, memory(), from, 0);
                raise(t, greatest, x);
            });
            let bits = t.b.use_var(greatest);
            let most = t.b.ins().iconst(types::I32, i64::from(f32::MAX.to_bits()));
            let bits = t.b.ins().umin(bits, most);
            store_scale(t, bits, to);
        });
    }
}

fn raise(t: &mut Task<'_>, greatest: Variable, x: Value) {
    let old = t.b.use_var(greatest);
    let new = t.b.ins().umax(old, x);
    t.b.def_var(greatest, new);
}

/// The greatest magnitude of some floats, as bits, to `to`: one after the other.
fn measure(t: &mut Task<'_>, floats: Value, (start, end): (Value, Value), to: Value) {
    let greatest = t.b.declare_var(types::I32);
    let zero = t.b.ins().iconst(types::I32, 0);
    t.b.def_var(greatest, zero);
    t.range(start, end, &mut |t, i| {
        let from = t.at(floats, i, FLOAT);
        let x = t.b.ins().load(types::I32, memory(), from, 0);
        let x = t.b.ins().band_imm_s(x, 0x7fff_ffff);
        raise(t, greatest, x);
    });
    let bits = t.b.use_var(greatest);
    t.b.ins().store(memory(), bits, to, 0);
}

/// The scale of equation (14) for the bits of a magnitude: mantissa and exponent.
fn store_scale(t: &mut Task<'_>, bits: Value, to: Value) {
    let b = &mut t.b;
    let real = b.ins().bitcast(types::F32, MemFlagsData::new(), bits);
    let levels = b.ins().f32const(127.0);
    let scale = b.ins().fdiv(real, levels);
    let bits = b.ins().bitcast(types::I32, MemFlagsData::new(), scale);
    let least = b.ins().iconst(types::I32, i64::from(qcc_num::edge::LEAST_SCALE));
    let bits = b.ins().smax(bits, least);
    let significand = b.ins().band_imm_s(bits, 0x7f_ffff);
    let significand = b.ins().bor_imm_s(significand, 0x80_0000);
    let mantissa = b.ins().ishl_imm_s(significand, 7);
    let exponent = b.ins().ushr_imm_s(bits, 23);
    let exponent = b.ins().iadd_imm_s(exponent, -157);
    b.ins().store(memory(), mantissa, to, 0);
    b.ins().store(memory(), exponent, to, 4);
}

/// Mantissa and exponent at `from` as an f32.
fn real_scale(t: &mut Task<'_>, from: Value) -> Value {
    let b = &mut t.b;
    let mantissa = b.ins().load(types::I32, memory(), from, 0);
    let exponent = b.ins().load(types::I32, memory(), from, 4);
    let (least, most) = (b.ins().iconst(types::I32, -1000), b.ins().iconst(types::I32, 900));
    let exponent = b.ins().smax(exponent, least);
    let exponent = b.ins().smin(exponent, most);
    let biased = b.ins().iadd_imm_s(exponent, 1023);
    let biased = b.ins().uextend(types::I64, biased);
    let power = b.ins().ishl_imm_s(biased, 52);
    let power = b.ins().bitcast(types::F64, MemFlagsData::new(), power);
    let mantissa = b.ins().fcvt_from_sint(types::F64, mantissa);
    let real = b.ins().fmul(mantissa, power);
    b.ins().fdemote(types::F32, real)
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

    fn convert(&mut self, c: &Conversion) -> Result<Call, Diags> {
        let leaf = match self.wide() {
            // Leaves convert bytes.
            Some(wide) if code_bytes(&c.uniform) == 1 => self.leaf(c.spec(wide), c.line.length())?,
            Some(_) | None => None,
        };
        let way = if c.quantize { "quantize" } else { "dequantize" };
        let (length, outer) = (c.line.length(), c.outer.iter().map(|level| level.extent).product::<usize>());
        let channels = if let Line::Planes { channels, .. } = c.line { channels } else { 1 };
        let name = format!("edge_{way}_{}_{}", c.index, self.names.len());
        self.task(name, c.units(), FLOAT * length * outer * channels, |t| c.emit(t, leaf))
    }
}

/// Whether a step touches a buffer.
fn touches(kind: &StepKind, buffer: usize) -> bool {
    match kind {
        StepKind::Node { operands, result, .. } => operands.iter().chain([result]).any(|p| p.buffer == buffer),
        StepKind::Fill { place, .. } => place.buffer == buffer,
        StepKind::Copy { from, to } => from.buffer == buffer || to.buffer == buffer,
    }
}

/// Emits the functions of the edge beside its entry points.
pub(super) fn emit(builder: &mut Builder<'_>, tasks: &[Call]) -> Result<Edge, Diags> {
    let graph = builder.graph;
    let (inputs, outputs) = (real_values(graph, graph.inputs()), real_values(graph, graph.outputs()));
    let borders = std::mem::take(&mut builder.borders);
    let bytes = (frame::ARENA + builder.plan.arena_bytes).next_multiple_of(ALIGN);
    let mut m = Maker { builder, leaves: HashMap::new(), names: Vec::new(), bytes };
    // Integers that are not converted, scales among them, and what nothing else takes the place of.
    let mut places = [vec![None; graph.inputs().len()], vec![None; graph.outputs().len()]];
    let mut instead: HashMap<usize, Conversion> = HashMap::new();
    let mut converted = Vec::new();
    for (side, reals) in [&inputs, &outputs].into_iter().enumerate() {
        for (index, &(v, scale)) in reals.iter().enumerate() {
            let fused = m.fused(side == 0, index, &borders)?;
            if fused.is_empty() {
                let ty = graph.ty(v);
                places[side][index] = Some(m.stage(ty.elements() * element_bytes(ty)));
            }
            converted.push((side == 0, index, v, scale, fused));
        }
        for (i, place) in places[side].iter_mut().enumerate() {
            let is_scale = reals.iter().any(|(_, scale)| *scale == Some(i));
            if is_scale && place.is_none() {
                *place = Some(m.stage(2 * FLOAT));
            }
        }
    }
    let [staged_inputs, staged_outputs] = &places;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (quantize, index, v, scale, fused) in converted {
        let uniform = boundary(graph, v)?;
        let staged = if quantize { staged_inputs } else { staged_outputs };
        let missing = || bug(format!("%{} has no place at the edge", graph.name_of(v)));
        let scale_at = match scale {
            None => Scale::Constant(uniform.scale()),
            Some(s) => Scale::Scratch(staged[s].ok_or_else(missing)?),
        };
        if let (true, Scale::Scratch(to)) = (quantize, &scale_at) {
            let elements = graph.ty(v).elements();
            let mut measure = Measure { index, elements, partial: 0, scale: *to };
            measure.partial = m.stage(FLOAT * measure.units());
            let spec = |wide| EdgeSpec { way: Way::Measure, layout: Layout::Run, zero: 0, wide };
            let leaf = m.wide().map(|wide| m.leaf(spec(wide), elements)).transpose()?.flatten();
            let name = |what: &str| format!("edge_{what}_{index}");
            before.push(m.task(name("measure"), measure.units(), FLOAT * elements, |t| measure.emit(t, leaf))?);
            before.push(m.task(name("scale"), 1, 0, |t| measure.emit_scale(t))?);
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

/// A border with the loops of the conversion that takes its place.
type Fused = Vec<(usize, Vec<Level>, Line)>;

impl Maker<'_, '_> {
    /// The copies of a real input or to a real output that conversions take the place of: all that touch it, or none.
    fn fused(&self, quantize: bool, index: usize, borders: &[Border]) -> Result<Fused, Diags> {
        let Some(wide) = self.wide() else { return Ok(Vec::new()) };
        let plan = self.builder.plan;
        let storage = if quantize { Storage::Input(index) } else { Storage::Output(index) };
        let mut fused = Vec::new();
        for buffer in (0..plan.buffers.len()).filter(|&b| plan.buffers[b].storage == storage) {
            let ours = |border: &Border| {
                let place = if quantize { &border.copy.from } else { &border.copy.to };
                place.buffer == buffer
            };
            for (i, border) in borders.iter().enumerate().filter(|(_, border)| ours(border)) {
                // A copy from an input to an output has both conversions, which cannot both take its place.
                let other = if quantize { &border.copy.to } else { &border.copy.from };
                if !matches!(plan.buffers[other.buffer].storage, Storage::Arena(_)) {
                    return Ok(Vec::new());
                }
                let block = |layout| EdgeSpec { way: Way::Dequantize, layout, zero: 0, wide }.block();
                match line(&border.copy, quantize, block) {
                    Some((outer, line)) => fused.push((i, outer, line)),
                    None => return Ok(Vec::new()),
                }
            }
            let copied = |step: usize| borders.iter().any(|border| border.step == step && ours(border));
            let others = plan.steps.iter().enumerate().any(|(i, step)| touches(&step.kind, buffer) && !copied(i));
            // An output must be written by one copy alone, and not be read.
            let whole = |(i, ..): &(usize, Vec<Level>, Line)| {
                let elements = borders[*i].copy.to.elements();
                elements == self.builder.graph.ty(self.builder.graph.outputs()[index]).elements()
            };
            let partial = !quantize && (fused.len() != 1 || !fused.iter().all(whole));
            let scale = match quantize {
                true => None,
                false => real_values(self.builder.graph, self.builder.graph.outputs())[index].1,
            };
            let early =
                scale.is_none_or(|s| fused.iter().all(|(i, ..)| self.early_scale(s, borders[*i].step).is_some()));
            if others || partial || !early {
                return Ok(Vec::new());
            }
        }
        Ok(fused)
    }

    /// Where the run-time scale of an output is already before a step, from which it is copied to the output behind it.
    fn early_scale(&self, output: usize, step: usize) -> Option<Place> {
        let plan = self.builder.plan;
        plan.steps[step..].iter().find_map(|s| {
            let (from, to) = match &s.kind {
                StepKind::Node { operands, result, .. } => (operands.first()?, result),
                StepKind::Copy { from, to } => (from, to),
                StepKind::Fill { .. } => return None,
            };
            let buffer = &plan.buffers[from.buffer];
            let known = buffer.life.0 < step && matches!(buffer.storage, Storage::Arena(_));
            let is_scale = plan.buffers[to.buffer].storage == Storage::Output(output) && from.element == FLOAT;
            (known && is_scale).then(|| from.clone())
        })
    }
}
