//! A function for AVX2 in the making: its registers, its frame, and the dot.

use iced_x86::code_asm::registers::{gpr64::rsp, xmm, ymm};
use iced_x86::code_asm::{AsmMemoryOperand, AsmRegister64, AsmRegisterXmm, AsmRegisterYmm, ymmword_ptr};
use iced_x86::{IcedError, Register};
use qcc_num::requant::Epilogue;

use crate::machine::code::{Code, Coded, emit, memory};
use crate::machine::shape::VectorShape;
use crate::machine::vector_machine::At;

/// Bytes of a vector.
pub(super) const BYTES: usize = 32;
/// Vectors of the frame that hold constants: see [`super::epilogue`].
pub(super) const CONSTANTS: usize = 4;
/// Vectors of the frame for a pixel's 16-bit activations of one loop body.
pub(super) const STAGED: usize = 2 * VectorShape::AVX2.dot_depth() * VectorShape::AVX2.unroll / BYTES;
/// Vectors of the frame behind the constants: the 16-bit activations of each pixel of a tile, or [`ONES`] and partial sums.
const WORK: usize = STAGED * VectorShape::AVX2.accumulators;
/// Vector of the frame with 1 in each 16-bit lane; the partial sums of a tile follow.
pub(super) const ONES: usize = CONSTANTS;
const _: () = assert!(VectorShape::AVX2_I16_SUMS.accumulators < WORK);
/// Bytes of the frame.
const FRAME: usize = (CONSTANTS + WORK) * BYTES;
/// Registers that a dot of 16-bit pairs needs beside accumulators and weights: a broadcast and the products.
pub(super) const I16_SCRATCH: u32 = 2;

/// How a machine multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dot {
    /// `vpmaddwd` and `vpaddd`: AVX2.
    I16Pairs,
    /// `vpmaddubsw`, whose sums are widened by `vpmaddwd`: AVX2, for weights that leave no sum beyond 16 bits.
    I16Sums,
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
    /// Bytes that lie in the frame as 16-bit numbers, and where.
    pub(super) staged: Vec<(At<AsmRegister64>, usize, usize)>,
    /// The table of codes and the mask of one.
    pub(super) codes: Option<[Ymm; 2]>,
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
        let mut machine = Avx2 { code, dot, tail: 0, prepared: None, staged: Vec::new(), codes: None };
        if dot == Dot::I16Sums {
            let ones = machine.take();
            emit!(machine, vpcmpeqw, ones.ymm(), ones.ymm(), ones.ymm());
            emit!(machine, vpsrlw, ones.ymm(), ones.ymm(), 15);
            emit!(machine, vmovdqa, ymmword_ptr(frame(ONES, 0)), ones.ymm());
            machine.give(ones);
        }
        Ok(machine)
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
        if self.dot == Dot::I16Pairs {
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
        if self.dot == Dot::I16Sums {
            let product = self.byte_products(activations, weights);
            emit!(self, vpmaddwd, product.ymm(), product.ymm(), ymmword_ptr(frame(ONES, 0)));
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

    /// Products of bytes, summed in pairs.
    pub(super) fn byte_products(&mut self, activations: Ymm, weights: Vector) -> Ymm {
        let product = self.take();
        match weights {
            Vector::Register(weights) => {
                emit!(self, vpmaddubsw, product.ymm(), activations.ymm(), Ymm(weights).ymm());
            }
            Vector::Memory(at) => {
                emit!(self, vpmaddubsw, product.ymm(), activations.ymm(), ymmword_ptr(memory(at)));
            }
        }
        product
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
