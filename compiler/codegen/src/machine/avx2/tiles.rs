//! AVX2 on lanes of 16 and 32 bits.

use iced_x86::code_asm::{AsmRegister64, xmmword_ptr};

use super::registers::{Avx2, Dot, Vector};
use crate::machine::code::{emit, memory};
use crate::machine::tiles::{Lanes, TileMachine};
use crate::machine::vector_machine::{At, Machine};

impl TileMachine for Avx2 {
    fn widened_bytes(&mut self, at: At<AsmRegister64>) -> Vector {
        let to = self.take();
        emit!(self, vpmovzxbw, to.ymm(), xmmword_ptr(memory(at)));
        to.vector()
    }

    fn reload(&mut self, at: At<AsmRegister64>) -> Vector {
        self.load(at)
    }

    fn sum(&mut self, lanes: Lanes, a: Vector, b: Vector) -> Vector {
        let (to, a, b) = (self.take(), a.register(), b.register());
        match lanes {
            Lanes::I16 => emit!(self, vpaddw, to.ymm(), a.ymm(), b.ymm()),
            Lanes::I32 => emit!(self, vpaddd, to.ymm(), a.ymm(), b.ymm()),
        }
        to.vector()
    }

    fn difference(&mut self, lanes: Lanes, a: Vector, b: Vector) -> Vector {
        let (to, a, b) = (self.take(), a.register(), b.register());
        match lanes {
            Lanes::I16 => emit!(self, vpsubw, to.ymm(), a.ymm(), b.ymm()),
            Lanes::I32 => emit!(self, vpsubd, to.ymm(), a.ymm(), b.ymm()),
        }
        to.vector()
    }

    fn shifted_left(&mut self, lanes: Lanes, a: Vector, bits: u32) -> Vector {
        let (to, a) = (self.take(), a.register());
        match lanes {
            Lanes::I16 => emit!(self, vpsllw, to.ymm(), a.ymm(), bits as i32),
            Lanes::I32 => emit!(self, vpslld, to.ymm(), a.ymm(), bits as i32),
        }
        to.vector()
    }

    fn multiply(&mut self, x: Vector, factor: Vector) {
        let (x, factor) = (x.register(), factor.register());
        emit!(self, vpmulld, x.ymm(), x.ymm(), factor.ymm());
    }

    fn shift_right(&mut self, x: Vector, bits: u32) {
        let x = x.register();
        emit!(self, vpsrad, x.ymm(), x.ymm(), bits as i32);
    }

    fn dot_i16(&mut self, acc: Vector, activations: Vector, weights: Vector) {
        let (acc, activations, weights) = (acc.register(), activations.register(), weights.register());
        match self.dot {
            Dot::I16Pairs | Dot::I16Sums => {
                let products = self.take();
                emit!(self, vpmaddwd, products.ymm(), activations.ymm(), weights.ymm());
                emit!(self, vpaddd, acc.ymm(), acc.ymm(), products.ymm());
                self.give(products);
            }
            Dot::Vex | Dot::Evex => {
                self.code.asm.set_prefer_vex(self.dot == Dot::Vex);
                emit!(self, vpdpwssd, acc.ymm(), activations.ymm(), weights.ymm());
                self.code.asm.set_prefer_vex(true);
            }
        }
    }
}
