//! What the back ends that write machine code themselves have in common: iced-x86's assembler, general registers, pointers
//! and loops.
//!
//! Only integer instructions are used, and no data stands between them. General registers: the six argument registers
//! hold the pointers, `rax` is scratch, the others count loops. The callee-saved ones are pushed whether a kernel needs
//! them or not: six pushes a call, against thousands of cycles in it. A machine may have a *frame*, memory of its own
//! at `rsp` for what finds no register; `rbp` then says where the arguments are.

use iced_x86::IcedError;
use iced_x86::code_asm::registers::gpr64;
use iced_x86::code_asm::{AsmMemoryOperand, AsmRegister64, CodeAssembler, byte_ptr, qword_ptr};

use super::vector_machine::{At, Body};

/// Argument registers of the System V convention, in order.
const ARGUMENTS: [AsmRegister64; 6] = [gpr64::rdi, gpr64::rsi, gpr64::rdx, gpr64::rcx, gpr64::r8, gpr64::r9];
/// Registers pushed at entry; they count loops, as `r10` and `r11` do.
const SAVED: [AsmRegister64; 6] = [gpr64::rbx, gpr64::rbp, gpr64::r12, gpr64::r13, gpr64::r14, gpr64::r15];
/// Alignment of a frame: one cache line.
const FRAME_ALIGN: i32 = 64;

/// A machine code function in the making.
pub(super) struct Code {
    pub(super) asm: CodeAssembler,
    fault: Option<IcedError>,
    /// Bit `i`: vector register `i` is free.
    free: u32,
    counters: Vec<AsmRegister64>,
    /// Whether there is a frame.
    framed: bool,
}

/// A machine that is made of code.
pub(super) trait Coded {
    /// The code.
    fn code(&mut self) -> &mut Code;
}

/// Emits one instruction and notes a fault.
macro_rules! emit {
    ($machine:expr, $mnemonic:ident $(, $operand:expr)*) => {{
        let result = $machine.code.asm.$mnemonic($($operand),*);
        $machine.code.note(result);
    }};
}
pub(super) use emit;

impl Code {
    /// A function that has saved what its callers want back, for a machine of so many vector registers and with a frame of
    /// so many bytes, fewer than a page.
    pub(super) fn new(registers: u32, prefer_vex: bool, frame: u16) -> Result<Code, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        asm.set_prefer_vex(prefer_vex);
        for register in SAVED {
            asm.push(register)?;
        }
        let mut counters = SAVED.to_vec();
        counters.extend([gpr64::r11, gpr64::r10]);
        let framed = frame > 0;
        if framed {
            asm.mov(gpr64::rbp, gpr64::rsp)?;
            asm.sub(gpr64::rsp, i32::from(frame))?;
            asm.and(gpr64::rsp, -FRAME_ALIGN)?;
            counters.retain(|&register| register != gpr64::rbp);
        }
        Ok(Code { asm, fault: None, free: u32::MAX >> (32 - registers), counters, framed })
    }

    /// Restores, returns, and gives the bytes.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        self.asm.vzeroupper()?;
        if self.framed {
            self.asm.mov(gpr64::rsp, gpr64::rbp)?;
        }
        for register in SAVED.into_iter().rev() {
            self.asm.pop(register)?;
        }
        self.asm.ret()?;
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

    /// The number of a free vector register.
    ///
    /// # Panics
    /// If there is none: the tile was chosen for more registers than there are.
    pub(super) fn take(&mut self) -> u8 {
        assert!(self.free != 0, "a register tile leaves registers for its own work");
        let index = self.free.trailing_zeros();
        self.free &= !(1 << index);
        index as u8
    }

    /// How many vector registers are free.
    pub(super) fn free(&self) -> u32 {
        self.free.count_ones()
    }

    /// Gives a vector register back.
    pub(super) fn release(&mut self, index: u8) {
        debug_assert!(self.free & (1 << index) == 0, "vector register {index} is released once");
        self.free |= 1 << index;
    }

    fn take_counter(&mut self) -> AsmRegister64 {
        self.counters.pop().expect("kernels nest fewer loops than there are counters")
    }

    /// See [`super::Machine::argument`].
    pub(super) fn argument(&mut self, index: usize) -> AsmRegister64 {
        ARGUMENTS.get(index).copied().unwrap_or_else(|| {
            let register = self.take_counter();
            let from = self.stack_argument(index);
            let result = self.asm.mov(register, from);
            self.note(result);
            register
        })
    }

    /// See [`super::Machine::prefetch`].
    pub(super) fn prefetch(&mut self, at: At<AsmRegister64>) {
        let result = self.asm.prefetcht1(byte_ptr(memory(at)));
        self.note(result);
    }

    /// See [`super::Machine::advance`].
    pub(super) fn advance(&mut self, pointer: AsmRegister64, bytes: i64) {
        let result = match i32::try_from(bytes) {
            Ok(0) => Ok(()),
            Ok(bytes) => self.asm.add(pointer, bytes),
            Err(_) => self.asm.mov(gpr64::rax, bytes).and_then(|()| self.asm.add(pointer, gpr64::rax)),
        };
        self.note(result);
    }

    /// An argument that has no register: above the return address and what was pushed after it.
    fn stack_argument(&self, index: usize) -> AsmMemoryOperand {
        let pushed = if self.framed { gpr64::rbp } else { gpr64::rsp };
        qword_ptr(pushed + 8 * (1 + SAVED.len() + index - ARGUMENTS.len()) as i32)
    }
}

/// The operand `[base + disp]`, without a size.
pub(super) fn memory(at: At<AsmRegister64>) -> AsmMemoryOperand {
    at.base + at.disp
}

/// Makes a loop that counts a register from its present value, at least 1, down to 0.
fn count_down<M: Coded>(m: &mut M, counter: AsmRegister64, body: Body<'_, M>) {
    let code = m.code();
    let mut head = code.asm.create_label();
    let result = code.asm.set_label(&mut head);
    code.note(result);
    body(m);
    let code = m.code();
    let result = code.asm.sub(counter, 1).and_then(|()| code.asm.jne(head));
    code.note(result);
}

/// See [`super::Machine::repeat`].
pub(super) fn repeat<M: Coded>(m: &mut M, count: usize, body: Body<'_, M>) {
    if count == 1 {
        return body(m);
    }
    let code = m.code();
    let counter = code.take_counter();
    let result = code.asm.mov(counter, count as i64);
    code.note(result);
    count_down(m, counter, body);
    m.code().counters.push(counter);
}

/// See [`super::Machine::repeat_argument`].
pub(super) fn repeat_argument<M: Coded>(m: &mut M, index: usize, body: Body<'_, M>) {
    let code = m.code();
    let counter = code.take_counter();
    let result = match ARGUMENTS.get(index) {
        Some(&argument) => code.asm.mov(counter, argument),
        None => {
            let from = code.stack_argument(index);
            code.asm.mov(counter, from)
        }
    };
    code.note(result);
    let mut end = code.asm.create_label();
    let result = code.asm.test(counter, counter).and_then(|()| code.asm.je(end));
    code.note(result);
    count_down(m, counter, body);
    let code = m.code();
    let result = code.asm.set_label(&mut end);
    code.note(result);
    code.counters.push(counter);
}
