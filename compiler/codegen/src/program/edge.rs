//! The float edge: `run_f32` quantizes its inputs into scratch memory, runs the integer model, and dequantizes.
//!
//! These are the only functions with float instructions. They lie in a section of their own. The arithmetic is equations (6)
//! and (7) of [`qcc_num::edge`].

use cranelift_codegen::ir::{InstBuilder, Type, Value, condcodes::IntCC, types};
use cranelift_frontend::FunctionBuilder;
use qcc_ir::{Graph, Uniform, ValueId};

use crate::clif::{self, VECTOR, memory};
use crate::plan::ALIGN;

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
        bytes += graph.ty(*v).elements().next_multiple_of(ALIGN);
        here
    };
    let inputs: Vec<usize> = graph.inputs().iter().map(&mut place).collect();
    let outputs: Vec<usize> = graph.outputs().iter().map(&mut place).collect();
    let pointers = bytes;
    bytes += (8 * (inputs.len() + outputs.len())).next_multiple_of(ALIGN);
    Staging { inputs, outputs, pointers, bytes }
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

/// Runs `body` on all lanes of `elements` values: the first float's address, the first byte's address, and how many lanes.
fn lanes(
    b: &mut FunctionBuilder<'_>,
    pointer: Type,
    (floats, bytes): (Value, Value),
    elements: usize,
    body: &mut dyn FnMut(&mut FunctionBuilder<'_>, Value, Value, usize),
) {
    count(b, pointer, elements / VECTOR, &mut |b, i| {
        let (f, q) = (b.ins().imul_imm_s(i, 4 * VECTOR as i64), b.ins().imul_imm_s(i, VECTOR as i64));
        let (f, q) = (b.ins().iadd(floats, f), b.ins().iadd(bytes, q));
        body(b, f, q, VECTOR);
    });
    if !elements.is_multiple_of(VECTOR) {
        let done = (elements - elements % VECTOR) as i64;
        let (f, q) = (b.ins().iadd_imm_s(floats, 4 * done), b.ins().iadd_imm_s(bytes, done));
        body(b, f, q, elements % VECTOR);
    }
}

/// Equation (6) on `elements` floats.
pub fn quantize(b: &mut FunctionBuilder<'_>, pointer: Type, floats: Value, bytes: Value, elements: usize, u: &Uniform) {
    lanes(b, pointer, (floats, bytes), elements, &mut |b, f, q, lanes| {
        let inverse = b.ins().f32const(1.0 / u.scale());
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
) {
    lanes(b, pointer, (floats, bytes), elements, &mut |b, f, q, lanes| {
        let scale = b.ins().f32const(u.scale());
        let scale = b.ins().splat(types::F32X4, scale);
        let zero_point = clif::splat(b, types::I32X4, u.zero_point());
        let codes = clif::load_bytes(b, q, 0, lanes);
        for (part, code) in clif::widen_bytes(b, codes).into_iter().enumerate() {
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
