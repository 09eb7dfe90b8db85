//! Equation (15) of [`qcc_num::requant_f32`] in AVX2, before its clamp and zero point.
//!
//! Four products of 64 bits a vector. Of `d` only the bits are exact that matter between 1/2 and 2^15 units; beyond, results
//! are 0 or saturate whatever it is. The greatest bit is what is left of a number whose bits have been smeared downwards when
//! the same, moved down by one, is taken out.

use iced_x86::code_asm::{AsmRegister64, ymmword_ptr};

use super::registers::{Avx2, Ymm};
use crate::machine::code::{emit, memory};
use crate::machine::vector_machine::At;

/// Bytes of a vector.
const BYTES: usize = 32;
/// Moves high halves of 64-bit lanes to both halves.
const HIGH: i32 = 0xF5;

/// The integers `r` of shifted accumulators, in the order of the lanes; releases the accumulators. At `mult` lie the
/// multipliers and after them those of the odd lanes in even lanes.
pub(super) fn round(m: &mut Avx2, acc: Ymm, mult: At<AsmRegister64>, point: i32) -> Ymm {
    let high = m.take();
    emit!(m, vpsrlq, high.ymm(), acc.ymm(), 32);
    emit!(m, vpmuldq, acc.ymm(), acc.ymm(), ymmword_ptr(memory(mult)));
    emit!(m, vpmuldq, high.ymm(), high.ymm(), ymmword_ptr(memory(mult.plus(BYTES))));
    let (d, other) = (m.take(), m.take());
    for product in [acc, high] {
        move_ties(m, product, (d, other), point);
    }
    // The high halves of the even products come down; those of the odd ones are where they belong.
    emit!(m, vpshufd, acc.ymm(), acc.ymm(), HIGH);
    emit!(m, vpblendd, high.ymm(), acc.ymm(), high.ymm(), 0xAA);
    emit!(m, vpcmpeqd, d.ymm(), d.ymm(), d.ymm());
    emit!(m, vpsrld, d.ymm(), d.ymm(), 31);
    if point > 33 {
        emit!(m, vpslld, d.ymm(), d.ymm(), point - 33);
    }
    emit!(m, vpaddd, high.ymm(), high.ymm(), d.ymm());
    emit!(m, vpsrad, high.ymm(), high.ymm(), point - 32);
    [acc, d, other].into_iter().for_each(|register| m.give(register));
    high
}

/// Adds `e` of (15) to products.
fn move_ties(m: &mut Avx2, product: Ymm, (d, other): (Ymm, Ymm), point: i32) {
    emit!(m, vpsrad, other.ymm(), product.ymm(), 31);
    emit!(m, vpshufd, other.ymm(), other.ymm(), HIGH);
    emit!(m, vpxor, d.ymm(), product.ymm(), other.ymm());
    emit!(m, vpsrlq, d.ymm(), d.ymm(), point - 1);
    for shift in [1, 2, 4, 8] {
        emit!(m, vpsrlq, other.ymm(), d.ymm(), shift);
        emit!(m, vpor, d.ymm(), d.ymm(), other.ymm());
    }
    emit!(m, vpsrlq, other.ymm(), d.ymm(), 1);
    emit!(m, vpxor, d.ymm(), d.ymm(), other.ymm());
    emit!(m, vpsllq, d.ymm(), d.ymm(), point - 25);
    // All ones where the floor is odd.
    emit!(m, vpsllq, other.ymm(), product.ymm(), 63 - point);
    emit!(m, vpsrad, other.ymm(), other.ymm(), 31);
    emit!(m, vpshufd, other.ymm(), other.ymm(), HIGH);
    emit!(m, vpxor, d.ymm(), d.ymm(), other.ymm());
    // `p + !x = p - x - 1`
    emit!(m, vpsubq, product.ymm(), product.ymm(), d.ymm());
    emit!(m, vpcmpeqd, other.ymm(), other.ymm(), other.ymm());
    emit!(m, vpaddq, product.ymm(), product.ymm(), other.ymm());
}
