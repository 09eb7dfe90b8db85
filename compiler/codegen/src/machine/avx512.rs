//! AVX-512: the vectors are zmm registers and the result is position-independent bytes. A dot is `vpdpbusd` of VNNI; without VNNI,
//! with BW, products are summed in 16 bits as AVX2 does it ([`super::avx2`]), and partial sums lie in a frame.

mod bytes;
mod codes;
mod epilogue;
mod lanes;
mod registers;
mod requant_f32;
mod tiles;

use iced_x86::IcedError;
use iced_x86::code_asm::registers::{gpr32::eax, gpr64::rsp};
use iced_x86::code_asm::{AsmRegister64, dword_ptr, zmmword_ptr};

use super::code::{self, Code, emit, memory};
use super::shape::VectorShape;
use super::vector_machine::{At, Body, Machine, Pixels, Requantize};
pub use registers::{Avx512, Zmm};

/// Bytes of a vector.
const BYTES: usize = 64;
/// Bytes of the frame of partial sums.
const FRAME: usize = VectorShape::AVX512_I16_SUMS.accumulators * BYTES;

impl Avx512 {
    /// A function that has saved what its callers want back.
    pub fn new() -> Result<Avx512, IcedError> {
        Ok(Avx512 { code: Code::new(32, false, 0)?, routine: None, ones: None, codes: None })
    }

    /// The same for microkernels that sum products in 16 bits, without VNNI.
    pub fn with_i16_sums() -> Result<Avx512, IcedError> {
        let mut machine = Avx512 { code: Code::new(32, false, FRAME as u16)?, routine: None, ones: None, codes: None };
        let ones = machine.take();
        emit!(machine, mov, eax, 1);
        emit!(machine, vpbroadcastw, ones.zmm(), eax);
        machine.ones = Some(ones);
        Ok(machine)
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
        if self.ones.is_some() { VectorShape::AVX512_I16_SUMS } else { VectorShape::AVX512 }
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

    fn begin_codes(&mut self, table: At<AsmRegister64>) {
        codes::begin(self, table);
    }

    fn end_codes(&mut self) {
        codes::end(self);
    }

    fn decoded_bytes(&mut self, at: At<AsmRegister64>) -> [Zmm; 2] {
        codes::decode(self, at)
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
        let Some(ones) = self.ones else {
            return emit!(self, vpdpbusd, acc.zmm(), activations.zmm(), weights.zmm());
        };
        let products = self.pair_products(activations, weights);
        emit!(self, vpmaddwd, products.zmm(), products.zmm(), ones.zmm());
        emit!(self, vpaddd, acc.zmm(), acc.zmm(), products.zmm());
        self.release(products);
    }

    fn pair_products(&mut self, activations: Zmm, weights: Zmm) -> Zmm {
        let products = self.take();
        emit!(self, vpmaddubsw, products.zmm(), activations.zmm(), weights.zmm());
        products
    }

    fn add_pair_products(&mut self, sums: Zmm, activations: Zmm, weights: Zmm) {
        let products = self.pair_products(activations, weights);
        emit!(self, vpaddw, sums.zmm(), sums.zmm(), products.zmm());
        self.release(products);
    }

    fn widen_and_add(&mut self, sums: Zmm, at: At<AsmRegister64>) {
        let ones = self.ones.expect("a machine with sums of 16 bits");
        emit!(self, vpmaddwd, sums.zmm(), sums.zmm(), ones.zmm());
        emit!(self, vpaddd, sums.zmm(), sums.zmm(), zmmword_ptr(memory(at)));
    }

    fn partial_sum(&self, index: usize) -> At<AsmRegister64> {
        At::new(rsp).plus(index * BYTES)
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
