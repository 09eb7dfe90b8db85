//! AVX2 and AVX-VNNI: ymm registers. They differ in their dot, in the width of its factors, and in nothing else.
//!
//! ```text
//! Dot::I16Pairs   vpmaddwd, vpaddd    two 16-bit pairs a lane: weights are packed as i16, activations widened on the way
//! Dot::I16Sums    vpmaddubsw, vpaddw  four bytes a lane, their products in two sums of 16 bits; from time to time vpmaddwd by 1, vpaddd
//! Dot::Vex        vpdpbusd            four bytes a lane, as AVX-VNNI encodes it
//! Dot::Evex       vpdpbusd            the same, as AVX-512-VNNI encodes it for ymm registers
//! ```
//! `vpmaddubsw` saturates: the sum of two products leaves 16 bits as soon as two neighbouring weights of one sign sum to more
//! than 128. It is used where weights exclude that, see [`crate::kernel::microkernel`].
//!
//! **16-bit activations.** To widen a broadcast in registers takes two operations for each pixel and step, an eighth of
//! the time of a tile of three pixels by four vectors. [`Machine::stage`] widens sixteen bytes of a pixel at once into the
//! frame, from where broadcasts of 16-bit pairs are mere loads.

mod bytes;
mod codes;
mod epilogue;
mod parts;
mod registers;
mod requant_f32;
mod tiles;

use iced_x86::code_asm::registers::{gpr32::eax, gpr64::rsp};
use iced_x86::code_asm::{AsmRegister64, dword_ptr, qword_ptr, word_ptr, xmmword_ptr, ymmword_ptr};
use qcc_num::requant::Epilogue;

use super::code::{self, emit, memory};
use super::shape::VectorShape;
use super::vector_machine::{At, Body, Machine, Pixels, Requantize};
pub use registers::{Avx2, Dot};
use registers::{BYTES, CONSTANTS, I16_SCRATCH, ONES, STAGED, Vector, frame};

impl Machine for Avx2 {
    type Vector = Vector;
    type Pointer = AsmRegister64;

    fn shape(&self) -> VectorShape {
        match self.dot {
            Dot::I16Pairs => VectorShape::AVX2,
            Dot::I16Sums => VectorShape::AVX2_I16_SUMS,
            Dot::Vex | Dot::Evex => VectorShape::AVX_VNNI,
        }
    }

    fn argument(&mut self, index: usize) -> AsmRegister64 {
        self.code.argument(index)
    }

    fn prepare(&mut self, rule: &Epilogue, residual: Option<u16>) {
        epilogue::prepare(self, rule, residual);
        self.prepared = Some((*rule, residual));
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

    fn load(&mut self, at: At<AsmRegister64>) -> Vector {
        let to = self.take();
        emit!(self, vmovdqu, to.ymm(), ymmword_ptr(memory(at)));
        to.vector()
    }

    fn weights(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot == Dot::I16Pairs && self.code.free() <= I16_SCRATCH { Vector::Memory(at) } else { self.load(at) }
    }

    fn weights_of_bytes(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot != Dot::I16Pairs {
            return self.load(at);
        }
        let to = self.take();
        emit!(self, vpmovsxbw, to.ymm(), xmmword_ptr(memory(at)));
        to.vector()
    }

    fn stage(&mut self, addresses: &[At<AsmRegister64>], bytes: usize) {
        if self.dot != Dot::I16Pairs {
            return;
        }
        self.staged.clear();
        let i16s = self.take();
        for (pixel, &address) in addresses.iter().enumerate() {
            let (first, mut done) = (CONSTANTS + STAGED * pixel, 0);
            while done < bytes {
                let size = [16, 8, 4, 2].into_iter().find(|&size| size <= bytes - done).expect("whole steps");
                let (from, to) = (memory(address.plus(done)), frame(first, 2 * done));
                match size {
                    16 => {
                        emit!(self, vpmovzxbw, i16s.ymm(), xmmword_ptr(from));
                        emit!(self, vmovdqa, ymmword_ptr(to), i16s.ymm());
                    }
                    8 => {
                        emit!(self, vpmovzxbw, i16s.xmm(), qword_ptr(from));
                        emit!(self, vmovdqa, xmmword_ptr(to), i16s.xmm());
                    }
                    4 => {
                        emit!(self, vmovd, i16s.xmm(), dword_ptr(from));
                        emit!(self, vpmovzxbw, i16s.xmm(), i16s.xmm());
                        emit!(self, vmovq, qword_ptr(to), i16s.xmm());
                    }
                    _ => {
                        emit!(self, movzx, eax, word_ptr(from));
                        emit!(self, vmovd, i16s.xmm(), eax);
                        emit!(self, vpmovzxbw, i16s.xmm(), i16s.xmm());
                        emit!(self, vmovd, dword_ptr(to), i16s.xmm());
                    }
                }
                done += size;
            }
            self.staged.push((address, bytes, first));
        }
        self.give(i16s);
    }

    fn broadcast(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot != Dot::I16Pairs {
            return self.splat_at(at);
        }
        let to = self.take();
        let last = at.disp + VectorShape::AVX2.dot_depth() as i32;
        let holds = |(address, bytes, _): &&(At<AsmRegister64>, usize, usize)| {
            address.base == at.base && address.disp <= at.disp && last <= address.disp + *bytes as i32
        };
        let &(address, _, index) = self.staged.iter().find(holds).expect("broadcasts are staged");
        emit!(self, vpbroadcastd, to.ymm(), dword_ptr(frame(index, 2 * (at.disp - address.disp) as usize)));
        to.vector()
    }

    fn begin_codes(&mut self, table: At<AsmRegister64>) {
        codes::begin(self, table);
    }

    fn end_codes(&mut self) {
        codes::end(self);
    }

    fn decoded_bytes(&mut self, at: At<AsmRegister64>) -> [Vector; 2] {
        codes::decode(self, at)
    }

    fn decoded_weights(&mut self, at: At<AsmRegister64>) -> [Vector; 2] {
        match self.dot {
            Dot::I16Pairs => codes::decode_i16s(self, at),
            Dot::I16Sums | Dot::Vex | Dot::Evex => codes::decode(self, at),
        }
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
        to.vector()
    }

    fn splat_at(&mut self, at: At<AsmRegister64>) -> Vector {
        let to = self.take();
        emit!(self, vpbroadcastd, to.ymm(), dword_ptr(memory(at)));
        to.vector()
    }

    fn dot(&mut self, acc: Vector, activations: Vector, weights: Vector) {
        self.dot_with(acc.register(), activations.register(), weights);
    }

    fn fast_dot(&mut self, acc: Vector, activations: [Vector; 2], weights: [Vector; 2]) {
        let (acc, [a, b]) = (acc.register(), activations.map(Vector::register));
        let [w, v] = weights.map(Vector::register);
        let (left, right) = (self.take(), self.take());
        emit!(self, vpaddw, left.ymm(), a.ymm(), v.ymm());
        emit!(self, vpaddw, right.ymm(), b.ymm(), w.ymm());
        emit!(self, vpmaddwd, left.ymm(), left.ymm(), right.ymm());
        emit!(self, vpaddd, acc.ymm(), acc.ymm(), left.ymm());
        [left, right].into_iter().for_each(|register| self.give(register));
    }

    fn neighbour_products(&mut self, acc: Vector, activations: Vector) {
        let (acc, activations, products) = (acc.register(), activations.register(), self.take());
        emit!(self, vpsrlq, products.ymm(), activations.ymm(), 32);
        emit!(self, vpmaddwd, products.ymm(), products.ymm(), activations.ymm());
        emit!(self, vpaddd, acc.ymm(), acc.ymm(), products.ymm());
        self.give(products);
    }

    fn store_negative_sum(&mut self, lanes: Vector, at: At<AsmRegister64>) {
        let (sum, other) = (lanes.register(), self.take());
        emit!(self, vextracti128, other.xmm(), sum.ymm(), 1);
        emit!(self, vpaddd, sum.xmm(), sum.xmm(), other.xmm());
        for order in [0x4E, 0xB1] {
            emit!(self, vpshufd, other.xmm(), sum.xmm(), order);
            emit!(self, vpaddd, sum.xmm(), sum.xmm(), other.xmm());
        }
        emit!(self, vpxor, other.xmm(), other.xmm(), other.xmm());
        emit!(self, vpsubd, sum.xmm(), other.xmm(), sum.xmm());
        emit!(self, vmovd, dword_ptr(memory(at)), sum.xmm());
        [sum, other].into_iter().for_each(|register| self.give(register));
    }

    fn pair_products(&mut self, activations: Vector, weights: Vector) -> Vector {
        self.byte_products(activations.register(), weights).vector()
    }

    fn add_pair_products(&mut self, sums: Vector, activations: Vector, weights: Vector) {
        let (sums, product) = (sums.register(), self.byte_products(activations.register(), weights));
        emit!(self, vpaddw, sums.ymm(), sums.ymm(), product.ymm());
        self.give(product);
    }

    fn widen_and_add(&mut self, sums: Vector, at: At<AsmRegister64>) {
        let sums = sums.register();
        emit!(self, vpmaddwd, sums.ymm(), sums.ymm(), ymmword_ptr(frame(ONES, 0)));
        emit!(self, vpaddd, sums.ymm(), sums.ymm(), ymmword_ptr(memory(at)));
    }

    fn partial_sum(&self, index: usize) -> At<AsmRegister64> {
        At::new(rsp).plus((ONES + 1 + index) * BYTES)
    }

    fn add(&mut self, acc: Vector, term: Vector) {
        let (acc, term) = (acc.register(), term.register());
        emit!(self, vpaddd, acc.ymm(), acc.ymm(), term.ymm());
    }

    fn store(&mut self, vector: Vector, at: At<AsmRegister64>) {
        emit!(self, vmovdqu, ymmword_ptr(memory(at)), vector.register().ymm());
    }

    fn release(&mut self, vector: Vector) {
        match vector {
            Vector::Register(register) => self.code.release(register),
            Vector::Memory(_) => {}
        }
    }

    fn keep(&mut self, vector: Vector) {
        self.release(vector);
    }

    fn requantize(&mut self, tile: &[Vec<Vector>], operands: &Requantize<'_, AsmRegister64>) {
        epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Vector>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
        epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Vector>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        epilogue::store_raw(self, tile, output, channels);
    }
}
