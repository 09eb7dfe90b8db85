//! AVX-512 on bytes. Unpacking instructions work inside 128-bit parts, as the packing ones do, so that neither needs the
//! other's order to be repaired.

use iced_x86::code_asm::registers::{gpr32::eax, gpr64::rax, k::k4};
use iced_x86::code_asm::{AsmRegister64, xmmword_ptr, zmmword_ptr};
use qcc_num::affine::Affine;

use super::registers::{Avx512, Zmm};
use crate::machine::bytes::{ByteMachine, Span};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::{At, Machine};

/// An index that `vpshufb` answers with zero has its highest bit set: a byte above 15 gets it by a saturating addition.
const BEYOND: u8 = 0x70;

impl Avx512 {
    /// Low and high halves of the 128-bit parts of two vectors of bytes, interleaved. Releases both.
    fn unpack_bytes(&mut self, a: Zmm, b: Zmm) -> [Zmm; 2] {
        let low = self.take();
        emit!(self, vpunpcklbw, low.zmm(), a.zmm(), b.zmm());
        emit!(self, vpunpckhbw, a.zmm(), a.zmm(), b.zmm());
        self.release(b);
        [low, a]
    }

    /// The same of two vectors of 16-bit numbers.
    fn unpack_i16(&mut self, a: Zmm, b: Zmm) -> [Zmm; 2] {
        let low = self.take();
        emit!(self, vpunpcklwd, low.zmm(), a.zmm(), b.zmm());
        emit!(self, vpunpckhwd, a.zmm(), a.zmm(), b.zmm());
        self.release(b);
        [low, a]
    }
}

impl ByteMachine for Avx512 {
    fn set_tail(&mut self, bytes: usize) {
        let mask = if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 };
        emit!(self, mov, rax, mask as i64);
        emit!(self, kmovq, k4, rax);
    }

    fn load_bytes(&mut self, at: At<AsmRegister64>, span: Span) -> Zmm {
        let to = self.take();
        match span {
            Span::Full => emit!(self, vmovdqu32, to.zmm(), zmmword_ptr(memory(at))),
            Span::Tail => emit!(self, vmovdqu8, to.zmm().k4().z(), zmmword_ptr(memory(at))),
        }
        to
    }

    fn load_part(&mut self, at: At<AsmRegister64>) -> Zmm {
        let to = self.take();
        emit!(self, vbroadcasti32x4, to.zmm(), xmmword_ptr(memory(at)));
        to
    }

    fn store_bytes(&mut self, vector: Zmm, at: At<AsmRegister64>, span: Span) {
        match span {
            Span::Full => emit!(self, vmovdqu32, zmmword_ptr(memory(at)), vector.zmm()),
            Span::Tail => emit!(self, vmovdqu8, zmmword_ptr(memory(at)).k4(), vector.zmm()),
        }
        self.release(vector);
    }

    fn splat_byte(&mut self, byte: u8) -> Zmm {
        if byte == 0 {
            return self.splat(0);
        }
        let to = self.take();
        emit!(self, mov, eax, i32::from(byte));
        emit!(self, vpbroadcastb, to.zmm(), eax);
        to
    }

    fn max_bytes(&mut self, acc: Zmm, term: Zmm) {
        emit!(self, vpmaxub, acc.zmm(), acc.zmm(), term.zmm());
    }

    fn min_bytes(&mut self, acc: Zmm, term: Zmm) {
        emit!(self, vpminub, acc.zmm(), acc.zmm(), term.zmm());
    }

    fn interleave(&mut self, operands: &[Zmm]) -> [Zmm; 4] {
        let mut operands = operands.to_vec();
        while operands.len() < 2 {
            operands.push(self.splat(0));
        }
        let first = self.unpack_bytes(operands[0], operands[1]);
        let second = match operands[2..] {
            [] => [self.splat(0), self.splat(0)],
            [c] => {
                let zero = self.splat(0);
                self.unpack_bytes(c, zero)
            }
            [c, d, ..] => self.unpack_bytes(c, d),
        };
        let [a, b] = self.unpack_i16(first[0], second[0]);
        let [c, d] = self.unpack_i16(first[1], second[1]);
        [a, b, c, d]
    }

    fn widen_pairs(&mut self, operands: &[(Zmm, u8)]) -> [Zmm; 4] {
        let widened = |m: &mut Avx512, (bytes, zero): (Zmm, u8)| {
            let none = m.splat(0);
            let halves = m.unpack_bytes(bytes, none);
            if zero > 0 {
                let less = m.take();
                emit!(m, mov, eax, i32::from(zero));
                emit!(m, vpbroadcastw, less.zmm(), eax);
                for half in halves {
                    emit!(m, vpsubw, half.zmm(), half.zmm(), less.zmm());
                }
                m.release(less);
            }
            halves
        };
        let first = widened(self, operands[0]);
        let second = match operands.get(1) {
            Some(&operand) => widened(self, operand),
            None => [self.splat(0), self.splat(0)],
        };
        let [a, b] = self.unpack_i16(first[0], second[0]);
        let [c, d] = self.unpack_i16(first[1], second[1]);
        [a, b, c, d]
    }

    fn dot_at(&mut self, acc: Zmm, activations: Zmm, weights: At<AsmRegister64>) {
        emit!(self, vpdpbusd, acc.zmm(), activations.zmm(), zmmword_ptr(memory(weights)));
    }

    fn dot_pairs(&mut self, pairs: Zmm, factors: At<AsmRegister64>, term: At<AsmRegister64>) -> Zmm {
        let sum = self.load(term);
        emit!(self, vpdpwssd, sum.zmm(), pairs.zmm(), zmmword_ptr(memory(factors)));
        self.release(pairs);
        sum
    }

    fn multiply_pairs(&mut self, pairs: Zmm, factors: Zmm) {
        emit!(self, vpmaddwd, pairs.zmm(), pairs.zmm(), factors.zmm());
    }

    fn narrow(&mut self, sums: [Zmm; 4], rule: &Affine) -> Zmm {
        for sum in sums {
            emit!(self, vpsrad, sum.zmm(), sum.zmm(), rule.shift as i32);
        }
        let [a, b, c, d] = sums;
        emit!(self, vpackssdw, a.zmm(), a.zmm(), b.zmm());
        emit!(self, vpackssdw, c.zmm(), c.zmm(), d.zmm());
        emit!(self, vpackuswb, a.zmm(), a.zmm(), c.zmm());
        [b, c, d].into_iter().for_each(|vector| self.release(vector));
        a
    }

    fn look_up(&mut self, bytes: Zmm, table: &[Zmm; 16]) -> Zmm {
        let beyond = self.splat_byte(BEYOND);
        let sixteen = self.splat_byte(16);
        let found = self.take();
        let index = self.take();
        for (part, entries) in table.iter().enumerate() {
            let to = if part == 0 { found } else { index };
            emit!(self, vpaddusb, index.zmm(), bytes.zmm(), beyond.zmm());
            emit!(self, vpshufb, to.zmm(), entries.zmm(), index.zmm());
            if part > 0 {
                emit!(self, vporq, found.zmm(), found.zmm(), index.zmm());
            }
            if part < 15 {
                emit!(self, vpsubb, bytes.zmm(), bytes.zmm(), sixteen.zmm());
            }
        }
        [bytes, beyond, sixteen, index].into_iter().for_each(|vector| self.release(vector));
        found
    }
}
