//! AVX-512 on 32-bit lanes whose shifts and multipliers are known at run time only, in the order of memory.

use iced_x86::code_asm::registers::{gpr32::eax, k::k1, k::k2};
use iced_x86::code_asm::{AsmRegister64, zmmword_ptr};
use qcc_num::requant::FRACTION_BITS;

use super::epilogue::{EVEN, indices, splat_i16};
use super::registers::{Avx512, Zmm};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::At;

impl Avx512 {
    /// Prepares [`Avx512::high_products`].
    pub(crate) fn set_even_lanes(&mut self) {
        emit!(self, mov, eax, EVEN);
        emit!(self, kmovw, k1, eax);
    }

    /// Sets how many lanes a load of a tail has.
    pub(crate) fn set_lanes_tail(&mut self, lanes: usize) {
        emit!(self, mov, eax, (1i32 << lanes) - 1);
        emit!(self, kmovw, k2, eax);
    }

    /// Sixteen numbers from memory, or those of the tail and zeros.
    pub(crate) fn load_i32_lanes(&mut self, at: At<AsmRegister64>, is_tail: bool) -> Zmm {
        let (to, from) = (self.take(), zmmword_ptr(memory(at)));
        match is_tail {
            true => emit!(self, vmovdqu32, to.zmm().k2().z(), from),
            false => emit!(self, vmovdqu32, to.zmm(), from),
        }
        to
    }

    /// A number in every 16-bit lane.
    pub(crate) fn splat_i16(&mut self, value: i16) -> Zmm {
        splat_i16(self, value as u16)
    }

    /// The odd lanes moved to the even ones.
    pub(crate) fn odd_lanes(&mut self, from: Zmm) -> Zmm {
        let to = self.take();
        emit!(self, vpsrlq, to.zmm(), from.zmm(), 32);
        to
    }

    /// `x := x << left >> right`, lane by lane.
    pub(crate) fn shift_lanes(&mut self, x: Zmm, left: Zmm, right: Zmm) {
        self.shift_left_lanes(x, left);
        emit!(self, vpsravd, x.zmm(), x.zmm(), right.zmm());
    }

    /// `x := x << left`, lane by lane.
    pub(crate) fn shift_left_lanes(&mut self, x: Zmm, left: Zmm) {
        emit!(self, vpsllvd, x.zmm(), x.zmm(), left.zmm());
    }

    /// The lesser, lane by lane.
    pub(crate) fn min_lanes(&mut self, x: Zmm, y: Zmm) {
        emit!(self, vpminsd, x.zmm(), x.zmm(), y.zmm());
    }

    /// The greater, lane by lane.
    pub(crate) fn max_lanes(&mut self, x: Zmm, y: Zmm) {
        emit!(self, vpmaxsd, x.zmm(), x.zmm(), y.zmm());
    }

    /// High halves of the 64-bit products with multipliers, of which `odd` are the odd ones. Releases `x`.
    pub(crate) fn high_products(&mut self, x: Zmm, mult: Zmm, odd: Zmm) -> Zmm {
        let high = self.odd_lanes(x);
        emit!(self, vpmuldq, x.zmm(), x.zmm(), mult.zmm());
        emit!(self, vpmuldq, high.zmm(), high.zmm(), odd.zmm());
        emit!(self, vpshufd, high.zmm().k1(), x.zmm(), 0xF5);
        self.code.release(x.number());
        high
    }

    /// The order of [`Avx512::narrow_natural`].
    pub(crate) fn natural_order(&mut self) -> Zmm {
        indices(self, std::array::from_fn(|i| (4 * (i % 4) + i / 4) as u8))
    }

    /// Equations (3) and (4) of [`qcc_num::requant`], without limits of their own, on up to four vectors in the order of memory: one
    /// vector of bytes in that order. Releases the vectors.
    pub(crate) fn narrow_natural(&mut self, vectors: &[Zmm], offset: Zmm, order: Zmm) -> Zmm {
        let mut halves = Vec::new();
        for pair in vectors.chunks(2) {
            let (low, high) = (pair[0], pair[pair.len() - 1]);
            emit!(self, vpackssdw, low.zmm(), low.zmm(), high.zmm());
            if high != low {
                self.code.release(high.number());
            }
            emit!(self, vpaddsw, low.zmm(), low.zmm(), offset.zmm());
            emit!(self, vpsraw, low.zmm(), low.zmm(), FRACTION_BITS as i32);
            halves.push(low);
        }
        let (bytes, last) = (halves[0], halves[halves.len() - 1]);
        emit!(self, vpackuswb, bytes.zmm(), bytes.zmm(), last.zmm());
        if last != bytes {
            self.code.release(last.number());
        }
        emit!(self, vpermd, bytes.zmm(), order.zmm(), bytes.zmm());
        bytes
    }
}
