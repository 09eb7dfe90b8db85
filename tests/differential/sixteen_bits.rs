//! Values of 16 bits: made of bytes, computed with, and made bytes again.

use qcc_ir::{Attrs, Data, Opcode, Tensor, ValueId, attr};

use qcc_num::curve;
use qcc_num::dynamic::{PART_ROW, SIDE};

use super::Maker;

impl Maker<'_> {
    fn i64s(&mut self, n: usize, lo: i64, hi: i64) -> ValueId {
        let data = (0..n).map(|_| self.random.within(lo, hi)).collect();
        self.builder.add_const("wide", Tensor::new(&[n], Data::I64(data)))
    }

    /// A requantized sum whose values reach about `reach`, to `bits` bits.
    fn combined(&mut self, xs: &[ValueId], factors: Vec<i64>, reach: i64, bits: i64) -> ValueId {
        let c = *self.builder.graph().ty(xs[0]).dims.last().expect("rank 4");
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
        let attrs = Attrs::new(Opcode::Combine).with(attr::FACTORS, factors).with(attr::BITS, bits);
        let operands: Vec<ValueId> = [bias, mult, offset].iter().chain(xs).copied().collect();
        self.add(Opcode::Combine, &operands, attrs.with(attr::LO, lo).with(attr::HI, hi))
    }

    /// A few operations on values of 16 bits, and back to 8.
    pub fn sixteen_bits(&mut self) {
        let mut x = self.combined(&[self.now], vec![1], 255, 16);
        for _ in 0..1 + self.random.below(3) {
            x = self.of_sixteen_bits(x);
        }
        self.earlier.push(self.now);
        self.now = match self.random.below(3) {
            0 => {
                let high = self.random.below(2) == 0;
                self.add(Opcode::Byte, &[x], Attrs::new(Opcode::Byte).with(attr::HIGH, high))
            }
            1 => {
                let data = (0..1 << 16).map(|_| self.random.below(256) as u8).collect();
                let table = self.builder.add_const("table", Tensor::new(&[1 << 16], Data::U8(data)));
                self.add(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut))
            }
            _ => self.combined(&[x], vec![1], 1 << 15, 8),
        };
    }

    fn of_sixteen_bits(&mut self, x: ValueId) -> ValueId {
        let dims: [usize; 4] = self.builder.graph().ty(x).dims.clone().try_into().expect("rank 4");
        let same = |m: &Self, v: ValueId| m.builder.graph().ty(v).dims == dims;
        match self.random.below(12) {
            0 => {
                let factors = vec![self.random.within(-(1 << 23), 1 << 23), self.random.within(1, 1 << 23)];
                let other = if same(self, self.now) { self.now } else { x };
                self.combined(&[x, other], factors, 1 << 38, 16)
            }
            1 => {
                let zeros = vec![self.random.within(-32768, 32767), self.random.within(0, 255)];
                let (bits, big) = self.random.pick(&[(8i64, 1i64 << 28), (16, 1 << 34), (16, 1 << 55)]);
                let attrs = Attrs::new(Opcode::WideMul)
                    .with(attr::ZEROS, zeros)
                    .with(attr::MULT, self.random.within(-big, big))
                    .with(attr::OFFSET, self.random.within(-(1 << 50), 1 << 50))
                    .with(attr::LO, if bits == 16 { -32768 } else { 3 })
                    .with(attr::HI, if bits == 16 { 32767 } else { 251 })
                    .with(attr::BITS, bits);
                let other = if same(self, self.now) { self.now } else { x };
                let y = self.add(Opcode::WideMul, &[x, other], attrs);
                if bits == 16 { y } else { self.combined(&[y], vec![1], 255, 16) }
            }
            2 => {
                let data = (0..1 << 16).map(|_| self.random.within(-32768, 32767) as i16).collect();
                let table = self.builder.add_const("table", Tensor::new(&[1 << 16], Data::I16(data)));
                self.add(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut))
            }
            3 => {
                let kernel = [1 + self.random.below(3.min(dims[1])), 1 + self.random.below(3.min(dims[2]))];
                let strides = vec![self.random.within(1, 2), self.random.within(1, 2)];
                let attrs =
                    Attrs::new(Opcode::IMaxPool).with(attr::KERNEL, kernel.as_slice()).with(attr::STRIDES, strides);
                self.add(Opcode::IMaxPool, &[x], attrs)
            }
            4 => {
                let data = (0..1 << 16).map(|i| (8_000_000.0 * (-f64::from(i) / 5000.0).exp()) as i32).collect();
                let table = self.builder.add_const("exp", Tensor::new(&[1 << 16], Data::I32(data)));
                let attrs = Attrs::new(Opcode::ISoftmax).with(attr::MULT, self.random.within(1 << 20, 1 << 25));
                self.add(Opcode::ISoftmax, &[x, table], attrs.with(attr::BITS, 16))
            }
            5 => {
                let pads: Vec<i64> = (0..8).map(|i| if i % 4 == 0 { 0 } else { self.random.within(0, 2) }).collect();
                let value = self.random.within(-32768, 32767) as f32;
                let padded = Attrs::new(Opcode::Pad).with(attr::PADS, pads).with(attr::VALUE, value);
                let y = self.add(Opcode::Pad, &[x], padded);
                let perm = self.random.pick(&[[0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 2, 3]]);
                self.add(Opcode::Transpose, &[y], Attrs::new(Opcode::Transpose).with(attr::PERM, perm.to_vec()))
            }
            6 => {
                let joined = Attrs::new(Opcode::Concat).with(attr::AXIS, self.random.pick(&[1i64, 2, 3]));
                let factor = self.random.within(1, 3);
                let y = self.combined(&[x], vec![factor], 1 << 16, 16);
                if dims[3] > 70 { y } else { self.add(Opcode::Concat, &[x, y], joined) }
            }
            7..=9 => self.rows_and_choices(x, dims),
            10 => self.of_24_bits(x),
            _ => self.product_of_bytes(x, dims),
        }
    }

    /// Quotients, normalizations, orders and choices.
    fn rows_and_choices(&mut self, x: ValueId, dims: [usize; 4]) -> ValueId {
        let same = |m: &Self, v: ValueId| m.builder.graph().ty(v).dims == dims;
        match self.random.below(3) {
            0 => {
                let zeros = vec![self.random.within(-32768, 32767), self.random.within(0, 255)];
                let bits = self.random.pick(&[8, 16]);
                let attrs = Attrs::new(Opcode::WideDiv)
                    .with(attr::ZEROS, zeros)
                    .with(attr::MULT, self.random.within(0, 1 << 45))
                    .with(attr::SHIFT, self.random.within(20, 61))
                    .with(attr::OFFSET, self.random.within(-200, 200))
                    .with(attr::LO, if bits == 16 { -32768 } else { 3 })
                    .with(attr::HI, if bits == 16 { 32767 } else { 251 })
                    .with(attr::BITS, bits);
                let other = if same(self, self.now) { self.now } else { x };
                let y = self.add(Opcode::WideDiv, &[x, other], attrs);
                if bits == 16 { y } else { self.combined(&[y], vec![1], 255, 16) }
            }
            1 => {
                let (n, channels) = (self.random.pick(&[1, dims[3]]), self.random.pick(&[1, dims[3]]));
                let (mult, offset) = (self.i32s(n, -20_000_000, 20_000_000), self.i32s(channels, -100_000, 100_000));
                let bits = self.random.pick(&[8, 16]);
                let attrs = Attrs::new(Opcode::ILayerNorm)
                    .with(attr::AXIS, 1 + self.random.below(3) as i64)
                    .with(attr::INT_EPSILON, self.random.within(0, 1 << 40))
                    .with(attr::CENTER, self.random.pick(&[-1, -1, 0, 32768, 65535]))
                    .with(attr::BITS, bits);
                let y = self.add(Opcode::ILayerNorm, &[x, mult, offset], attrs);
                if bits == 16 { y } else { self.combined(&[y], vec![1], 255, 16) }
            }
            _ => {
                let axis = 1 + self.random.below(3);
                let k = 1 + self.random.below(dims[axis].min(4));
                let attrs = Attrs::new(Opcode::TopK).with(attr::AXIS, axis as i64).with(attr::K, k as i64);
                let largest = self.random.below(2) == 0;
                let y = self.add(Opcode::TopK, &[x], attrs.with(attr::LARGEST, largest));
                let data = (0..dims[3]).map(|_| self.random.below(2) as u8).collect();
                let condition = self.builder.add_const("condition", Tensor::new(&[dims[3]], Data::U8(data)));
                let negated = self.combined(&[x], vec![-1], 1 << 15, 16);
                let chosen = self.add(Opcode::Where, &[x, negated, condition], Attrs::new(Opcode::Where));
                self.random.pick(&[y, chosen])
            }
        }
    }

    /// To 24 bits, moved, and a byte or a function of that in 16 again.
    fn of_24_bits(&mut self, x: ValueId) -> ValueId {
        let codes = 1i64 << 23;
        let ends = self.random.pick(&[(-codes, codes - 1), (-1000, 100_000)]);
        let mult = self.i64s(1, -(1 << 45), 1 << 45);
        let (bias, offset) = (self.i64s(1, -40_000, 40_000), self.i64s(1, -(codes << 37), codes << 37));
        let attrs = Attrs::new(Opcode::Combine).with(attr::FACTORS, vec![self.random.within(1, 3)]);
        let attrs = attrs.with(attr::BITS, 32).with(attr::LO, ends.0).with(attr::HI, ends.1);
        let mut y = self.add(Opcode::Combine, &[bias, mult, offset, x], attrs);
        if self.random.below(2) == 0 {
            let perm = self.random.pick(&[[0i64, 3, 1, 2], [0, 2, 1, 3]]);
            y = self.add(Opcode::Transpose, &[y], Attrs::new(Opcode::Transpose).with(attr::PERM, perm.to_vec()));
        }
        if self.random.below(3) == 0 {
            let (mult, offset) = (self.i32s(1, -20_000_000, 20_000_000), self.i32s(1, -100_000, 100_000));
            let attrs = Attrs::new(Opcode::ILayerNorm)
                .with(attr::AXIS, 3)
                .with(attr::INT_EPSILON, self.random.within(0, 1 << 40))
                .with(attr::CENTER, self.random.pick(&[-1, -1, codes]))
                .with(attr::BITS, 16);
            return self.add(Opcode::ILayerNorm, &[y, mult, offset], attrs);
        }
        if self.random.below(3) == 0 {
            let index = self.random.within(0, 2);
            let byte = self.add(Opcode::Byte, &[y], Attrs::new(Opcode::Byte).with(attr::INDEX, index));
            return self.combined(&[byte, y], vec![1 << 16, 1], 1 << 25, 16);
        }
        let most = i64::from(curve::GREATEST);
        let data = (0..2 * curve::SIDE).map(|_| self.random.within(-most, most) as i32).collect();
        let table = self.builder.add_const("curve", Tensor::new(&[2 * curve::SIDE], Data::I32(data)));
        let attrs = Attrs::new(Opcode::Curve).with(attr::CENTER, self.random.within(-codes, codes - 1));
        self.add(Opcode::Curve, &[y, table], attrs.with(attr::BITS, 16))
    }

    /// A function of codes whose scale is a constant here.
    pub fn curve(&mut self) {
        let zero = self.random.pick(&[0i64, 128]);
        let sides = if zero == 0 { 1 } else { 2 };
        let mut samples: Vec<i32> = Vec::new();
        for _ in 0..sides * SIDE / PART_ROW {
            samples.extend((1..PART_ROW).map(|_| self.random.within(-(1 << 30), 1 << 30) as i32));
            samples.push(self.random.within(-60, 20) as i32);
        }
        samples.extend([self.random.within(-(1 << 30), 1 << 30) as i32, -30]);
        let samples = self.builder.add_const("samples", Tensor::new(&[samples.len()], Data::I32(samples)));
        let scale = vec![self.random.within(1 << 30, i64::from(i32::MAX)) as i32, self.random.within(-90, 10) as i32];
        let scale = self.builder.add_const("scale", Tensor::new(&[2], Data::I32(scale)));
        let attrs = Attrs::new(Opcode::DynamicCurve)
            .with(attr::ZERO, zero)
            .with(attr::RESULT_ZERO, self.random.pick(&[0i64, 32, 128]))
            .with(attr::HALF, self.random.below(2) == 0);
        let table = self.add(Opcode::DynamicCurve, &[scale, samples, self.now], attrs);
        self.step(Opcode::DynamicLut, &[self.now, table], Attrs::new(Opcode::DynamicLut));
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
            let w =
                self.builder.add_const("w", Tensor::new(&[outputs, kernel[0], kernel[1], c / groups], Data::I8(data)));
            let none = self.i32s(outputs, 0, 0);
            for high in [false, true] {
                let byte = self.add(Opcode::Byte, &[x], Attrs::new(Opcode::Byte).with(attr::HIGH, high));
                let attrs =
                    attrs.clone().with(attr::GROUPS, groups as i64).with(attr::PAD_VALUE, self.random.within(0, 255));
                terms.push(self.add(Opcode::IConv2d, &[byte, w, none], attrs));
                factors.push(1i64 << (8 * (usize::from(high) + digit)));
            }
        }
        let reach = 1i64 << (29 + 8 * (factors.len() / 2));
        self.combined(&terms, factors, reach, 16)
    }
}
