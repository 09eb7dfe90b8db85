//! A function for AVX-512 in the making, and its registers.

use iced_x86::Register;
use iced_x86::code_asm::registers::{xmm, ymm, zmm};
use iced_x86::code_asm::{AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm, CodeLabel};

use crate::machine::code::{Code, Coded};

/// A function in the making.
pub struct Avx512 {
    pub(super) code: Code,
    pub(super) routine: Option<Routine>,
    /// 1 in each 16-bit lane, where products are summed in 16 bits.
    pub(super) ones: Option<Zmm>,
    /// The table of codes and the mask of one.
    pub(super) codes: Option<[Zmm; 2]>,
}

/// A zmm register by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zmm(u8);

/// The routine behind the function.
pub(super) struct Routine {
    pub(super) entry: CodeLabel,
    pub(super) point: u32,
}

impl Avx512 {
    /// A free register.
    ///
    /// # Panics
    /// If there is none: the tile was chosen for more registers than [`VectorShape::AVX512`] has.
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
