//! AVX2: ymm registers, and a dot of two multiplications of 16-bit pairs.
//!
//! ```text
//! activations  x0 x1 x2 x3 in every lane  ->  even words (x0, x2), odd words (x1, x3)
//! weights      16 bits each, from memory:     (w0, w2) of all lanes, then (w1, w3) of all lanes
//! dot          vpmaddwd even, vpaddd, vpmaddwd odd, vpaddd
//! ```
//! `vpmaddubsw` would do it in three instructions on 8-bit weights, but saturates: the sum of two products leaves 16 bits
//! as soon as two neighbouring weights of one sign sum to more than 128.

use iced_x86::code_asm::registers::{gpr32::eax, xmm, ymm};
use iced_x86::code_asm::{AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, dword_ptr, ymmword_ptr};
use iced_x86::{IcedError, Register};

use super::code::{self, Code, Coded, emit, memory};
use super::{At, Body, Machine, Pixels, Requantize, Shape};

/// Bytes of a vector.
const BYTES: usize = 32;

/// A function in the making.
pub struct Avx2 {
    pub(super) code: Code,
    /// Selects the even bytes of every pair.
    mask: Ymm,
}

/// A ymm register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ymm(u8);

/// A vector.
#[derive(Debug, Clone, Copy)]
pub enum Vector {
    /// Lanes in a register; as a factor, both words of each lane for both multiplications.
    Lanes(u8),
    /// Activations as words, even and odd.
    Words(u8, u8),
    /// Weights that are read where they are multiplied.
    Memory(At<AsmRegister64>),
}

impl Avx2 {
    /// A function that has saved what its callers want back.
    pub fn new() -> Result<Avx2, IcedError> {
        let mut code = Code::new(16, true)?;
        let mask = Ymm(code.take());
        let mut machine = Avx2 { code, mask };
        emit!(machine, vpcmpeqw, mask.ymm(), mask.ymm(), mask.ymm());
        emit!(machine, vpsrlw, mask.ymm(), mask.ymm(), 8);
        Ok(machine)
    }

    /// Restores, returns, and gives the bytes.
    pub fn finish(self) -> Result<Vec<u8>, IcedError> {
        self.code.finish()
    }

    /// A free register.
    pub(super) fn take(&mut self) -> Ymm {
        Ymm(self.code.take())
    }

    /// Gives a register back.
    pub(super) fn give(&mut self, register: Ymm) {
        self.code.release(register.0);
    }
}

impl Coded for Avx2 {
    fn code(&mut self) -> &mut Code {
        &mut self.code
    }
}

impl Ymm {
    /// All 256 bits.
    pub(super) fn ymm(self) -> AsmRegisterYmm {
        ymm::get_ymm(Register::YMM0 + u32::from(self.0)).expect("16 registers")
    }

    /// The low 128 bits.
    pub(super) fn xmm(self) -> AsmRegisterXmm {
        xmm::get_xmm(Register::XMM0 + u32::from(self.0)).expect("16 registers")
    }
}

impl Vector {
    /// The register of lanes.
    pub(super) fn lanes(self) -> Ymm {
        match self {
            Vector::Lanes(register) => Ymm(register),
            Vector::Words(..) | Vector::Memory(_) => unreachable!("factors are not computed with"),
        }
    }
}

impl Machine for Avx2 {
    type Vector = Vector;
    type Pointer = AsmRegister64;

    fn shape(&self) -> Shape {
        Shape::AVX2
    }

    fn argument(&mut self, index: usize) -> AsmRegister64 {
        self.code.argument(index)
    }

    fn prefetch(&mut self, at: At<AsmRegister64>) {
        self.code.prefetch(at);
    }

    fn step(&mut self, pointer: AsmRegister64, bytes: i64) {
        self.code.step(pointer, bytes);
    }

    fn repeat(&mut self, count: usize, body: Body<'_, Self>) {
        code::repeat(self, count, body);
    }

    fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>) {
        code::repeat_argument(self, index, body);
    }

    fn load(&mut self, at: At<AsmRegister64>) -> Vector {
        let to = self.take();
        emit!(self, vmovdqu, to.ymm(), ymmword_ptr(memory(at)));
        Vector::Lanes(to.0)
    }

    fn weights(&mut self, at: At<AsmRegister64>) -> Vector {
        Vector::Memory(at)
    }

    fn broadcast(&mut self, at: At<AsmRegister64>) -> Vector {
        let (even, odd, mask) = (self.take(), self.take(), self.mask);
        emit!(self, vpbroadcastd, odd.ymm(), dword_ptr(memory(at)));
        emit!(self, vpand, even.ymm(), odd.ymm(), mask.ymm());
        emit!(self, vpsrlw, odd.ymm(), odd.ymm(), 8);
        Vector::Words(even.0, odd.0)
    }

    fn splat(&mut self, value: i32) -> Vector {
        let to = self.take();
        if value == 0 {
            emit!(self, vpxor, to.ymm(), to.ymm(), to.ymm());
        } else {
            emit!(self, mov, eax, value);
            emit!(self, vmovd, to.xmm(), eax);
            emit!(self, vpbroadcastd, to.ymm(), to.xmm());
        }
        Vector::Lanes(to.0)
    }

    fn dot(&mut self, acc: Vector, activations: Vector, weights: Vector) {
        let (acc, product) = (acc.lanes(), self.take());
        let words = match activations {
            Vector::Words(even, odd) => [even, odd],
            Vector::Lanes(both) => [both, both],
            Vector::Memory(_) => unreachable!("activations are in registers"),
        };
        for (half, word) in words.into_iter().map(Ymm).enumerate() {
            match weights {
                Vector::Memory(at) => {
                    emit!(self, vpmaddwd, product.ymm(), word.ymm(), ymmword_ptr(memory(at.plus(half * BYTES))));
                }
                _ => emit!(self, vpmaddwd, product.ymm(), word.ymm(), weights.lanes().ymm()),
            }
            emit!(self, vpaddd, acc.ymm(), acc.ymm(), product.ymm());
        }
        self.give(product);
    }

    fn add(&mut self, acc: Vector, term: Vector) {
        let (acc, term) = (acc.lanes(), term.lanes());
        emit!(self, vpaddd, acc.ymm(), acc.ymm(), term.ymm());
    }

    fn store(&mut self, vector: Vector, at: At<AsmRegister64>) {
        emit!(self, vmovdqu, ymmword_ptr(memory(at)), vector.lanes().ymm());
    }

    fn release(&mut self, vector: Vector) {
        match vector {
            Vector::Lanes(register) => self.code.release(register),
            Vector::Words(even, odd) => {
                self.code.release(even);
                self.code.release(odd);
            }
            Vector::Memory(_) => {}
        }
    }

    fn keep(&mut self, vector: Vector) {
        self.release(vector);
    }

    fn requantize(&mut self, tile: &[Vec<Vector>], operands: &Requantize<'_, AsmRegister64>) {
        super::avx2_epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Vector>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
        super::avx2_epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Vector>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        super::avx2_epilogue::store_raw(self, tile, output, channels);
    }
}
