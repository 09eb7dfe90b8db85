//! AVX2 on bytes, as [`crate::machine::Avx512`] in half the width: the unpacking and packing instructions are the same. What
//! differs: tails have no masks and are cut into pieces, a table is read where it is looked up, and without AVX-VNNI
//! interleaved bytes become 16-bit lanes.

use iced_x86::code_asm::registers::gpr32::eax;
use iced_x86::code_asm::{AsmRegister64, xmmword_ptr, ymmword_ptr};
use qcc_num::affine::Affine;

use super::parts::{self, PART, Parts};
use super::registers::{Avx2, BYTES, Dot, Vector, Ymm};
use crate::machine::bytes::{ByteMachine, Span};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::{At, Machine};

/// An index that `vpshufb` answers with zero has its highest bit set: a byte above 15 gets it by a saturating addition.
const BEYOND: u8 = 0x70;

impl Avx2 {
    /// Low and high halves of the 128-bit parts of two vectors of bytes, interleaved. Releases both.
    fn unpack_bytes(&mut self, a: Ymm, b: Ymm) -> [Ymm; 2] {
        let low = self.take();
        emit!(self, vpunpcklbw, low.ymm(), a.ymm(), b.ymm());
        emit!(self, vpunpckhbw, a.ymm(), a.ymm(), b.ymm());
        self.give(b);
        [low, a]
    }

    /// The same of two vectors of 16-bit numbers.
    fn unpack_i16(&mut self, a: Ymm, b: Ymm) -> [Ymm; 2] {
        let low = self.take();
        emit!(self, vpunpcklwd, low.ymm(), a.ymm(), b.ymm());
        emit!(self, vpunpckhwd, a.ymm(), a.ymm(), b.ymm());
        self.give(b);
        [low, a]
    }

    fn zero(&mut self) -> Ymm {
        self.splat(0).register()
    }

    fn span(&self, span: Span) -> Parts {
        let bytes = if span == Span::Full { BYTES } else { self.tail };
        (bytes.min(PART), bytes.saturating_sub(PART))
    }
}

impl ByteMachine for Avx2 {
    fn set_tail(&mut self, bytes: usize) {
        self.tail = bytes;
    }

    fn load_bytes(&mut self, at: At<AsmRegister64>, span: Span) -> Vector {
        let parts = self.span(span);
        parts::load(self, at, parts).vector()
    }

    fn load_part(&mut self, at: At<AsmRegister64>) -> Vector {
        Vector::Memory(at)
    }

    fn store_bytes(&mut self, vector: Vector, at: At<AsmRegister64>, span: Span) {
        let parts = self.span(span);
        parts::store(self, vector.register(), at, parts);
        self.release(vector);
    }

    fn splat_byte(&mut self, byte: u8) -> Vector {
        self.splat(i32::from_le_bytes([byte; 4]))
    }

    fn max_bytes(&mut self, acc: Vector, term: Vector) {
        let (acc, term) = (acc.register(), term.register());
        emit!(self, vpmaxub, acc.ymm(), acc.ymm(), term.ymm());
    }

    fn min_bytes(&mut self, acc: Vector, term: Vector) {
        let (acc, term) = (acc.register(), term.register());
        emit!(self, vpminub, acc.ymm(), acc.ymm(), term.ymm());
    }

    fn interleave(&mut self, operands: &[Vector]) -> [Vector; 4] {
        if self.dot == Dot::I16Pairs {
            let operands: Vec<(Vector, u8)> = operands.iter().map(|&operand| (operand, 0)).collect();
            return self.widen_pairs(&operands);
        }
        let mut operands: Vec<Ymm> = operands.iter().map(|operand| operand.register()).collect();
        while operands.len() < 2 {
            operands.push(self.zero());
        }
        let first = self.unpack_bytes(operands[0], operands[1]);
        let second = match operands[2..] {
            [] => [self.zero(), self.zero()],
            [c] => {
                let zero = self.zero();
                self.unpack_bytes(c, zero)
            }
            [c, d, ..] => self.unpack_bytes(c, d),
        };
        let [a, b] = self.unpack_i16(first[0], second[0]);
        let [c, d] = self.unpack_i16(first[1], second[1]);
        [a, b, c, d].map(Ymm::vector)
    }

    fn widen_pairs(&mut self, operands: &[(Vector, u8)]) -> [Vector; 4] {
        if let [(a, 0), (b, 0)] = *operands {
            // The bytes of a pair are side by side before they are widened.
            let [low, high] = self.unpack_bytes(a.register(), b.register());
            let pairs = [low, high].map(|bytes| {
                let zero = self.zero();
                self.unpack_bytes(bytes, zero)
            });
            return [pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]].map(Ymm::vector);
        }
        let widened = |m: &mut Avx2, (bytes, zero): (Vector, u8)| {
            let none = m.zero();
            let halves = m.unpack_bytes(bytes.register(), none);
            if zero > 0 {
                let less = m.take();
                emit!(m, mov, eax, i32::from(zero));
                emit!(m, vmovd, less.xmm(), eax);
                emit!(m, vpbroadcastw, less.ymm(), less.xmm());
                for half in halves {
                    emit!(m, vpsubw, half.ymm(), half.ymm(), less.ymm());
                }
                m.give(less);
            }
            halves
        };
        let first = widened(self, operands[0]);
        let second = match operands.get(1) {
            Some(&operand) => widened(self, operand),
            None => [self.zero(), self.zero()],
        };
        let [a, b] = self.unpack_i16(first[0], second[0]);
        let [c, d] = self.unpack_i16(first[1], second[1]);
        [a, b, c, d].map(Ymm::vector)
    }

    fn dot_at(&mut self, acc: Vector, activations: Vector, weights: At<AsmRegister64>) {
        self.dot_with(acc.register(), activations.register(), Vector::Memory(weights));
    }

    fn dot_pairs(&mut self, pairs: Vector, factors: At<AsmRegister64>, term: At<AsmRegister64>) -> Vector {
        let sum = pairs.register();
        emit!(self, vpmaddwd, sum.ymm(), sum.ymm(), ymmword_ptr(memory(factors)));
        emit!(self, vpaddd, sum.ymm(), sum.ymm(), ymmword_ptr(memory(term)));
        pairs
    }

    fn multiply_pairs(&mut self, pairs: Vector, factors: Vector) {
        let (pairs, factors) = (pairs.register(), factors.register());
        emit!(self, vpmaddwd, pairs.ymm(), pairs.ymm(), factors.ymm());
    }

    fn narrow(&mut self, sums: [Vector; 4], rule: &Affine) -> Vector {
        let [a, b, c, d] = sums.map(Vector::register);
        for sum in [a, b, c, d] {
            emit!(self, vpsrad, sum.ymm(), sum.ymm(), rule.shift as i32);
        }
        emit!(self, vpackssdw, a.ymm(), a.ymm(), b.ymm());
        emit!(self, vpackssdw, c.ymm(), c.ymm(), d.ymm());
        emit!(self, vpackuswb, a.ymm(), a.ymm(), c.ymm());
        [b, c, d].into_iter().for_each(|register| self.give(register));
        a.vector()
    }

    fn look_up(&mut self, bytes: Vector, table: &[Vector; 16]) -> Vector {
        let left = bytes.register();
        let beyond = self.splat_byte(BEYOND).register();
        let sixteen = self.splat_byte(16).register();
        let (found, index, entries) = (self.take(), self.take(), self.take());
        for (part, &at) in table.iter().enumerate() {
            let to = if part == 0 { found } else { index };
            match at {
                Vector::Memory(at) => emit!(self, vbroadcasti128, entries.ymm(), xmmword_ptr(memory(at))),
                Vector::Register(_) => unreachable!("a table is in memory"),
            }
            emit!(self, vpaddusb, index.ymm(), left.ymm(), beyond.ymm());
            emit!(self, vpshufb, to.ymm(), entries.ymm(), index.ymm());
            if part > 0 {
                emit!(self, vpor, found.ymm(), found.ymm(), index.ymm());
            }
            if part < 15 {
                emit!(self, vpsubb, left.ymm(), left.ymm(), sixteen.ymm());
            }
        }
        [left, beyond, sixteen, index, entries].into_iter().for_each(|register| self.give(register));
        found.vector()
    }
}
