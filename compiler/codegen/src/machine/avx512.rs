//! AVX-512 with VNNI, encoded by iced-x86: the vectors are zmm registers and the result is position-independent bytes.
//!
//! Only integer instructions are used, and no data stands between them. General registers: the six argument registers
//! hold the pointers, `rax` is scratch, the others count loops. The callee-saved ones are pushed whether a kernel needs
//! them or not: six pushes a call, against thousands of cycles in it.

use iced_x86::code_asm::registers::{gpr32::eax, gpr64, xmm, ymm, zmm};
use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm, CodeAssembler, byte_ptr,
    dword_ptr, qword_ptr, zmmword_ptr,
};
use iced_x86::{IcedError, Register};

use super::{At, Body, Machine, Pixels, Requantize, Shape};

/// Argument registers of the System V convention, in order.
const ARGUMENTS: [AsmRegister64; 6] = [gpr64::rdi, gpr64::rsi, gpr64::rdx, gpr64::rcx, gpr64::r8, gpr64::r9];
/// Registers pushed at entry; they count loops, as `r10` and `r11` do.
const SAVED: [AsmRegister64; 6] = [gpr64::rbx, gpr64::rbp, gpr64::r12, gpr64::r13, gpr64::r14, gpr64::r15];

/// A machine code function in the making.
pub struct Avx512 {
    pub(super) asm: CodeAssembler,
    fault: Option<IcedError>,
    /// Bit `i`: zmm `i` is free.
    free: u32,
    counters: Vec<AsmRegister64>,
}

/// A zmm register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zmm(u8);

/// Emits one instruction and notes a fault.
macro_rules! emit {
    ($machine:expr, $mnemonic:ident $(, $operand:expr)*) => {{
        let result = $machine.asm.$mnemonic($($operand),*);
        $machine.note(result);
    }};
}
pub(super) use emit;

impl Avx512 {
    /// A function that has saved what its callers want back.
    pub fn new() -> Result<Avx512, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        asm.set_prefer_vex(false);
        for register in SAVED {
            asm.push(register)?;
        }
        let mut counters = SAVED.to_vec();
        counters.extend([gpr64::r11, gpr64::r10]);
        Ok(Avx512 { asm, fault: None, free: u32::MAX, counters })
    }

    /// Restores, returns, and gives the bytes.
    pub fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        emit!(self, vzeroupper);
        for register in SAVED.into_iter().rev() {
            emit!(self, pop, register);
        }
        emit!(self, ret);
        match self.fault {
            Some(fault) => Err(fault),
            None => self.asm.assemble(0),
        }
    }

    /// Remembers the first fault of the assembler.
    pub(super) fn note(&mut self, result: Result<(), IcedError>) {
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
    }

    /// A free register.
    ///
    /// # Panics
    /// If there is none: the tile was chosen for more registers than [`Shape::AVX512`] has.
    pub(super) fn take(&mut self) -> Zmm {
        let index = self.free.trailing_zeros();
        assert!(index < 32, "a register tile leaves registers for its own work");
        self.free &= !(1 << index);
        Zmm(index as u8)
    }

    /// Makes a loop that counts a register from its present value, at least 1, down to 0.
    fn count_down(&mut self, counter: AsmRegister64, body: Body<'_, Self>) {
        let mut head = self.asm.create_label();
        let result = self.asm.set_label(&mut head);
        self.note(result);
        body(self);
        emit!(self, sub, counter, 1);
        emit!(self, jne, head);
    }

    fn take_counter(&mut self) -> AsmRegister64 {
        self.counters.pop().expect("kernels nest fewer loops than there are counters")
    }
}

impl Zmm {
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

/// An argument that has no register: above the return address and what was pushed after it.
fn stack_argument(index: usize) -> AsmMemoryOperand {
    qword_ptr(gpr64::rsp + 8 * (1 + SAVED.len() + index - ARGUMENTS.len()) as i32)
}

/// The operand `[base + disp]`, without a size.
pub(super) fn memory(at: At<AsmRegister64>) -> AsmMemoryOperand {
    at.base + at.disp
}

impl Machine for Avx512 {
    type Vector = Zmm;
    type Pointer = AsmRegister64;

    fn shape(&self) -> Shape {
        Shape::AVX512
    }

    fn argument(&mut self, index: usize) -> AsmRegister64 {
        ARGUMENTS.get(index).copied().unwrap_or_else(|| {
            let register = self.take_counter();
            emit!(self, mov, register, stack_argument(index));
            register
        })
    }

    fn prefetch(&mut self, at: At<AsmRegister64>) {
        emit!(self, prefetcht1, byte_ptr(memory(at)));
    }

    fn step(&mut self, pointer: AsmRegister64, bytes: i64) {
        match i32::try_from(bytes) {
            Ok(0) => {}
            Ok(bytes) => emit!(self, add, pointer, bytes),
            Err(_) => {
                emit!(self, mov, gpr64::rax, bytes);
                emit!(self, add, pointer, gpr64::rax);
            }
        }
    }

    fn repeat(&mut self, count: usize, body: Body<'_, Self>) {
        if count == 1 {
            return body(self);
        }
        let counter = self.take_counter();
        emit!(self, mov, counter, count as i64);
        self.count_down(counter, body);
        self.counters.push(counter);
    }

    fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>) {
        let counter = self.take_counter();
        match ARGUMENTS.get(index) {
            Some(&argument) => emit!(self, mov, counter, argument),
            None => emit!(self, mov, counter, stack_argument(index)),
        }
        let mut end = self.asm.create_label();
        emit!(self, test, counter, counter);
        emit!(self, je, end);
        self.count_down(counter, body);
        let result = self.asm.set_label(&mut end);
        self.note(result);
        self.counters.push(counter);
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

    fn dot(&mut self, acc: Zmm, activations: Zmm, weights: Zmm) {
        emit!(self, vpdpbusd, acc.zmm(), activations.zmm(), weights.zmm());
    }

    fn add(&mut self, acc: Zmm, term: Zmm) {
        emit!(self, vpaddd, acc.zmm(), acc.zmm(), term.zmm());
    }

    fn release(&mut self, vector: Zmm) {
        debug_assert!(self.free & (1 << vector.0) == 0, "zmm{} is released once", vector.0);
        self.free |= 1 << vector.0;
    }

    fn keep(&mut self, vector: Zmm) {
        self.release(vector);
    }

    fn requantize(&mut self, tile: &[Vec<Zmm>], operands: &Requantize<'_, AsmRegister64>) {
        super::avx512_epilogue::requantize(self, tile, operands);
    }

    fn store_raw(&mut self, tile: &[Vec<Zmm>], output: Pixels<'_, AsmRegister64>, channels: usize) {
        super::avx512_epilogue::store_raw(self, tile, output, channels);
    }
}
