//! AVX-512 on lanes of 16 and 32 bits.

use iced_x86::code_asm::{AsmRegister64, ymmword_ptr};

use super::registers::{Avx512, Zmm};
use crate::machine::code::{emit, memory};
use crate::machine::tiles::{Lanes, TileMachine};
use crate::machine::vector_machine::{At, Machine};

impl TileMachine for Avx512 {
    fn widened_bytes(&mut self, at: At<AsmRegister64>) -> Zmm {
        let to = self.take();
        emit!(self, vpmovzxbw, to.zmm(), ymmword_ptr(memory(at)));
        to
    }

    fn reload(&mut self, at: At<AsmRegister64>) -> Zmm {
        self.load(at)
    }

    fn sum(&mut self, lanes: Lanes, a: Zmm, b: Zmm) -> Zmm {
        let to = self.take();
        match lanes {
            Lanes::I16 => emit!(self, vpaddw, to.zmm(), a.zmm(), b.zmm()),
            Lanes::I32 => emit!(self, vpaddd, to.zmm(), a.zmm(), b.zmm()),
        }
        to
    }

    fn difference(&mut self, lanes: Lanes, a: Zmm, b: Zmm) -> Zmm {
        let to = self.take();
        match lanes {
            Lanes::I16 => emit!(self, vpsubw, to.zmm(), a.zmm(), b.zmm()),
            Lanes::I32 => emit!(self, vpsubd, to.zmm(), a.zmm(), b.zmm()),
        }
        to
    }

    fn shifted_left(&mut self, lanes: Lanes, a: Zmm, bits: u32) -> Zmm {
        let to = self.take();
        match lanes {
            Lanes::I16 => emit!(self, vpsllw, to.zmm(), a.zmm(), bits as i32),
            Lanes::I32 => emit!(self, vpslld, to.zmm(), a.zmm(), bits as i32),
        }
        to
    }

    fn multiply(&mut self, x: Zmm, factor: Zmm) {
        emit!(self, vpmulld, x.zmm(), x.zmm(), factor.zmm());
    }

    fn shift_right(&mut self, x: Zmm, bits: u32) {
        emit!(self, vpsrad, x.zmm(), x.zmm(), bits as i32);
    }

    fn dot_i16(&mut self, acc: Zmm, activations: Zmm, weights: Zmm) {
        if self.ones.is_none() {
            return emit!(self, vpdpwssd, acc.zmm(), activations.zmm(), weights.zmm());
        }
        let products = self.take();
        emit!(self, vpmaddwd, products.zmm(), activations.zmm(), weights.zmm());
        emit!(self, vpaddd, acc.zmm(), acc.zmm(), products.zmm());
        self.release(products);
    }
}
