//! AVX-512 with VNNI: the vectors are zmm registers and the result is position-independent bytes.

use iced_x86::IcedError;
use iced_x86::Register;
use iced_x86::code_asm::registers::{gpr32::eax, xmm, ymm, zmm};
use iced_x86::code_asm::{AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm, dword_ptr, zmmword_ptr};

use super::avx512_single;
use super::code::{self, Code, Coded, emit, memory};
use super::{At, Body, Machine, Pixels, Requantize, Shape};

/// A function in the making.
pub struct Avx512 {
    pub(super) code: Code,
    pub(super) routine: Option<avx512_single::Routine>,
}

/// A zmm register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zmm(u8);

impl Avx512 {
    /// A function that has saved what its callers want back.
    pub fn new() -> Result<Avx512, IcedError> {
        Ok(Avx512 { code: Code::new(32, false, 0)?, routine: None })
    }

    /// Restores, returns, and gives the bytes.
    pub fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        avx512_single::finish(&mut self);
        self.code.finish()
    }

    /// A free register.
    ///
    /// # Panics
    /// If there is none: the tile was chosen for more registers than [`Shape::AVX512`] has.
    pub(super) fn take(&mut self) -> Zmm {
        Zmm(self.code.take())
    }
}

impl Coded for Avx512 {
    fn code(&mut self) -> &mut Code {
        &mut self.code
    }
}

impl Zmm {
    /// Its number.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// All 512 bits.
    pub(super) fn zmm(self) -> AsmRegisterZmm {
        zmm::get_zmm(Register::ZMM0 + u32::from(self.0)).expect("32 registers")
    }

    /// The low 256 bits.
    pub(super) fn ymm(self) -> AsmRegisterYmm {
        ymm::get_ymm(Register::YMM0 + u32::from(self.0)).expect("32 registers")
    }

    /// The low 128 bits.
    pub(super) fn xmm(self) -> AsmRegisterXmm {
        xmm::get_xmm(Register::XMM0 + u32::from(self.0)).expect("32 registers")
    }
}

impl Machine for Avx512 {
    type Vector = Zmm;
    type Pointer = AsmRegister64;

    fn shape(&self) -> Shape {
        Shape::AVX512
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
        self.code.release(vector.0);
    }

    fn keep(&mut self, vector: Zmm) {
        self.release(vector);
    }

    fn requantize(&mut self, tile: &[Vec<Zmm>], operands: &Requantize<'_, AsmRegister64>) {
        super::avx512_epilogue::requantize(self, tile, operands);
    }

    fn extrema(&mut self, tile: &[Vec<Zmm>], least: At<AsmRegister64>, greatest: At<AsmRegister64>) {
        super::avx512_epilogue::extrema(self, tile, least, greatest);
    }

    fn store_raw(&mut self, tile: &[Vec<Zmm>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        super::avx512_epilogue::store_raw(self, tile, output, channels);
    }
}
