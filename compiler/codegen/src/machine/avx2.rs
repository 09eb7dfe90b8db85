//! AVX2 and AVX-VNNI: ymm registers. The two differ in their dot, in the width of its factors, and in nothing else.
//!
//! ```text
//! Dot::Words   vpmaddwd, vpaddd    two words a lane: weights are packed as words, activations widened on the way
//! Dot::Vex     vpdpbusd            four bytes a lane, as AVX-VNNI encodes it
//! Dot::Evex    vpdpbusd            the same, as AVX-512-VNNI encodes it for ymm registers
//! ```
//! `vpmaddubsw` would take bytes without AVX-VNNI, but saturates: the sum of two products leaves 16 bits as soon as two
//! neighbouring weights of one sign sum to more than 128.
//!
//! **Words of activations.** To widen a broadcast in registers takes two operations for each pixel and step, an eighth of
//! the time of a tile of three pixels by four vectors. [`Machine::stage`] widens sixteen bytes of a pixel at once into the
//! frame, from where broadcasts of words are mere loads.

use iced_x86::code_asm::registers::{gpr32::eax, gpr64::rsp, xmm, ymm};
use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, dword_ptr, qword_ptr, word_ptr, xmmword_ptr,
    ymmword_ptr,
};
use iced_x86::{IcedError, Register};
use qcc_num::requant::Epilogue;

use super::code::{self, Code, Coded, emit, memory};
use super::{At, Body, Machine, Pixels, Requantize, Shape};

/// Bytes of a vector.
pub(super) const BYTES: usize = 32;
/// Vectors of the frame that hold constants: see [`super::avx2_epilogue`].
pub(super) const CONSTANTS: usize = 4;
/// Vectors of the frame for a pixel's words of one loop body.
const STAGED: usize = 2 * Shape::AVX2.step() * Shape::AVX2.unroll / BYTES;
/// Bytes of the frame: constants, and the words of each pixel of a tile.
const FRAME: usize = (CONSTANTS + STAGED * Shape::AVX2.accumulators) * BYTES;
/// Registers that a dot of words needs beside accumulators and weights: a broadcast and the products.
const WORDS_BESIDE: u32 = 2;

/// How a machine multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dot {
    /// `vpmaddwd` and `vpaddd`: AVX2.
    Words,
    /// `vpdpbusd` with a VEX prefix: AVX-VNNI.
    Vex,
    /// `vpdpbusd` with an EVEX prefix: AVX-512-VNNI with AVX-512-VL.
    Evex,
}

/// A function in the making.
pub struct Avx2 {
    pub(super) code: Code,
    pub(super) dot: Dot,
    /// Bytes that a tail has.
    pub(super) tail: usize,
    /// What the frame's constants are.
    pub(super) prepared: Option<(Epilogue, Option<u16>)>,
    /// Bytes whose words are in the frame, and where.
    staged: Vec<(At<AsmRegister64>, usize, usize)>,
}

/// A ymm register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ymm(u8);

/// A vector.
#[derive(Debug, Clone, Copy)]
pub enum Vector {
    /// In a register.
    Register(u8),
    /// Read where it is used.
    Memory(At<AsmRegister64>),
}

impl Avx2 {
    /// A function that has saved what its callers want back.
    pub fn new(dot: Dot) -> Result<Avx2, IcedError> {
        let code = Code::new(16, true, FRAME as u16)?;
        Ok(Avx2 { code, dot, tail: 0, prepared: None, staged: Vec::new() })
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

    /// `acc += products of activations` with weights in a register or in memory.
    pub(super) fn dot_with(&mut self, acc: Ymm, activations: Ymm, weights: Vector) {
        if self.dot == Dot::Words {
            let product = self.take();
            match weights {
                Vector::Register(weights) => {
                    emit!(self, vpmaddwd, product.ymm(), activations.ymm(), Ymm(weights).ymm());
                }
                Vector::Memory(at) => {
                    emit!(self, vpmaddwd, product.ymm(), activations.ymm(), ymmword_ptr(memory(at)));
                }
            }
            emit!(self, vpaddd, acc.ymm(), acc.ymm(), product.ymm());
            return self.give(product);
        }
        self.code.asm.set_prefer_vex(self.dot == Dot::Vex);
        match weights {
            Vector::Register(weights) => {
                emit!(self, vpdpbusd, acc.ymm(), activations.ymm(), Ymm(weights).ymm());
            }
            Vector::Memory(at) => emit!(self, vpdpbusd, acc.ymm(), activations.ymm(), ymmword_ptr(memory(at))),
        }
        self.code.asm.set_prefer_vex(true);
    }
}

/// Vector `index` of the frame and `bytes` beyond its beginning, without a size.
pub(super) fn frame(index: usize, bytes: usize) -> AsmMemoryOperand {
    rsp + (index * BYTES + bytes) as i32
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

    /// As a vector.
    pub(super) fn vector(self) -> Vector {
        Vector::Register(self.0)
    }
}

impl Vector {
    /// The register.
    pub(super) fn register(self) -> Ymm {
        match self {
            Vector::Register(register) => Ymm(register),
            Vector::Memory(_) => unreachable!("only a factor or a table stays in memory"),
        }
    }
}

impl Machine for Avx2 {
    type Vector = Vector;
    type Pointer = AsmRegister64;

    fn shape(&self) -> Shape {
        match self.dot {
            Dot::Words => Shape::AVX2,
            Dot::Vex | Dot::Evex => Shape::AVX_VNNI,
        }
    }

    fn argument(&mut self, index: usize) -> AsmRegister64 {
        self.code.argument(index)
    }

    fn prepare(&mut self, rule: &Epilogue, residual: Option<u16>) {
        super::avx2_epilogue::prepare(self, rule, residual);
        self.prepared = Some((*rule, residual));
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
        to.vector()
    }

    fn weights(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot == Dot::Words && self.code.free() <= WORDS_BESIDE { Vector::Memory(at) } else { self.load(at) }
    }

    fn weights_of_bytes(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot != Dot::Words {
            return self.load(at);
        }
        let to = self.take();
        emit!(self, vpmovsxbw, to.ymm(), xmmword_ptr(memory(at)));
        to.vector()
    }

    fn stage(&mut self, places: &[At<AsmRegister64>], bytes: usize) {
        if self.dot != Dot::Words {
            return;
        }
        self.staged.clear();
        let words = self.take();
        for (pixel, &place) in places.iter().enumerate() {
            let (first, mut done) = (CONSTANTS + STAGED * pixel, 0);
            while done < bytes {
                let size = [16, 8, 4, 2].into_iter().find(|&size| size <= bytes - done).expect("whole steps");
                let (from, to) = (memory(place.plus(done)), frame(first, 2 * done));
                match size {
                    16 => {
                        emit!(self, vpmovzxbw, words.ymm(), xmmword_ptr(from));
                        emit!(self, vmovdqa, ymmword_ptr(to), words.ymm());
                    }
                    8 => {
                        emit!(self, vpmovzxbw, words.xmm(), qword_ptr(from));
                        emit!(self, vmovdqa, xmmword_ptr(to), words.xmm());
                    }
                    4 => {
                        emit!(self, vmovd, words.xmm(), dword_ptr(from));
                        emit!(self, vpmovzxbw, words.xmm(), words.xmm());
                        emit!(self, vmovq, qword_ptr(to), words.xmm());
                    }
                    _ => {
                        emit!(self, movzx, eax, word_ptr(from));
                        emit!(self, vmovd, words.xmm(), eax);
                        emit!(self, vpmovzxbw, words.xmm(), words.xmm());
                        emit!(self, vmovd, dword_ptr(to), words.xmm());
                    }
                }
                done += size;
            }
            self.staged.push((place, bytes, first));
        }
        self.give(words);
    }

    fn broadcast(&mut self, at: At<AsmRegister64>) -> Vector {
        if self.dot != Dot::Words {
            return self.splat_at(at);
        }
        let to = self.take();
        let last = at.disp + Shape::AVX2.step() as i32;
        let holds = |(place, bytes, _): &&(At<AsmRegister64>, usize, usize)| {
            place.base == at.base && place.disp <= at.disp && last <= place.disp + *bytes as i32
        };
        let &(place, _, index) = self.staged.iter().find(holds).expect("broadcasts are staged");
        emit!(self, vpbroadcastd, to.ymm(), dword_ptr(frame(index, 2 * (at.disp - place.disp) as usize)));
        to.vector()
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
        super::avx2_epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Vector>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
        super::avx2_epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Vector>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        super::avx2_epilogue::store_raw(self, tile, output, channels);
    }
}
