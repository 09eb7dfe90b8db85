//! The float edge: `run_f32` quantizes its inputs into scratch memory, runs the integer model, and dequantizes.
//!
//! These are the only functions with float instructions. They lie in a section of their own. The arithmetic is equations (6)
//! and (7) of [`qcc_num::edge`].

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::{FunctionBuilder, Variable};
use qcc_ir::{Graph, Int, Uniform, ValueId};
use qcc_num::dynamic::SCALE_SUFFIX;

use crate::clif::{self, VECTOR, memory};
use crate::plan::{ALIGN, element_bytes};

/// Where the staged integers lie, from the start of the edge's part of the scratch.
pub struct Staging {
    /// Offset of each input's integers.
    pub inputs: Vec<usize>,
    /// Offset of each output's integers.
    pub outputs: Vec<usize>,
    /// Offset of the array of input pointers; that of the outputs follows it.
    pub pointers: usize,
    /// Bytes in all.
    pub bytes: usize,
}

/// Lays out the staging area.
pub fn staging(graph: &Graph) -> Staging {
    let mut bytes = 0;
    let mut place = |v: &ValueId| {
        let here = bytes;
        let ty = graph.ty(*v);
        bytes += (ty.elements() * element_bytes(ty)).next_multiple_of(ALIGN);
        here
    };
    let inputs: Vec<usize> = graph.inputs().iter().map(&mut place).collect();
    let outputs: Vec<usize> = graph.outputs().iter().map(&mut place).collect();
    let pointers = bytes;
    bytes += (8 * (inputs.len() + outputs.len())).next_multiple_of(ALIGN);
    Staging { inputs, outputs, pointers, bytes }
}

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

/// Scratch that the edge needs beside the integer model's.
pub fn scratch_bytes(graph: &Graph) -> usize {
    staging(graph).bytes
}

/// `for i in 0..count { body(i) }`.
fn count(
    b: &mut FunctionBuilder<'_>,
    pointer: Type,
    count: usize,
    body: &mut dyn FnMut(&mut FunctionBuilder<'_>, Value),
) {
    let index = b.declare_var(pointer);
    let zero = b.ins().iconst(pointer, 0);
    b.def_var(index, zero);
    let (head, inside, exit) = (b.create_block(), b.create_block(), b.create_block());
    b.ins().jump(head, &[]);
    b.switch_to_block(head);
    let i = b.use_var(index);
    let more = b.ins().icmp_imm_s(IntCC::UnsignedLessThan, i, count as i64);
    b.ins().brif(more, inside, &[], exit, &[]);
    b.switch_to_block(inside);
    b.seal_block(inside);
    body(b, i);
    let next = b.ins().iadd_imm_s(i, 1);
    b.def_var(index, next);
    b.ins().jump(head, &[]);
    b.seal_block(head);
    b.switch_to_block(exit);
    b.seal_block(exit);
}

/// Runs `body` on all lanes of `elements` values with codes of `size` bytes: the first float's address, the first code's address,
/// and how many lanes.
fn lanes(
    b: &mut FunctionBuilder<'_>,
    pointer: Type,
    (floats, bytes): (Value, Value),
    (elements, size): (usize, usize),
    body: &mut dyn FnMut(&mut FunctionBuilder<'_>, Value, Value, usize),
) {
    count(b, pointer, elements / VECTOR, &mut |b, i| {
        let (f, q) = (b.ins().imul_imm_s(i, 4 * VECTOR as i64), b.ins().imul_imm_s(i, (size * VECTOR) as i64));
        let (f, q) = (b.ins().iadd(floats, f), b.ins().iadd(bytes, q));
        body(b, f, q, VECTOR);
    });
    if !elements.is_multiple_of(VECTOR) {
        let done = (elements - elements % VECTOR) as i64;
        let (f, q) = (b.ins().iadd_imm_s(floats, 4 * done), b.ins().iadd_imm_s(bytes, size as i64 * done));
        body(b, f, q, elements % VECTOR);
    }
}

/// The scale of equation (14) of `elements` floats, stored at `to`; returns it as an f32.
pub fn run_time_scale(b: &mut FunctionBuilder<'_>, pointer: Type, floats: Value, to: Value, elements: usize) -> Value {
    let greatest: Vec<Variable> = (0..4).map(|_| b.declare_var(types::I32X4)).collect();
    for &var in &greatest {
        let zero = clif::splat(b, types::I32X4, 0);
        b.def_var(var, zero);
    }
    lanes(b, pointer, (floats, floats), (elements, 1), &mut |b, f, _, lanes| {
        let magnitude = clif::splat(b, types::I32X4, 0x7fff_ffff);
        let most = clif::splat(b, types::I32X4, i64::from(f32::MAX.to_bits()));
        for (&var, x) in greatest.iter().zip(clif::load_lanes(b, types::I32, f, lanes)) {
            let x = b.ins().band(x, magnitude);
            let x = b.ins().smin(x, most);
            let old = b.use_var(var);
            let new = b.ins().smax(old, x);
            b.def_var(var, new);
        }
    });
    let vectors: Vec<Value> = greatest.iter().map(|&v| b.use_var(v)).collect();
    let both = [b.ins().smax(vectors[0], vectors[1]), b.ins().smax(vectors[2], vectors[3])];
    let all = b.ins().smax(both[0], both[1]);
    let mut bits = b.ins().extractlane(all, 0);
    for lane in 1..4 {
        let x = b.ins().extractlane(all, lane);
        bits = b.ins().smax(bits, x);
    }
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
    b.ins().bitcast(types::F32, MemFlagsData::new(), bits)
}

/// Mantissa and exponent at `from` as an f32.
pub fn real_scale(b: &mut FunctionBuilder<'_>, from: Value) -> Value {
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

/// The scale of a type, as an f32.
pub fn static_scale(b: &mut FunctionBuilder<'_>, u: &Uniform) -> Value {
    b.ins().f32const(u.scale())
}

/// Bytes of a code at the edge, where there are u8 and i16.
fn code_bytes(u: &Uniform) -> usize {
    if u.storage == Int::I16 { 2 } else { 1 }
}

/// Equation (6) on `elements` floats, with the inverse of the scale.
pub fn quantize(
    b: &mut FunctionBuilder<'_>,
    pointer: Type,
    (floats, bytes): (Value, Value),
    elements: usize,
    u: &Uniform,
    inverse: Value,
) {
    lanes(b, pointer, (floats, bytes), (elements, code_bytes(u)), &mut |b, f, q, lanes| {
        let inverse = b.ins().splat(types::F32X4, inverse);
        // Far beyond any code, and far enough from the ends of 32 bits for the zero point to be added.
        let (least, greatest) = (clif::splat(b, types::I32X4, -(1 << 30)), clif::splat(b, types::I32X4, 1 << 30));
        let zero_point = clif::splat(b, types::I32X4, u.zero_point());
        let codes: Vec<Value> = clif::load_lanes(b, types::I32, f, lanes)
            .into_iter()
            .map(|x| {
                let x = clif::cast(b, types::F32X4, x);
                let scaled = b.ins().fmul(x, inverse);
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
                    clif::store_bytes(b, codes, q, (part * VECTOR) as i32, used);
                }
            }
            return;
        }
        let packed = b.ins().unarrow(low, high);
        let packed = clif::clamp(b, packed, u.min.clamp(0, 255) as u8, u.max.clamp(0, 255) as u8);
        clif::store_bytes(b, packed, q, 0, lanes);
    });
}

/// Equation (7) on `elements` codes.
pub fn dequantize(
    b: &mut FunctionBuilder<'_>,
    pointer: Type,
    bytes: Value,
    floats: Value,
    elements: usize,
    u: &Uniform,
    scale: Value,
) {
    lanes(b, pointer, (floats, bytes), (elements, code_bytes(u)), &mut |b, f, q, lanes| {
        let scale = b.ins().splat(types::F32X4, scale);
        let zero_point = clif::splat(b, types::I32X4, u.zero_point());
        let codes = if u.storage == Int::I16 {
            let x = clif::load_lanes(b, types::I16, q, lanes);
            [b.ins().swiden_low(x[0]), b.ins().swiden_high(x[0]), b.ins().swiden_low(x[1]), b.ins().swiden_high(x[1])]
        } else {
            let codes = clif::load_bytes(b, q, 0, lanes);
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
            clif::store_bytes(b, real, f, (VECTOR * part) as i32, 4 * used);
        }
    });
}

/// `array[index]` of an array of pointers.
pub fn pointer_at(b: &mut FunctionBuilder<'_>, pointer: Type, array: Value, index: usize) -> Value {
    b.ins().load(pointer, memory(), array, 8 * index as i32)
}
