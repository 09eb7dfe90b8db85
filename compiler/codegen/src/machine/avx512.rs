//! AVX-512 with VNNI: the vectors are zmm registers and the result is position-independent bytes.

mod bytes;
mod epilogue;
mod lanes;
mod registers;
mod requant_f32;

use iced_x86::IcedError;
use iced_x86::code_asm::registers::gpr32::eax;
use iced_x86::code_asm::{AsmRegister64, dword_ptr, zmmword_ptr};

use super::code::{self, Code, emit, memory};
use super::shape::VectorShape;
use super::vector_machine::{At, Body, Machine, Pixels, Requantize};
pub use registers::{Avx512, Zmm};

impl Avx512 {
    /// A function that has saved what its callers want back.
    pub fn new() -> Result<Avx512, IcedError> {
        Ok(Avx512 { code: Code::new(32, false, 0)?, routine: None })
    }

    /// Restores, returns, and gives the bytes.
    pub fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        requant_f32::finish(&mut self);
        self.code.finish()
    }
}

impl Machine for Avx512 {
    type Vector = Zmm;
    type Pointer = AsmRegister64;

    fn shape(&self) -> VectorShape {
        VectorShape::AVX512
    }

    fn argument(&mut self, index: usize) -> AsmRegister64 {
        self.code.argument(index)
    }

    fn prefetch(&mut self, at: At<AsmRegister64>) {
        self.code.prefetch(at);
    }

    fn advance(&mut self, pointer: AsmRegister64, bytes: i64) {
        self.code.advance(pointer, bytes);
    }

    fn repeat(&mut self, count: usize, body: Body<'_, Self>) {
        code::repeat(self, count, body);
    }

    fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>) {
        code::repeat_argument(self, index, body);
    }

    fn load(&mut self, at: At<AsmRegister64>) -> Zmm {
        let to = self.take();
        emit!(self, vmovdqu32, to.zmm(), zmmword_ptr(memory(at)));
        to
    }

    fn broadcast(&mut self, at: At<AsmRegister64>) -> Zmm {
        let to = self.take();
        emit!(self, vpbroadcastd, to.zmm(), dword_ptr(memory(at)));
        to
    }

    fn splat(&mut self, value: i32) -> Zmm {
        let to = self.take();
        if value == 0 {
            emit!(self, vpxord, to.zmm(), to.zmm(), to.zmm());
        } else {
            emit!(self, mov, eax, value);
            emit!(self, vpbroadcastd, to.zmm(), eax);
        }
        to
    }

    fn splat_at(&mut self, at: At<AsmRegister64>) -> Zmm {
        self.broadcast(at)
    }

    fn dot(&mut self, acc: Zmm, activations: Zmm, weights: Zmm) {
        emit!(self, vpdpbusd, acc.zmm(), activations.zmm(), weights.zmm());
    }

    fn add(&mut self, acc: Zmm, term: Zmm) {
        emit!(self, vpaddd, acc.zmm(), acc.zmm(), term.zmm());
    }

    fn store(&mut self, vector: Zmm, at: At<AsmRegister64>) {
        emit!(self, vmovdqu32, zmmword_ptr(memory(at)), vector.zmm());
    }

    fn release(&mut self, vector: Zmm) {
        self.code.release(vector.number());
    }

    fn keep(&mut self, vector: Zmm) {
        self.release(vector);
    }

    fn requantize(&mut self, tile: &[Vec<Zmm>], operands: &Requantize<'_, AsmRegister64>) {
        epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Zmm>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
        epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Zmm>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        epilogue::store_raw(self, tile, output, channels);
    }
}
