//! Between the floats of one value and its bytes: which loops go along them, and what a block of them becomes.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::FuncId;
use qcc_ir::{Int, Uniform};

use super::inner_loop::{InnerLoop, whole};
use super::scale::real_scale;
use super::values::FLOAT;
use crate::clif;
use crate::kernel::float_conversion::{ConversionKind, ConversionSpec, FEW, GROUP, Layout};
use crate::plan::BufferView;
use crate::program::collapse::{Level, Loops};
use crate::program::task::{Task, frame};

/// Bytes of floats beyond what caches hold, shared ones and those of several cores included.
const FAR: usize = 64 << 20;

/// Where the scale of a value is known from.
#[derive(Clone)]
pub(super) enum Scale {
    Constant(f32),
    /// Mantissa and exponent at this offset of the scratch.
    Scratch(usize),
    /// Mantissa and exponent in the arena.
    View(BufferView),
}

/// Floats and bytes of one value, and how they lie.
pub(super) struct Conversion {
    pub quantize: bool,
    /// Position among the real inputs or outputs.
    pub index: usize,
    pub uniform: std::sync::Arc<Uniform>,
    pub scale: Scale,
    pub bytes: Bytes,
    /// Floats in front of the first one that is converted: a copy may take a part of an input.
    pub skipped: usize,
    /// Strides of the bytes, then of the floats.
    pub outer: Vec<Level>,
    pub inner: InnerLoop,
}

/// Where the bytes are.
#[derive(Clone)]
pub(super) enum Bytes {
    Scratch(usize),
    View(BufferView),
}

impl Conversion {
    /// Units of its task.
    pub fn units(&self) -> usize {
        match self.outer.first() {
            Some(level) => level.extent,
            None => self.inner.length().div_ceil(self.inner.chunk()),
        }
    }

    pub fn float_bytes(&self) -> usize {
        let channels = if let InnerLoop::Planes { channels, .. } = self.inner { channels } else { 1 };
        FLOAT * self.inner.length() * channels * self.outer.iter().map(|level| level.extent).product::<usize>()
    }

    pub fn spec(&self, zmm: bool) -> ConversionSpec {
        let byte = |x: i64| x.clamp(0, 255) as u8;
        let layout = match self.inner {
            InnerLoop::Run(_) => Layout::Run,
            InnerLoop::Planes { channels, plane, pixel, .. } => {
                Layout::Planes { channels: if channels > FEW { GROUP } else { channels }, plane, pixel }
            }
        };
        let kind = match self.quantize {
            true => ConversionKind::Quantize { lo: byte(self.uniform.min()), hi: byte(self.uniform.max()) },
            false => ConversionKind::Dequantize,
        };
        ConversionSpec { kind, layout, zero: byte(self.uniform.zero_point()), zmm, far: self.float_bytes() >= FAR }
    }

    /// Emits the task, with a kernel of blocks of so many, or without one for a run.
    pub fn emit(&self, t: &mut Task<'_>, kernel: Option<(FuncId, usize)>) {
        let array = if self.quantize { frame::REAL_INPUTS } else { frame::REAL_OUTPUTS };
        let floats = t.pointer_in(array, self.index);
        let floats = t.plus(floats, FLOAT * self.skipped);
        let bytes = match &self.bytes {
            Bytes::Scratch(offset) => t.scratch(*offset),
            Bytes::View(view) => t.address(view),
        };
        let factor = self.factor(t);
        let Some((kernel, block)) = kernel else { return self.emit_run(t, floats, bytes, factor) };
        let factor = t.b.ins().bitcast(types::I32, MemFlagsData::new(), factor);
        let factor = t.b.ins().uextend(t.pointer, factor);
        let piece = |t: &mut Task<'_>, at: &[Value], start: Value, blocks: usize| {
            let (bytes, blocks) = (at[0], t.iconst_ptr(blocks));
            let floats = t.at(at[1], start, FLOAT);
            let call = |t: &mut Task<'_>, bytes: Value, floats: Value| {
                let [from, to] = if self.quantize { [floats, bytes] } else { [bytes, floats] };
                t.call(kernel, &[from, to, factor, blocks, factor]);
            };
            match self.inner {
                InnerLoop::Run(_) => {
                    let bytes = t.at(bytes, start, 1);
                    call(t, bytes, floats);
                }
                InnerLoop::Planes { channels, plane, pixel, .. } => {
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
        let (length, chunk) = (self.inner.length(), self.inner.chunk());
        let Some((first, rest)) = self.outer.split_first() else {
            return t.units(&mut |t, unit| {
                if length < chunk {
                    return whole(t, length, chunk, block, &mut |t, start, blocks| {
                        piece(t, &[bytes, floats], start, blocks)
                    });
                }
                let start = t.b.ins().imul_imm_s(unit, chunk as i64);
                let last = t.iconst_ptr(length - chunk);
                let start = t.b.ins().umin(start, last);
                piece(t, &[bytes, floats], start, chunk / block);
            });
        };
        t.units(&mut |t, unit| {
            let at = t.moved(&[bytes, floats], unit, &first.strides);
            t.nest(rest, &at, &mut |t, at| {
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
            Scale::View(view) => t.address(view),
        };
        real_scale(t, scale)
    }

    /// A run with Cranelift's vectors.
    fn emit_run(&self, t: &mut Task<'_>, floats: Value, bytes: Value, factor: Value) {
        let (length, u) = (self.inner.length(), &self.uniform);
        let loops = Loops { outer: Vec::new(), run: length, inner: vec![code_bytes(u), FLOAT] };
        let factor = t.b.ins().splat(types::F32X4, factor);
        t.lanes(&loops, &[bytes, floats], &mut |t, at, lanes| match self.quantize {
            true => quantize(t, at[1], at[0], lanes, u, factor),
            false => dequantize(t, at[0], at[1], lanes, u, factor),
        });
    }
}

/// Bytes of a code: u8 or i8, or i16.
fn code_bytes(u: &Uniform) -> usize {
    if u.storage() == Int::I16 { 2 } else { 1 }
}

/// By how much codes are less than the bytes without a sign that they are computed as: those differ in the highest bit.
fn sign(u: &Uniform) -> i64 {
    if u.storage() == Int::I8 { 128 } else { 0 }
}

/// Bytes with the highest bit the other way round, where codes have a sign.
fn change_sign(b: &mut FunctionBuilder<'_>, bytes: Value, u: &Uniform) -> Value {
    if sign(u) == 0 {
        return bytes;
    }
    let highest = clif::splat(b, types::I8X16, 0x80);
    b.ins().bxor(bytes, highest)
}

/// Equation (6) on up to 16 floats.
fn quantize(t: &mut Task<'_>, floats: Value, bytes: Value, lanes: usize, u: &Uniform, scale: Value) {
    let b = &mut t.b;
    // Far beyond any code, and far enough from the ends of 32 bits for the zero point to be added.
    let (least, greatest) = (clif::splat(b, types::I32X4, -(1 << 30)), clif::splat(b, types::I32X4, 1 << 30));
    let zero_point = clif::splat(b, types::I32X4, u.zero_point() + sign(u));
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
    if u.storage() == Int::I16 {
        let (least, greatest) = (clif::splat(b, types::I16X8, u.min()), clif::splat(b, types::I16X8, u.max()));
        let codes = [low, high].map(|codes| {
            let codes = b.ins().smax(codes, least);
            b.ins().smin(codes, greatest)
        });
        return clif::store_lanes(b, types::I16, &codes, bytes, lanes);
    }
    let packed = b.ins().unarrow(low, high);
    let [lo, hi] = [u.min(), u.max()].map(|end| (end + sign(u)).clamp(0, 255) as u8);
    let packed = clif::clamp(b, packed, lo, hi);
    let packed = change_sign(b, packed, u);
    clif::store_bytes(b, packed, bytes, 0, lanes);
}

/// Equation (7) on up to 16 codes.
fn dequantize(t: &mut Task<'_>, bytes: Value, floats: Value, lanes: usize, u: &Uniform, scale: Value) {
    let b = &mut t.b;
    let zero_point = clif::splat(b, types::I32X4, u.zero_point() + sign(u));
    let codes = if u.storage() == Int::I16 {
        let x = clif::load_lanes(b, types::I16, bytes, lanes);
        [b.ins().swiden_low(x[0]), b.ins().swiden_high(x[0]), b.ins().swiden_low(x[1]), b.ins().swiden_high(x[1])]
    } else {
        let codes = clif::load_bytes(b, bytes, 0, lanes);
        let codes = change_sign(b, codes, u);
        clif::widen_bytes(b, codes)
    };
    let reals = codes.map(|code| {
        let centred = b.ins().isub(code, zero_point);
        let real = b.ins().fcvt_from_sint(types::F32X4, centred);
        b.ins().fmul(real, scale)
    });
    clif::store_lanes(b, types::F32, &reals, floats, lanes);
}
