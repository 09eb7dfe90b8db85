//! Random integer graphs: the interpreter, the JIT of every target that runs here, and the shared object, with one thread and
//! with several, must give the same bytes.
//!
//! Each case is made from a seed; a failure prints it with the graph. `QCC_SEED=n` runs that case alone.

use std::sync::Arc;

use qcc_codegen::{Options, Target, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Attrs, Data, Dialect, Edit, Elem, Graph, Int, Opcode, Tensor, Type, Uniform, ValueId, print};
use qcc_num::random::Random;
use qcc_runtime::{Model, Pool, TensorRef};

/// A graph in the making: its present value is u8 [N, H, W, C].
struct Maker<'g> {
    edit: Edit<'g>,
    random: Random,
    now: ValueId,
    /// Values of earlier steps, for residuals and concatenation.
    earlier: Vec<ValueId>,
}

impl Maker<'_> {
    fn dims(&self) -> [usize; 4] {
        self.edit.graph().ty(self.now).dims.clone().try_into().expect("rank 4")
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) -> ValueId {
        self.edit.add_inferred(op, operands, attrs, "v", None).expect("the generator makes legal operations")
    }

    fn step(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) {
        self.earlier.push(self.now);
        self.now = self.add(op, operands, attrs);
    }

    /// As [`Maker::step`], unless the window may lie in the padding alone, which the operator refuses.
    fn pool_step(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) {
        if let Ok(v) = self.edit.add_inferred(op, operands, attrs, "v", None) {
            self.earlier.push(std::mem::replace(&mut self.now, v));
        }
    }

    fn i8s(&mut self, dims: &[usize]) -> ValueId {
        let n = dims.iter().product();
        let data = (0..n).map(|_| self.random.within(-127, 127) as i8).collect();
        self.edit.add_const("w", Tensor::new(dims, Data::I8(data)))
    }

    fn i32s(&mut self, n: usize, lo: i64, hi: i64) -> ValueId {
        let data = (0..n).map(|_| self.random.within(lo, hi) as i32).collect();
        self.edit.add_const("c", Tensor::new(&[n], Data::I32(data)))
    }

    fn clamps(&mut self, attrs: Attrs) -> Attrs {
        let (lo, hi) = self.random.pick(&[(0, 255), (0, 255), (3, 250), (128, 255)]);
        attrs.with("lo", lo).with("hi", hi)
    }

    /// Constants of equations (1) to (4), or (15), that neither vanish nor saturate on sums of `terms` products.
    fn epilogue(&mut self, op: Attrs, terms: usize) -> (Attrs, i64) {
        let shl = self.random.pick(&[0, 0, 0, 1, 3]);
        let single = op.has("single") && self.random.below(3) == 0;
        let point = if single { self.random.within(33, 46) } else { 38 };
        let mult = ((1u64 << point >> shl) as f64 / (terms as f64).sqrt() / 120.0).min(f64::from(i32::MAX)) as i64;
        let zero = self.random.within(0, 255);
        let attrs = op.with("shl", shl).with("offset", if single { zero } else { 32 + 64 * zero });
        let attrs = if single { attrs.with("single", point) } else { attrs };
        (self.clamps(attrs), mult)
    }

    fn window(&mut self, op: Attrs, dilate: bool) -> (Attrs, [usize; 2]) {
        let [_, h, w, _] = self.dims();
        let kernel = [1 + self.random.below(3.min(h)), 1 + self.random.below(3.min(w))];
        let dilation = if dilate { self.random.pick(&[1, 1, 2]) } else { 1 };
        let pads: Vec<i64> = (0..4).map(|i| self.random.within(0, kernel[i % 2] as i64 - 1)).collect();
        let fits = |size: usize, k: usize, p: i64| (k - 1) * dilation < size + p as usize;
        let dilation =
            if fits(h, kernel[0], pads[0] + pads[2]) && fits(w, kernel[1], pads[1] + pads[3]) { dilation } else { 1 };
        let strides = vec![self.random.within(1, 2), self.random.within(1, 2)];
        let attrs = op.with("strides", strides).with("pads", pads);
        let attrs = if dilate { attrs.with("dilations", vec![dilation as i64; 2]) } else { attrs };
        (attrs, kernel)
    }

    fn conv(&mut self) {
        let [_, _, _, c] = self.dims();
        let groups = match self.random.below(4) {
            0 => c,
            1 if c % 2 == 0 => 2,
            _ => 1,
        };
        let outputs = groups * (1 + self.random.below(if groups == 1 { 70 } else { 3 }));
        let (attrs, kernel) = self.window(Attrs::new(Opcode::QConv2d), true);
        let terms = kernel[0] * kernel[1] * c / groups;
        let (attrs, mult) = self.epilogue(attrs, terms);
        let attrs = attrs.with("groups", groups as i64).with("pad_value", self.random.within(0, 255));
        let w = self.i8s(&[outputs, kernel[0], kernel[1], c / groups]);
        let bias = self.i32s(outputs, -20000, 20000);
        let mult = self.i32s(outputs, mult / 2, mult);
        let plain = self
            .edit
            .add_inferred(Opcode::QConv2d, &[self.now, w, bias, mult], attrs.clone(), "v", None)
            .expect("legal");
        let ty = self.edit.graph().ty(plain).clone();
        let partner = self.earlier.iter().copied().find(|&v| *self.edit.graph().ty(v) == ty);
        match partner.filter(|_| self.random.below(2) == 0) {
            Some(r) => {
                let attrs = attrs.with("residual_mult", self.random.within(1000, 32767)).with("single", 0);
                self.step(Opcode::QConv2d, &[self.now, w, bias, mult, r], attrs);
            }
            None => {
                self.earlier.push(self.now);
                self.now = plain;
            }
        }
    }

    fn raw_conv(&mut self) {
        let [_, _, _, c] = self.dims();
        let (attrs, kernel) = self.window(Attrs::new(Opcode::IConv2d), true);
        let outputs = 1 + self.random.below(40);
        let w = self.i8s(&[outputs, kernel[0], kernel[1], c]);
        let bias = self.i32s(outputs, -20000, 20000);
        let acc = self.add(Opcode::IConv2d, &[self.now, w, bias], attrs);
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::Requant), kernel[0] * kernel[1] * c);
        let n = self.random.pick(&[1, outputs]);
        let mult = self.i32s(n, mult / 2, mult);
        self.step(Opcode::Requant, &[acc, mult], attrs);
    }

    fn pool(&mut self) {
        match self.random.below(3) {
            0 => {
                let (attrs, kernel) = self.window(Attrs::new(Opcode::IMaxPool), true);
                self.pool_step(Opcode::IMaxPool, &[self.now], attrs.with("kernel", kernel.as_slice()));
            }
            1 => {
                let (mut attrs, mut kernel) = self.window(Attrs::new(Opcode::IAveragePool), false);
                if self.random.below(4) == 0 {
                    let [_, h, w, _] = self.dims();
                    (attrs, kernel) = (attrs.with("pads", vec![0; 4]), [h, w]);
                }
                let (attrs, _) = self.epilogue(attrs, 1);
                let attrs =
                    attrs.with("kernel", kernel.as_slice()).with("zero", self.random.within(0, 255)).with("shl", 7);
                let mult = self.i32s(1, 1 << 28, (1 << 31) - 1);
                self.pool_step(Opcode::IAveragePool, &[self.now, mult], attrs);
            }
            _ => {
                let [_, h, w, _] = self.dims();
                let (attrs, _) = self.epilogue(Attrs::new(Opcode::IMean), 1);
                let axes = self.random.pick(&[[1, 2], [2, 3], [1, 3]]);
                let mult = ((1u64 << 31) / (h * w) as u64) as i64;
                let attrs = attrs
                    .with("axes", axes.to_vec())
                    .with("zero", 100)
                    .with("mult", mult.min(i64::from(i32::MAX)))
                    .with("shl", 7);
                self.step(Opcode::IMean, &[self.now], attrs);
            }
        }
    }

    fn elementwise(&mut self) {
        let [_, _, _, c] = self.dims();
        match self.random.below(12) {
            7..=11 => self.of_rows(),
            0 => {
                let b = self.partner();
                let attrs =
                    Attrs::new(Opcode::IAdd).with("shift", 15).with("offset", self.random.within(-(1 << 22), 1 << 22));
                let mults = vec![self.random.within(-32767, 32767), self.random.within(1, 32767)];
                let attrs = self.clamps(attrs.with("mults", mults));
                self.step(Opcode::IAdd, &[self.now, b], attrs);
            }
            1 => {
                let b = self.partner();
                let (attrs, _) = self.epilogue(Attrs::new(Opcode::IMul), 1);
                let zeros = vec![self.random.within(0, 255), self.random.within(0, 255)];
                self.step(Opcode::IMul, &[self.now, b], attrs.with("zeros", zeros).with("mult", 1i64 << 30));
            }
            2 => {
                let attrs = Attrs::new(Opcode::Rescale)
                    .with("shift", 14)
                    .with("offset", self.random.within(-100_000, 2_000_000));
                let mult = self.random.within(-32767, 32767);
                let attrs = self.clamps(attrs.with("mult", mult));
                self.step(Opcode::Rescale, &[self.now], attrs);
            }
            3 => {
                let data = (0..c).map(|_| self.random.within(-32767, 32767) as i16).collect();
                let mult = self.edit.add_const("m", Tensor::new(&[c], Data::I16(data)));
                let offset = self.i32s(c, -1_000_000, 4_000_000);
                let attrs = self.clamps(Attrs::new(Opcode::ScaleChannels).with("shift", 14i64));
                self.step(Opcode::ScaleChannels, &[self.now, mult, offset], attrs);
            }
            4 => {
                let data = (0..256).map(|_| self.random.below(256) as u8).collect();
                let table = self.edit.add_const("table", Tensor::new(&[256], Data::U8(data)));
                self.step(Opcode::Lut, &[self.now, table], Attrs::new(Opcode::Lut));
            }
            5 => {
                let attrs = self.clamps(Attrs::new(Opcode::Clamp));
                self.step(Opcode::Clamp, &[self.now], attrs);
            }
            _ => {
                let data = (0..256).map(|i| (8_000_000.0 * (-f64::from(i) / 20.0).exp()) as i32).collect();
                let table = self.edit.add_const("exp", Tensor::new(&[256], Data::I32(data)));
                let attrs = Attrs::new(Opcode::ISoftmax).with("mult", self.random.within(256, 300_000));
                self.step(Opcode::ISoftmax, &[self.now, table], attrs);
            }
        }
    }

    /// Operators that look at whole rows or at two operands.
    fn of_rows(&mut self) {
        let [_, _, _, c] = self.dims();
        match self.random.below(5) {
            0 => {
                let b = self.partner();
                let data = (0..1 << 16).map(|_| self.random.below(256) as u8).collect();
                let table = self.edit.add_const("table", Tensor::new(&[1 << 16], Data::U8(data)));
                self.step(Opcode::Lut2, &[self.now, b, table], Attrs::new(Opcode::Lut2));
            }
            1 => {
                let (m, n) = (self.random.pick(&[1, c]), self.random.pick(&[1, c]));
                let (mult, offset) = (self.i32s(m, -40000, 40000), self.i32s(n, -2000, 18000));
                let epsilon = self.random.pick(&[0, 1, 1 << 30]);
                let attrs = Attrs::new(Opcode::ILayerNorm).with("axis", 1 + self.random.below(3) as i64);
                let attrs = self.clamps(attrs.with("epsilon", epsilon));
                self.step(Opcode::ILayerNorm, &[self.now, mult, offset], attrs);
            }
            2 => {
                let perm = Attrs::new(Opcode::Transpose).with("perm", vec![0, 1, 3, 2]);
                let b = self.add(Opcode::Transpose, &[self.now], perm);
                let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QMatMul), c * 4);
                let zeros = vec![self.random.within(0, 255), self.random.within(0, 255)];
                self.step(Opcode::QMatMul, &[self.now, b], attrs.with("zeros", zeros).with("mult", mult / 2));
            }
            3 => {
                let other = self.partner();
                let data = (0..c).map(|_| self.random.below(2) as u8).collect();
                let condition = self.edit.add_const("condition", Tensor::new(&[c], Data::U8(data)));
                self.step(Opcode::Where, &[self.now, other, condition], Attrs::new(Opcode::Where));
            }
            _ => {
                let axis = 1 + self.random.below(3);
                let k = 1 + self.random.below(self.dims()[axis].min(4));
                let attrs = Attrs::new(Opcode::TopK).with("axis", axis as i64).with("k", k as i64);
                let attrs = attrs.with("largest", self.random.below(2) == 0);
                self.step(Opcode::TopK, &[self.now], attrs);
            }
        }
    }

    /// A dense block: every step sees all that came before it.
    fn dense_block(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let before = self.now;
            if self.dims()[3] > 70 {
                return;
            }
            let around = self.dims();
            self.elementwise();
            if self.dims()[..3] != around[..3] {
                return;
            }
            let attrs = Attrs::new(Opcode::Concat).with("axis", 3i64);
            self.step(Opcode::Concat, &[before, self.now], attrs);
        }
    }

    /// A matrix product of every pixel's channels: its rows may lie in the halo of a window, in a part of a concatenation.
    fn of_pixels(&mut self) {
        let [n, h, w, c] = self.dims();
        let outputs = if self.random.below(2) == 0 { c } else { 1 + self.random.below(70) };
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QLinear), c);
        let (weights, bias) = (self.i8s(&[outputs, c]), self.i32s(outputs, -20000, 20000));
        let mut operands = vec![self.now, weights, bias, self.i32s(outputs, mult / 2, mult)];
        let same = |&v: &ValueId| self.edit.graph().ty(v).dims == [n, h, w, outputs];
        let partner = self.earlier.iter().copied().find(same).filter(|_| attrs.int("single") == 0);
        let attrs = match partner {
            Some(residual) if self.edit.graph().ty(residual).elem == self.edit.graph().ty(self.now).elem => {
                operands.push(residual);
                attrs.with("residual_mult", self.random.within(1000, 32767))
            }
            _ => attrs,
        };
        self.step(Opcode::QLinear, &operands, attrs);
    }

    /// A second operand: an earlier value of the same shape, the value itself, or one that is broadcast.
    fn partner(&mut self) -> ValueId {
        let ty = self.edit.graph().ty(self.now).clone();
        if self.random.below(3) == 0 {
            let [n, _, _, c] = self.dims();
            let dims = [n, 1, 1, self.random.pick(&[1, c])];
            let data = (0..dims.iter().product()).map(|_| self.random.below(256) as u8).collect();
            return self.edit.add_const("b", Tensor::new(&dims, Data::U8(data)));
        }
        self.earlier.iter().copied().find(|&v| *self.edit.graph().ty(v) == ty).unwrap_or(self.now)
    }

    fn movement(&mut self) {
        let dims = self.dims();
        match self.random.below(7) {
            0 => {
                let perm = self.random.pick(&[[0, 3, 1, 2], [0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 3, 2]]);
                self.step(Opcode::Transpose, &[self.now], Attrs::new(Opcode::Transpose).with("perm", perm.to_vec()));
            }
            1 => {
                let shape = vec![dims[0] as i64, dims[2] as i64, dims[1] as i64, dims[3] as i64];
                self.step(Opcode::Reshape, &[self.now], Attrs::new(Opcode::Reshape).with("shape", shape));
            }
            2 => {
                let steps: Vec<i64> = dims.iter().map(|_| self.random.within(1, 2)).collect();
                let starts: Vec<i64> = dims.iter().map(|&d| self.random.below(d.min(2)) as i64).collect();
                let ends: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                let attrs = Attrs::new(Opcode::Slice).with("starts", starts).with("ends", ends).with("steps", steps);
                self.step(Opcode::Slice, &[self.now], attrs);
            }
            3 => {
                let pads: Vec<i64> = (0..8).map(|i| if i % 4 == 0 { 0 } else { self.random.within(0, 2) }).collect();
                let value = self.random.below(256) as f32;
                self.step(Opcode::Pad, &[self.now], Attrs::new(Opcode::Pad).with("pads", pads).with("value", value));
            }
            4 => {
                let other = self.partner();
                let ty = self.edit.graph().ty(other).clone();
                if ty.dims == dims {
                    let attrs = Attrs::new(Opcode::Concat).with("axis", self.random.pick(&[1i64, 2, 3, 3, 3]));
                    self.step(Opcode::Concat, &[self.now, other, self.now], attrs);
                }
            }
            5 => self.look_up(),
            _ => {
                let axis = 1 + self.random.below(3);
                let indices = (0..3).map(|_| self.random.within(-(dims[axis] as i64), dims[axis] as i64 - 1)).collect();
                let indices = self.edit.add_const("i", Tensor::new(&[3], Data::I64(indices)));
                let attrs = Attrs::new(Opcode::Gather).with("axis", axis as i64);
                self.step(Opcode::Gather, &[self.now, indices], attrs);
            }
        }
    }

    fn i64s(&mut self, n: usize, lo: i64, hi: i64) -> ValueId {
        let data = (0..n).map(|_| self.random.within(lo, hi)).collect();
        self.edit.add_const("wide", Tensor::new(&[n], Data::I64(data)))
    }

    /// A requantized sum whose values reach about `reach`, to `bits` bits.
    fn combined(&mut self, xs: &[ValueId], factors: Vec<i64>, reach: i64, bits: i64) -> ValueId {
        let c = *self.edit.graph().ty(xs[0]).dims.last().expect("rank 4");
        let (zero, half) = (if bits == 16 { 30_000 } else { 128 }, if bits == 16 { 0 } else { 128 });
        let mult = ((1i64 << 45) / reach.max(1)).saturating_mul(if bits == 16 { 40_000 } else { 200 });
        let mult = mult.min(1 << 61);
        let n = |m: &mut Self| m.random.pick(&[1, 1, c]);
        let (a, b, d) = (n(self), n(self), n(self));
        let bias = self.i64s(a, -reach / 4, reach / 4);
        let mult = self.i64s(b, -mult, mult);
        let offset = self.i64s(d, (half - zero) << 45, (half + zero) << 45);
        let (lo, hi) = match bits {
            16 => self.random.pick(&[(-32768, 32767), (-1000, 20_000)]),
            _ => self.random.pick(&[(0, 255), (7, 200)]),
        };
        let attrs = Attrs::new(Opcode::Combine).with("factors", factors).with("bits", bits);
        let operands: Vec<ValueId> = [bias, mult, offset].iter().chain(xs).copied().collect();
        self.add(Opcode::Combine, &operands, attrs.with("lo", lo).with("hi", hi))
    }

    /// A few operations on values of 16 bits, and back to 8.
    fn sixteen_bits(&mut self) {
        let mut x = self.combined(&[self.now], vec![1], 255, 16);
        for _ in 0..1 + self.random.below(3) {
            x = self.of_sixteen_bits(x);
        }
        self.earlier.push(self.now);
        self.now = match self.random.below(3) {
            0 => {
                let high = self.random.below(2) == 0;
                self.add(Opcode::Byte, &[x], Attrs::new(Opcode::Byte).with("high", high))
            }
            1 => {
                let data = (0..1 << 16).map(|_| self.random.below(256) as u8).collect();
                let table = self.edit.add_const("table", Tensor::new(&[1 << 16], Data::U8(data)));
                self.add(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut))
            }
            _ => self.combined(&[x], vec![1], 1 << 15, 8),
        };
    }

    fn of_sixteen_bits(&mut self, x: ValueId) -> ValueId {
        let dims: [usize; 4] = self.edit.graph().ty(x).dims.clone().try_into().expect("rank 4");
        let same = |m: &Self, v: ValueId| m.edit.graph().ty(v).dims == dims;
        match self.random.below(8) {
            0 => {
                let factors = vec![self.random.within(-(1 << 23), 1 << 23), self.random.within(1, 1 << 23)];
                let other = if same(self, self.now) { self.now } else { x };
                self.combined(&[x, other], factors, 1 << 38, 16)
            }
            1 => {
                let zeros = vec![self.random.within(-32768, 32767), self.random.within(0, 255)];
                let (bits, big) = self.random.pick(&[(8i64, 1i64 << 28), (16, 1 << 34), (16, 1 << 55)]);
                let attrs = Attrs::new(Opcode::WideMul)
                    .with("zeros", zeros)
                    .with("mult", self.random.within(-big, big))
                    .with("offset", self.random.within(-(1 << 50), 1 << 50))
                    .with("lo", if bits == 16 { -32768 } else { 3 })
                    .with("hi", if bits == 16 { 32767 } else { 251 })
                    .with("bits", bits);
                let other = if same(self, self.now) { self.now } else { x };
                let y = self.add(Opcode::WideMul, &[x, other], attrs);
                if bits == 16 { y } else { self.combined(&[y], vec![1], 255, 16) }
            }
            2 => {
                let data = (0..1 << 16).map(|_| self.random.within(-32768, 32767) as i16).collect();
                let table = self.edit.add_const("table", Tensor::new(&[1 << 16], Data::I16(data)));
                self.add(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut))
            }
            3 => {
                let kernel = [1 + self.random.below(3.min(dims[1])), 1 + self.random.below(3.min(dims[2]))];
                let strides = vec![self.random.within(1, 2), self.random.within(1, 2)];
                let attrs = Attrs::new(Opcode::IMaxPool).with("kernel", kernel.as_slice()).with("strides", strides);
                self.add(Opcode::IMaxPool, &[x], attrs)
            }
            4 => {
                let data = (0..1 << 16).map(|i| (8_000_000.0 * (-f64::from(i) / 5000.0).exp()) as i32).collect();
                let table = self.edit.add_const("exp", Tensor::new(&[1 << 16], Data::I32(data)));
                let attrs = Attrs::new(Opcode::ISoftmax).with("mult", self.random.within(1 << 20, 1 << 25));
                self.add(Opcode::ISoftmax, &[x, table], attrs.with("bits", 16))
            }
            5 => {
                let pads: Vec<i64> = (0..8).map(|i| if i % 4 == 0 { 0 } else { self.random.within(0, 2) }).collect();
                let value = self.random.within(-32768, 32767) as f32;
                let padded = Attrs::new(Opcode::Pad).with("pads", pads).with("value", value);
                let y = self.add(Opcode::Pad, &[x], padded);
                let perm = self.random.pick(&[[0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 2, 3]]);
                self.add(Opcode::Transpose, &[y], Attrs::new(Opcode::Transpose).with("perm", perm.to_vec()))
            }
            6 => {
                let joined = Attrs::new(Opcode::Concat).with("axis", self.random.pick(&[1i64, 2, 3]));
                let factor = self.random.within(1, 3);
                let y = self.combined(&[x], vec![factor], 1 << 16, 16);
                if dims[3] > 70 { y } else { self.add(Opcode::Concat, &[x, y], joined) }
            }
            _ => self.product_of_bytes(x, dims),
        }
    }

    /// A convolution of 16-bit values: two of bytes, or four with two digits of weights.
    fn product_of_bytes(&mut self, x: ValueId, dims: [usize; 4]) -> ValueId {
        let outer = std::mem::replace(&mut self.now, x);
        let (attrs, kernel) = self.window(Attrs::new(Opcode::IConv2d), true);
        self.now = outer;
        let c = dims[3];
        let groups = self.random.pick(&[1, c]);
        let outputs = groups * (1 + self.random.below(if groups == 1 { 20 } else { 1 }));
        let mut terms = Vec::new();
        let mut factors = Vec::new();
        for digit in 0..1 + self.random.below(2) {
            let n = outputs * kernel[0] * kernel[1] * (c / groups);
            let data = (0..n).map(|_| self.random.within(-128, 127) as i8).collect();
            let w = self.edit.add_const("w", Tensor::new(&[outputs, kernel[0], kernel[1], c / groups], Data::I8(data)));
            let none = self.i32s(outputs, 0, 0);
            for high in [false, true] {
                let byte = self.add(Opcode::Byte, &[x], Attrs::new(Opcode::Byte).with("high", high));
                let attrs = attrs.clone().with("groups", groups as i64).with("pad_value", self.random.within(0, 255));
                terms.push(self.add(Opcode::IConv2d, &[byte, w, none], attrs));
                factors.push(1i64 << (8 * (usize::from(high) + digit)));
            }
        }
        let reach = 1i64 << (29 + 8 * (factors.len() / 2));
        self.combined(&terms, factors, reach, 16)
    }

    /// Slices at computed positions, which may lie outside.
    fn look_up(&mut self) {
        let dims = self.dims();
        let k = 1 + self.random.below(dims[3].min(5));
        let attrs = Attrs::new(Opcode::TopKIndex).with("axis", 3i64).with("k", k as i64);
        let all = self.add(Opcode::TopKIndex, &[self.now], attrs);
        let attrs = Attrs::new(Opcode::Slice).with("starts", vec![0; 4]).with("steps", vec![1; 4]);
        let row = self.add(Opcode::Slice, &[all], attrs.with("ends", vec![1, 1, 1, k as i64]));
        let row = self.add(Opcode::Reshape, &[row], Attrs::new(Opcode::Reshape).with("shape", vec![k as i64]));
        let attrs = Attrs::new(Opcode::Gather).with("axis", 1 + self.random.below(3) as i64);
        let attrs = attrs.with("wrap", self.random.below(2) == 0);
        self.step(Opcode::Gather, &[self.now, row], attrs);
    }

    /// A matrix product at the end, of all elements or of the channels of each pixel.
    fn linear(&mut self) {
        let dims = self.dims();
        let rows = self.random.pick(&[dims[0], dims[0] * dims[1] * dims[2]]);
        let k = dims.iter().product::<usize>() / rows;
        let shape = vec![rows as i64, k as i64];
        self.step(Opcode::Reshape, &[self.now], Attrs::new(Opcode::Reshape).with("shape", shape));
        let outputs = 1 + self.random.below(150);
        let (w, bias) = (self.i8s(&[outputs, k]), self.i32s(outputs, -20000, 20000));
        let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QLinear), k);
        let mult = self.i32s(outputs, mult / 2, mult);
        self.step(Opcode::QLinear, &[self.now, w, bias, mult], attrs);
    }
}

fn uniform(random: &mut Random) -> Elem {
    Elem::Uniform(Arc::new(Uniform::per_tensor(
        Int::U8,
        0.01 + random.below(100) as f32 / 300.0,
        random.within(0, 255),
    )))
}

fn random_graph(seed: u64) -> Graph {
    let mut graph = Graph::new("random");
    let mut random = Random::new(seed);
    let mut edit = Edit::new(&mut graph);
    let channels = random.pick(&[1, 3, 4, 5, 8, 16, 17, 32, 40, 64, 65, 96, 130]);
    let dims = [1 + random.below(2), 1 + random.below(9), 1 + random.below(20), channels];
    let elem = uniform(&mut random);
    let now = edit.add_input("input", Type { dims: dims.to_vec(), elem });
    let steps = 1 + random.below(7);
    let mut m = Maker { edit, random, now, earlier: Vec::new() };
    for _ in 0..steps {
        match m.random.below(10) {
            0..=2 => m.conv(),
            8 => m.dense_block(),
            9 => m.sixteen_bits(),
            3 => m.raw_conv(),
            4 => m.pool(),
            5 => m.movement(),
            6 => m.of_pixels(),
            _ => m.elementwise(),
        }
    }
    if m.random.below(3) == 0 {
        m.linear();
    }
    let mut outputs = vec![m.now];
    if let Some(&other) = m.earlier.last().filter(|_| m.random.below(4) == 0) {
        outputs.push(other);
    }
    for &v in &outputs {
        let elem = uniform(&mut m.random);
        let producer = m.edit.graph().producer(v).map(|n| m.edit.graph().op(n).info().dialect());
        if producer == Some(Dialect::Int) {
            m.edit.set_elem(v, elem);
        }
    }
    m.edit.set_outputs(outputs);
    m.edit.remove_dead();
    graph
}

fn options(graph: &Graph, target: Target) -> Options {
    let float_edge = graph.outputs().iter().all(|&v| graph.ty(v).uniform().is_some());
    let manifest = qcc_runtime::Manifest::default();
    // Everything goes through the pool, however small.
    Options {
        target,
        name: "random".into(),
        float_edge,
        shared_from: 0,
        tuning: Default::default(),
        hash: [7; 32],
        manifest,
    }
}

/// Output bytes of a compiled model.
fn outputs_of(model: &Model, input: &Tensor, pool: Option<&Pool>) -> Vec<Vec<u8>> {
    let bytes = input.as_u8().expect("u8 input");
    let session = model.session();
    let mut session = match pool {
        Some(pool) => session.with_pool(pool),
        None => session,
    };
    let outputs = session.run(&[TensorRef::new(&input.dims, bytes)]).expect("the model runs");
    outputs.iter().map(|t| t.bytes().to_vec()).collect()
}

/// The first operation that differs from the interpreter when it is the graph's only output.
fn first_difference(graph: &Graph, input: &Tensor) -> String {
    let bytes = |v: &ValueId| graph.ty(*v).elem.storage() == Some(Int::U8);
    for v in graph.order().into_iter().map(|n| graph.result(n)).filter(bytes) {
        let mut alone = graph.clone();
        let mut edit = Edit::new(&mut alone);
        edit.set_outputs(vec![v]);
        edit.remove_dead();
        let wanted = Evaluator::new(&alone).run(std::slice::from_ref(input)).expect("ran before");
        let wanted = wanted[0].as_u8().expect("u8");
        for target in Target::all_runnable() {
            let options = Options { float_edge: false, ..options(&alone, target) };
            let jit = emit::jit::compile(&alone, &options).expect("compiled before");
            let got = outputs_of(&jit.model, input, None).remove(0);
            if let Some(at) = got.iter().zip(wanted).position(|(a, b)| a != b) {
                let node = alone.producer(v).expect("computed");
                let operands: Vec<_> = alone.operands(node).iter().map(|&v| alone.ty(v).to_string()).collect();
                let text = print::node_text(&alone, node);
                return format!("first in [{at}] ({} for {}) of {text} on {operands:?}", got[at], wanted[at]);
            }
        }
    }
    "nowhere when every value is the only output".to_string()
}

fn check(seed: u64, pool: &Pool, folder: &std::path::Path) {
    let graph = random_graph(seed);
    qcc_ir::verify::verify(&graph).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", print::print(&graph)));
    let ty = graph.ty(graph.inputs()[0]);
    let mut random = Random::new(seed ^ 0xABCD);
    let input = Tensor::new(&ty.dims, Data::U8((0..ty.elements()).map(|_| random.below(256) as u8).collect()));
    let wanted =
        Evaluator::new(&graph).run(std::slice::from_ref(&input)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let wanted: Vec<Vec<u8>> = wanted.iter().map(|t| t.as_u8().expect("u8 output").to_vec()).collect();
    let same = |what: &str, got: Vec<Vec<u8>>| {
        for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let wrong = got.iter().zip(wanted).position(|(a, b)| a != b);
            let differs = |at| format!("output {i}[{at}] is {}, the interpreter says {}", got[at], wanted[at]);
            let first = || first_difference(&graph, &input);
            assert!(wrong.is_none(), "seed {seed}, {what}: {}; {}", differs(wrong.unwrap_or(0)), first());
        }
        assert_eq!(got.len(), wanted.len());
    };
    for target in Target::all_runnable() {
        let options = options(&graph, target);
        let what = target.to_string();
        let jit = emit::jit::compile(&graph, &options)
            .unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}\n{}", print::print(&graph)));
        same(&format!("JIT {what}"), outputs_of(&jit.model, &input, None));
        same(&format!("JIT {what} with threads"), outputs_of(&jit.model, &input, Some(pool)));
        let mut choose = |task: &qcc_codegen::program::TaskInfo| {
            let choice = task.choices.get(random.below(task.choices.len().max(1)))?;
            Some((task.name.clone(), *choice))
        };
        let tuning = jit.tasks.iter().filter_map(&mut choose).collect();
        let tuned = Options { tuning, ..options.clone() };
        let jit = emit::jit::compile(&graph, &tuned).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(&format!("JIT {what}, {:?}", tuned.tuning), outputs_of(&jit.model, &input, Some(pool)));
        let object = emit::object::compile(&graph, &options).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        let path = folder.join(format!("{seed}-{target}.so"));
        std::fs::write(&path, object.link("random.so").unwrap_or_else(|e| panic!("seed {seed}: {e}")))
            .expect("temporary file");
        let model = Model::load(&path).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(&format!("shared object {what}"), outputs_of(&model, &input, None));
        std::fs::remove_file(&path).expect("temporary file");
    }
}

#[test]
fn all_engines_agree_on_random_graphs() {
    let pool = Pool::new(3).expect("threads");
    let folder = tempfile::tempdir().expect("temporary folder");
    let one = std::env::var("QCC_SEED").ok().and_then(|s| s.parse().ok());
    match one {
        Some(seed) => check(seed, &pool, folder.path()),
        None => (0..180).for_each(|seed| check(seed, &pool, folder.path())),
    }
}
