//! Operators on elements, on rows and on two operands.

use qcc_ir::{Attrs, Data, Opcode, Tensor, ValueId, attr};

use super::Maker;

impl Maker<'_> {
    pub fn elementwise(&mut self) {
        let [_, _, _, c] = self.dims();
        match self.random.below(12) {
            7..=11 => self.of_rows(),
            0 => {
                let b = self.partner();
                let attrs = Attrs::new(Opcode::IAdd)
                    .with(attr::SHIFT, 15)
                    .with(attr::OFFSET, self.random.within(-(1 << 22), 1 << 22));
                let mults = vec![self.random.within(-32767, 32767), self.random.within(1, 32767)];
                let attrs = self.clamps(attrs.with(attr::MULTS, mults));
                self.step(Opcode::IAdd, &[self.now, b], attrs);
            }
            1 => {
                let b = self.partner();
                let (attrs, _) = self.epilogue(Attrs::new(Opcode::IMul), 1);
                let zeros = vec![self.random.within(0, 255), self.random.within(0, 255)];
                self.step(Opcode::IMul, &[self.now, b], attrs.with(attr::ZEROS, zeros).with(attr::MULT, 1i64 << 30));
            }
            2 => {
                let attrs = Attrs::new(Opcode::Rescale)
                    .with(attr::SHIFT, 14)
                    .with(attr::OFFSET, self.random.within(-100_000, 2_000_000));
                let mult = self.random.within(-32767, 32767);
                let attrs = self.clamps(attrs.with(attr::MULT, mult));
                self.step(Opcode::Rescale, &[self.now], attrs);
            }
            3 => {
                let data = (0..c).map(|_| self.random.within(-32767, 32767) as i16).collect();
                let mult = self.builder.add_const("m", Tensor::new(&[c], Data::I16(data)));
                let offset = self.i32s(c, -1_000_000, 4_000_000);
                let attrs = self.clamps(Attrs::new(Opcode::ScaleChannels).with(attr::SHIFT, 14i64));
                self.step(Opcode::ScaleChannels, &[self.now, mult, offset], attrs);
            }
            4 => {
                let data = (0..256).map(|_| self.random.below(256) as u8).collect();
                let table = self.builder.add_const("table", Tensor::new(&[256], Data::U8(data)));
                self.step(Opcode::Lut, &[self.now, table], Attrs::new(Opcode::Lut));
            }
            5 => {
                let attrs = self.clamps(Attrs::new(Opcode::Clamp));
                self.step(Opcode::Clamp, &[self.now], attrs);
            }
            _ => {
                let data = (0..256).map(|i| (8_000_000.0 * (-f64::from(i) / 20.0).exp()) as i32).collect();
                let table = self.builder.add_const("exp", Tensor::new(&[256], Data::I32(data)));
                let attrs = Attrs::new(Opcode::ISoftmax).with(attr::MULT, self.random.within(256, 300_000));
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
                let table = self.builder.add_const("table", Tensor::new(&[1 << 16], Data::U8(data)));
                self.step(Opcode::Lut2, &[self.now, b, table], Attrs::new(Opcode::Lut2));
            }
            1 => {
                let (m, n) = (self.random.pick(&[1, c]), self.random.pick(&[1, c]));
                let (mult, offset) = (self.i32s(m, -40000, 40000), self.i32s(n, -2000, 18000));
                let epsilon = self.random.pick(&[0, 1, 1 << 30]);
                let attrs = Attrs::new(Opcode::ILayerNorm).with(attr::AXIS, 1 + self.random.below(3) as i64);
                let attrs = self.clamps(attrs.with(attr::INT_EPSILON, epsilon));
                self.step(Opcode::ILayerNorm, &[self.now, mult, offset], attrs);
            }
            2 => {
                let perm = Attrs::new(Opcode::Transpose).with(attr::PERM, vec![0, 1, 3, 2]);
                let b = self.add(Opcode::Transpose, &[self.now], perm);
                let (attrs, mult) = self.epilogue(Attrs::new(Opcode::QMatMul), c * 4);
                let zeros = vec![self.random.within(0, 255), self.random.within(0, 255)];
                self.step(Opcode::QMatMul, &[self.now, b], attrs.with(attr::ZEROS, zeros).with(attr::MULT, mult / 2));
            }
            3 => {
                let other = self.partner();
                let data = (0..c).map(|_| self.random.below(2) as u8).collect();
                let condition = self.builder.add_const("condition", Tensor::new(&[c], Data::U8(data)));
                self.step(Opcode::Where, &[self.now, other, condition], Attrs::new(Opcode::Where));
            }
            _ => {
                let axis = 1 + self.random.below(3);
                let k = 1 + self.random.below(self.dims()[axis].min(4));
                let attrs = Attrs::new(Opcode::TopK).with(attr::AXIS, axis as i64).with(attr::K, k as i64);
                let attrs = attrs.with(attr::LARGEST, self.random.below(2) == 0);
                self.step(Opcode::TopK, &[self.now], attrs);
            }
        }
    }

    /// A second operand: an earlier value of the same shape, the value itself, or one that is broadcast.
    pub fn partner(&mut self) -> ValueId {
        let ty = self.builder.graph().ty(self.now).clone();
        if self.random.below(3) == 0 {
            let [n, _, _, c] = self.dims();
            let dims = [n, 1, 1, self.random.pick(&[1, c])];
            let data = (0..dims.iter().product()).map(|_| self.random.below(256) as u8).collect();
            return self.builder.add_const("b", Tensor::new(&dims, Data::U8(data)));
        }
        self.earlier.iter().copied().find(|&v| *self.builder.graph().ty(v) == ty).unwrap_or(self.now)
    }
}
