//! Steps in which a window slides over an NHWC view, every channel for itself: depthwise convolution, maximum, average.
//!
//! A unit is one output row. The window's border lies in the halo, so there are no borders here.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::Variable;
use cranelift_module::DataId;
use qcc_ir::window::Window;
use qcc_num::requant::Epilogue;

use super::task::Task;
use crate::clif::{self, VECTOR};
use crate::plan::BufferView;

/// What is done with the elements under the window.
pub enum Reduction {
    /// The greatest.
    Max,
    /// The sum of `x - zero` over `taps` elements, requantized. `mult` has one multiplier, or one for each output position.
    Average {
        /// Zero point of the operand.
        zero: i64,
        /// Multipliers.
        mult: BufferView,
        /// The rule.
        epilogue: Epilogue,
    },
    /// Products with weights `[KH, KW, C]`, requantized; all of it packed by [`pack_depthwise`].
    Depthwise {
        /// Weights i8 `[KH, KW, C]`, then, each from a multiple of 16, biases and multipliers i32 `[C]`.
        data: DataId,
        /// The rule; without one the accumulators are the result.
        epilogue: Option<Epilogue>,
        /// Residual: its view and multiplier.
        residual: Option<(BufferView, u16)>,
    },
}

/// Weights, biases and multipliers of a depthwise convolution as [`Reduction::Depthwise`] reads them. `w` is `[C, KH, KW]`.
pub fn pack_depthwise(w: &[i8], bias: &[i32], mult: &[i32]) -> Vec<u8> {
    let channels = bias.len();
    let taps = w.len() / channels;
    let mut bytes: Vec<u8> = (0..taps).flat_map(|tap| (0..channels).map(move |c| w[c * taps + tap] as u8)).collect();
    bytes.resize(bytes.len().next_multiple_of(VECTOR), 0);
    bytes.extend(bias.iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend(mult.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Emits the task. `x` is the interior of a view whose halo covers the window.
pub fn emit(t: &mut Task<'_>, x: &BufferView, result: &BufferView, window: &Window, reduction: &Reduction) {
    let [_, oh, ow, channels] = result.dims[..] else { unreachable!("windows slide over [N, H, W, C]") };
    let s = Sliding { x, window, reduction, channels: channels * x.element };
    let corner = x.offset - window.pads[0] * x.strides[1] - window.pads[1] * x.strides[2];
    let source = t.address(&BufferView { offset: corner, ..x.clone() });
    let target = t.address(result);
    t.units(&mut |t, unit| {
        let rows = t.iconst_ptr(oh);
        let image = t.b.ins().udiv(unit, rows);
        let row = t.b.ins().urem(unit, rows);
        let from = t.at(source, image, x.strides[0]);
        let from = t.at(from, row, window.strides[0] * x.strides[1]);
        let to = t.at(target, image, result.strides[0]);
        let to = t.at(to, row, result.strides[1]);
        t.count(ow, &mut |t, column| {
            let from = t.at(from, column, window.strides[1] * x.strides[2]);
            let to = t.at(to, column, result.strides[2]);
            let pixel = Pixel { image, row, column, from, to };
            t.count(s.channels / VECTOR, &mut |t, c| {
                let first = t.b.ins().imul_imm_s(c, VECTOR as i64);
                s.lanes(t, &pixel, first, VECTOR);
            });
            if !s.channels.is_multiple_of(VECTOR) {
                let first = t.iconst_ptr(s.channels - s.channels % VECTOR);
                s.lanes(t, &pixel, first, s.channels % VECTOR);
            }
        });
    });
}

/// What is the same for every pixel.
struct Sliding<'s> {
    x: &'s BufferView,
    window: &'s Window,
    reduction: &'s Reduction,
    /// In bytes of the operand, as lanes are.
    channels: usize,
}

struct Pixel {
    image: Value,
    row: Value,
    column: Value,
    /// The first element under the window.
    from: Value,
    /// The result.
    to: Value,
}

/// Weights of a depthwise convolution.
#[derive(Clone, Copy)]
struct Packed {
    base: Value,
    /// Offset of the biases.
    biases: usize,
}

impl Sliding<'_> {
    /// The lanes of one pixel from channel `first` on.
    fn lanes(&self, t: &mut Task<'_>, pixel: &Pixel, first: Value, lanes: usize) {
        let from = t.b.ins().iadd(pixel.from, first);
        let raw = matches!(self.reduction, Reduction::Depthwise { epilogue: None, .. });
        let to = t.at(pixel.to, first, if raw { 4 } else { 1 });
        let packed = match self.reduction {
            Reduction::Depthwise { data, .. } => {
                let weights = self.window.kernel[0] * self.window.kernel[1] * self.channels;
                Some(Packed { base: t.data(*data), biases: weights.next_multiple_of(VECTOR) })
            }
            Reduction::Max | Reduction::Average { .. } => None,
        };
        let acc = self.begin(t, packed, first, lanes);
        self.slide(t, &acc, packed, (from, first), lanes);
        let total: Vec<Value> = acc.iter().map(|&v| t.b.use_var(v)).collect();
        let bytes = match self.reduction {
            Reduction::Max => total[0],
            Reduction::Average { mult, epilogue, .. } => {
                let base = t.address(mult);
                let base = match mult.elements() {
                    1 => base,
                    _ => {
                        let at = t.at(base, pixel.row, mult.strides[0]);
                        t.at(at, pixel.column, mult.strides[1])
                    }
                };
                let mult = t.b.ins().load(types::I32, clif::memory(), base, 0);
                let mult = t.b.ins().splat(types::I32X4, mult);
                clif::requantize(&mut t.b, [total[0], total[1], total[2], total[3]], [mult; 4], epilogue)
            }
            Reduction::Depthwise { epilogue: None, .. } => {
                return clif::store_lanes(&mut t.b, types::I32, &total, to, lanes);
            }
            Reduction::Depthwise { epilogue: Some(epilogue), residual, .. } => {
                let Some(Packed { base, biases }) = packed else { unreachable!("a depthwise convolution has weights") };
                let base = t.at(base, first, 4);
                let base = t.plus(base, biases + 4 * self.channels);
                let mult = clif::load_lanes(&mut t.b, types::I32, base, lanes);
                let residual = residual.as_ref().map(|(view, mult)| {
                    let base = t.address(view);
                    let base = t.at(base, pixel.image, view.strides[0]);
                    let base = t.at(base, pixel.row, view.strides[1]);
                    let base = t.at(base, pixel.column, view.strides[2]);
                    let base = t.b.ins().iadd(base, first);
                    (clif::load_bytes(&mut t.b, base, 0, lanes), *mult)
                });
                let (total, mult) = ([total[0], total[1], total[2], total[3]], [mult[0], mult[1], mult[2], mult[3]]);
                clif::requantize_with(&mut t.b, total, mult, epilogue, residual)
            }
        };
        clif::store_bytes(&mut t.b, bytes, to, 0, lanes);
    }

    /// What the accumulators begin with: 16 bytes of a maximum, or 16 sums.
    fn begin(&self, t: &mut Task<'_>, packed: Option<Packed>, first: Value, lanes: usize) -> Vec<Variable> {
        let kinds = if matches!(self.reduction, Reduction::Max) { vec![types::I8X16] } else { vec![types::I32X4; 4] };
        let acc: Vec<Variable> = kinds.iter().map(|&k| t.b.declare_var(k)).collect();
        match (self.reduction, packed) {
            (Reduction::Average { zero, .. }, _) => {
                let taps = (self.window.kernel[0] * self.window.kernel[1]) as i64;
                let start = clif::splat(&mut t.b, types::I32X4, -zero * taps);
                acc.iter().for_each(|&v| t.b.def_var(v, start));
            }
            (_, Some(Packed { base, biases })) => {
                let base = t.at(base, first, 4);
                let base = t.plus(base, biases);
                let bias = clif::load_lanes(&mut t.b, types::I32, base, lanes);
                acc.iter().zip(bias).for_each(|(&v, bias)| t.b.def_var(v, bias));
            }
            _ => {
                let (kind, least) = if self.x.element == 2 { (types::I16X8, -0x8000) } else { (types::I8X16, 0) };
                let least = clif::splat(&mut t.b, kind, least);
                let least = clif::cast(&mut t.b, types::I8X16, least);
                acc.iter().for_each(|&v| t.b.def_var(v, least));
            }
        }
        acc
    }

    /// Takes every element under the window into the accumulators.
    fn slide(
        &self,
        t: &mut Task<'_>,
        acc: &[Variable],
        packed: Option<Packed>,
        (from, first): (Value, Value),
        lanes: usize,
    ) {
        let (x, window) = (self.x, self.window);
        t.count(window.kernel[0], &mut |t, ky| {
            let from = t.at(from, ky, window.dilations[0] * x.strides[1]);
            let weights = packed.map(|packed| {
                let at = t.at(packed.base, ky, window.kernel[1] * self.channels);
                t.b.ins().iadd(at, first)
            });
            t.count(window.kernel[1], &mut |t, kx| {
                let from = t.at(from, kx, window.dilations[1] * x.strides[2]);
                let bytes = clif::load_bytes(&mut t.b, from, 0, lanes);
                match weights {
                    Some(base) => {
                        let base = t.at(base, kx, self.channels);
                        let w = clif::load_bytes(&mut t.b, base, 0, lanes);
                        multiply(t, acc, bytes, w);
                    }
                    None if acc.len() == 1 => raise(t, acc[0], bytes, x.element),
                    None => {
                        let i32s = clif::widen_bytes(&mut t.b, bytes);
                        add(t, acc, i32s);
                    }
                }
            });
        });
    }
}

/// A running maximum of elements of one or two bytes.
fn raise(t: &mut Task<'_>, acc: Variable, bytes: Value, element: usize) {
    let greatest = t.b.use_var(acc);
    let greatest = if element == 2 {
        let [a, b] = [greatest, bytes].map(|v| clif::cast(&mut t.b, types::I16X8, v));
        let i16s = t.b.ins().smax(a, b);
        clif::cast(&mut t.b, types::I8X16, i16s)
    } else {
        t.b.ins().umax(greatest, bytes)
    };
    t.b.def_var(acc, greatest);
}

/// `acc += u8 * i8` in 16 lanes; the products fit 16 bits.
fn multiply(t: &mut Task<'_>, acc: &[Variable], bytes: Value, w: Value) {
    let (x, w_low) = (t.b.ins().uwiden_low(bytes), t.b.ins().swiden_low(w));
    let low = t.b.ins().imul(x, w_low);
    let (x, w_high) = (t.b.ins().uwiden_high(bytes), t.b.ins().swiden_high(w));
    let high = t.b.ins().imul(x, w_high);
    let i32s = [
        t.b.ins().swiden_low(low),
        t.b.ins().swiden_high(low),
        t.b.ins().swiden_low(high),
        t.b.ins().swiden_high(high),
    ];
    add(t, acc, i32s);
}

fn add(t: &mut Task<'_>, acc: &[Variable], terms: [Value; 4]) {
    for (&acc, term) in acc.iter().zip(terms) {
        let sum = t.b.use_var(acc);
        let sum = t.b.ins().iadd(sum, term);
        t.b.def_var(acc, sum);
    }
}
