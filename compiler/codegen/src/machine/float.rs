//! The vectors of the float interface: zmm registers of AVX-512 or ymm registers of AVX2, described once for both.
//!
//! A vector has four or two *parts* of 128 bits, and nearly all instructions work in each part alike, so that one sequence of
//! them serves both widths. The two differ in how a NaN is taken out and in how a float is rounded: neither depends on the
//! rounding mode that the host has set.

use iced_x86::code_asm::registers::{gpr64::rax, k::k1, xmm, ymm, zmm};
use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm, dword_ptr, qword_ptr, xmmword_ptr,
    ymmword_ptr, zmmword_ptr,
};
use iced_x86::{IcedError, Register};

use super::code::{self, Code, Coded, emit, memory};
use super::vector_machine::{At, Body};

/// A function of float instructions in the making.
pub struct Float {
    pub(super) code: Code,
    zmm: bool,
}

/// A register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector(u8);

impl Vector {
    fn zmm(self) -> AsmRegisterZmm {
        zmm::get_zmm(Register::ZMM0 + u32::from(self.0)).expect("32 registers")
    }

    fn ymm(self) -> AsmRegisterYmm {
        ymm::get_ymm(Register::YMM0 + u32::from(self.0)).expect("registers")
    }

    fn xmm(self) -> AsmRegisterXmm {
        xmm::get_xmm(Register::XMM0 + u32::from(self.0)).expect("registers")
    }
}

/// One instruction on registers of the machine's width, and what follows them.
macro_rules! vector {
    ($m:expr, $mnemonic:ident, $($register:expr),+ $(; $last:expr)?) => {
        match $m.zmm {
            true => emit!($m, $mnemonic, $($register.zmm()),+ $(, $last)?),
            false => emit!($m, $mnemonic, $($register.ymm()),+ $(, $last)?),
        }
    };
}

impl Coded for Float {
    fn code(&mut self) -> &mut Code {
        &mut self.code
    }
}

impl Float {
    /// A function for AVX-512, or for AVX2.
    pub fn new(zmm: bool) -> Result<Float, IcedError> {
        let code = if zmm { Code::new(32, false, 0)? } else { Code::new(16, true, 0)? };
        Ok(Float { code, zmm })
    }

    /// Restores, returns, and gives the bytes.
    pub fn finish(self) -> Result<Vec<u8>, IcedError> {
        self.code.finish()
    }

    /// 128-bit parts of a vector.
    pub fn parts(&self) -> usize {
        if self.zmm { 4 } else { 2 }
    }

    /// Argument `index` of the function.
    pub fn argument(&mut self, index: usize) -> AsmRegister64 {
        self.code.argument(index)
    }

    /// Adds `bytes` to a pointer.
    pub fn advance(&mut self, pointer: AsmRegister64, bytes: i64) {
        self.code.advance(pointer, bytes);
    }

    /// Runs `body` as often as argument `index` of the function says.
    pub fn repeat_argument(&mut self, index: usize, body: Body<'_, Self>) {
        code::repeat_argument(self, index, body);
    }

    fn take(&mut self) -> Vector {
        Vector(self.code.take())
    }

    /// Ends the life of a vector.
    pub fn release(&mut self, vector: Vector) {
        self.code.release(vector.0);
    }

    fn operand(&self, at: At<AsmRegister64>) -> AsmMemoryOperand {
        if self.zmm { zmmword_ptr(memory(at)) } else { ymmword_ptr(memory(at)) }
    }

    /// The low 32 bits of a general register in every lane.
    pub fn splat_register(&mut self, from: AsmRegister64) -> Vector {
        let to = self.take();
        emit!(self, vmovq, to.xmm(), from);
        match self.zmm {
            true => emit!(self, vpbroadcastd, to.zmm(), to.xmm()),
            false => emit!(self, vpbroadcastd, to.ymm(), to.xmm()),
        }
        to
    }

    /// `bits` in every lane.
    pub fn splat(&mut self, bits: u32) -> Vector {
        emit!(self, mov, rax, i64::from(bits));
        self.splat_register(rax)
    }

    /// Sixteen bytes in every part.
    pub fn splat_part(&mut self, bytes: [u8; 16]) -> Vector {
        let to = self.sixteen(bytes);
        match self.zmm {
            true => emit!(self, vshufi32x4, to.zmm(), to.zmm(), to.zmm(), 0),
            false => emit!(self, vinserti128, to.ymm(), to.ymm(), to.xmm(), 1),
        }
        to
    }

    /// Sixteen bytes in the first part; no data may stand in the text.
    fn sixteen(&mut self, bytes: [u8; 16]) -> Vector {
        let to = self.take();
        let halves = u128::from_le_bytes(bytes);
        emit!(self, mov, rax, halves as u64 as i64);
        emit!(self, vmovq, to.xmm(), rax);
        emit!(self, mov, rax, (halves >> 64) as u64 as i64);
        emit!(self, vpinsrq, to.xmm(), to.xmm(), rax, 1);
        to
    }

    /// Small numbers, one a lane.
    pub fn indices(&mut self, lanes: &[usize]) -> Vector {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(lanes).for_each(|(byte, &lane)| *byte = lane as u8);
        let to = self.sixteen(bytes);
        match self.zmm {
            true => emit!(self, vpmovzxbd, to.zmm(), to.xmm()),
            false => emit!(self, vpmovzxbd, to.ymm(), to.xmm()),
        }
        to
    }

    /// Floats over a divisor, as 32-bit integers: the quotient rounded to the nearest, ties to even; 0 for what is no number;
    /// `most` and more give at least `most`, what is far below gives a negative integer.
    pub fn round(&mut self, at: At<AsmRegister64>, divisor: Vector, most: Vector) -> Vector {
        let x = self.take();
        let from = self.operand(at);
        vector!(self, vmovups, x; from);
        vector!(self, vdivps, x, x, divisor);
        if self.zmm {
            // Ordered with itself: a number. Nothing else is left, and what is below 32 bits converts to their least.
            emit!(self, vcmpps, k1, x.zmm(), x.zmm(), 7);
            emit!(self, vminps, x.zmm().k1().z(), x.zmm(), most.zmm());
            emit!(self, vcvtps2dq, x.zmm(), x.zmm().rn_sae());
        } else {
            let number = self.take();
            emit!(self, vcmpps, number.ymm(), x.ymm(), x.ymm(), 7);
            emit!(self, vminps, x.ymm(), x.ymm(), most.ymm());
            emit!(self, vandps, x.ymm(), x.ymm(), number.ymm());
            emit!(self, vroundps, x.ymm(), x.ymm(), 0);
            emit!(self, vcvttps2dq, x.ymm(), x.ymm());
            self.release(number);
        }
        x
    }

    /// Narrows 32-bit lanes to 16 bits with saturation: `[a, b]` in each part. Releases `b`, unless it is `a`.
    pub fn pack_i16(&mut self, a: Vector, b: Vector) {
        vector!(self, vpackssdw, a, a, b);
        if a != b {
            self.release(b);
        }
    }

    /// Narrows 16-bit lanes to unsigned bytes with saturation: `[a, b]` in each part. Releases `b`, unless it is `a`.
    pub fn pack_bytes(&mut self, a: Vector, b: Vector) {
        vector!(self, vpackuswb, a, a, b);
        if a != b {
            self.release(b);
        }
    }

    /// `a + b` of 16-bit lanes with saturation.
    pub fn add_i16(&mut self, a: Vector, b: Vector) {
        vector!(self, vpaddsw, a, a, b);
    }

    /// The greater of unsigned bytes.
    pub fn max_bytes(&mut self, a: Vector, b: Vector) {
        vector!(self, vpmaxub, a, a, b);
    }

    /// The lesser of unsigned bytes.
    pub fn min_bytes(&mut self, a: Vector, b: Vector) {
        vector!(self, vpminub, a, a, b);
    }

    /// Bytes of each part in another order; an index of 128 and more gives 0.
    pub fn shuffle(&mut self, from: Vector, order: Vector) -> Vector {
        let to = self.take();
        vector!(self, vpshufb, to, from, order);
        to
    }

    /// 32-bit lanes in another order.
    pub fn permute(&mut self, vector: Vector, order: Vector) {
        vector!(self, vpermd, vector, order, vector);
    }

    /// Four by four 32-bit lanes of each part, transposed.
    pub fn transpose(&mut self, rows: [Vector; 4]) -> [Vector; 4] {
        let [a, b, c, d] = rows;
        let (low, high) = (self.take(), self.take());
        vector!(self, vpunpckldq, low, a, b);
        vector!(self, vpunpckhdq, a, a, b);
        vector!(self, vpunpckldq, high, c, d);
        vector!(self, vpunpckhdq, c, c, d);
        vector!(self, vpunpcklqdq, b, low, high);
        vector!(self, vpunpckhqdq, low, low, high);
        vector!(self, vpunpcklqdq, d, a, c);
        vector!(self, vpunpckhqdq, a, a, c);
        self.release(high);
        self.release(c);
        [b, low, d, a]
    }

    /// A vector whose part `i` is the 16 bytes at the `i`th address.
    pub fn gather_parts(&mut self, addresses: &[At<AsmRegister64>]) -> Vector {
        let to = self.take();
        for (part, &at) in addresses.iter().enumerate() {
            let from = xmmword_ptr(memory(at));
            match (self.zmm, part) {
                (_, 0) => emit!(self, vmovups, to.xmm(), from),
                (true, _) => emit!(self, vinserti32x4, to.zmm(), to.zmm(), from, part as i32),
                (false, _) => emit!(self, vinserti128, to.ymm(), to.ymm(), from, part as i32),
            }
        }
        to
    }

    /// Stores one part.
    pub fn store_part(&mut self, vector: Vector, part: usize, at: At<AsmRegister64>) {
        let to = xmmword_ptr(memory(at));
        match (self.zmm, part) {
            (_, 0) => emit!(self, vmovups, to, vector.xmm()),
            (true, _) => emit!(self, vextracti32x4, to, vector.zmm(), part as i32),
            (false, _) => emit!(self, vextracti128, to, vector.ymm(), part as i32),
        }
    }

    /// Stores the first `bytes` bytes: a multiple of 8, and more than 8.
    pub fn store_first(&mut self, vector: Vector, bytes: usize, at: At<AsmRegister64>) {
        if bytes == 16 * self.parts() {
            return self.store(vector, at);
        }
        for part in 0..bytes / 16 {
            self.store_part(vector, part, at.plus(16 * part));
        }
        if !bytes.is_multiple_of(16) {
            let (part, last) = (bytes / 16, self.take());
            match self.zmm {
                true => emit!(self, vextracti32x4, last.xmm(), vector.zmm(), part as i32),
                false => emit!(self, vextracti128, last.xmm(), vector.ymm(), part as i32),
            }
            emit!(self, vmovq, qword_ptr(memory(at.plus(16 * part))), last.xmm());
            self.release(last);
        }
    }

    /// Runs `aligned` if a pointer is a multiple of a vector's size, and `otherwise` if not. What `aligned` has streamed is in
    /// memory before anything that is stored after it.
    pub fn if_aligned(&mut self, pointer: AsmRegister64, aligned: Body<'_, Self>, otherwise: Body<'_, Self>) {
        let (mut even, mut end) = (self.code.asm.create_label(), self.code.asm.create_label());
        emit!(self, test, pointer, 16 * self.parts() as i32 - 1);
        emit!(self, je, even);
        otherwise(self);
        emit!(self, jmp, end);
        let result = self.code.asm.set_label(&mut even);
        self.code.note(result);
        aligned(self);
        emit!(self, sfence);
        let result = self.code.asm.set_label(&mut end);
        self.code.note(result);
    }

    /// Stores a vector past the caches, which need not fetch what is there: a multiple of a vector's size, and weakly ordered
    /// (see [`if_aligned`](Float::if_aligned)).
    pub fn stream(&mut self, vector: Vector, at: At<AsmRegister64>) {
        let to = self.operand(at);
        match self.zmm {
            true => emit!(self, vmovntps, to, vector.zmm()),
            false => emit!(self, vmovntps, to, vector.ymm()),
        }
    }

    /// Stores a vector.
    pub fn store(&mut self, vector: Vector, at: At<AsmRegister64>) {
        let to = self.operand(at);
        match self.zmm {
            true => emit!(self, vmovups, to, vector.zmm()),
            false => emit!(self, vmovups, to, vector.ymm()),
        }
    }

    /// Bytes from memory as 32-bit lanes, as many as a vector has.
    pub fn widen(&mut self, at: At<AsmRegister64>) -> Vector {
        let to = self.take();
        match self.zmm {
            true => emit!(self, vpmovzxbd, to.zmm(), xmmword_ptr(memory(at))),
            false => emit!(self, vpmovzxbd, to.ymm(), qword_ptr(memory(at))),
        }
        to
    }

    /// `(x - zero) * factor` of 32-bit integers, as floats.
    pub fn real(&mut self, x: Vector, zero: Option<Vector>, factor: Vector) {
        if let Some(zero) = zero {
            vector!(self, vpsubd, x, x, zero);
        }
        vector!(self, vcvtdq2ps, x, x);
        vector!(self, vmulps, x, x, factor);
    }

    /// `greatest := max(greatest, bits in memory & mask)` of unsigned 32-bit lanes.
    pub fn raise_magnitude(&mut self, greatest: Vector, mask: Vector, at: At<AsmRegister64>) {
        let (x, from) = (self.take(), self.operand(at));
        vector!(self, vandps, x, mask; from);
        self.raise(greatest, x);
    }

    /// `greatest := max(greatest, x)` of unsigned 32-bit lanes; releases `x`.
    pub fn raise(&mut self, greatest: Vector, x: Vector) {
        vector!(self, vpmaxud, greatest, greatest, x);
        self.release(x);
    }

    /// The greatest lane and the number in memory: the greater of the two into memory. Releases the vector.
    pub fn raise_memory(&mut self, greatest: Vector, at: At<AsmRegister64>) {
        let half = self.take();
        if self.zmm {
            emit!(self, vextracti64x4, half.ymm(), greatest.zmm(), 1);
            emit!(self, vpmaxud, greatest.ymm(), greatest.ymm(), half.ymm());
        }
        emit!(self, vextracti128, half.xmm(), greatest.ymm(), 1);
        emit!(self, vpmaxud, greatest.xmm(), greatest.xmm(), half.xmm());
        for order in [0b0100_1110, 0b1011_0001] {
            emit!(self, vpshufd, half.xmm(), greatest.xmm(), order);
            emit!(self, vpmaxud, greatest.xmm(), greatest.xmm(), half.xmm());
        }
        emit!(self, vmovd, half.xmm(), dword_ptr(memory(at)));
        emit!(self, vpmaxud, greatest.xmm(), greatest.xmm(), half.xmm());
        emit!(self, vmovd, dword_ptr(memory(at)), greatest.xmm());
        self.release(half);
        self.release(greatest);
    }

    /// The low 16 bits of a number in every 16-bit lane.
    pub fn splat_i16(&mut self, value: i16) -> Vector {
        let half = u32::from(value as u16);
        self.splat(half | half << 16)
    }

    /// A byte in every byte.
    pub fn splat_byte(&mut self, value: u8) -> Vector {
        self.splat(u32::from_le_bytes([value; 4]))
    }
}
