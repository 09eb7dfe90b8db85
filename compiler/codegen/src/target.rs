//! What the code is made for.

use std::fmt;
use std::str::FromStr;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use qcc_ir::{Diag, diag::Code};
use qcc_runtime::CpuFeatures;

use crate::machine::{Dot, VectorShape};

/// Instruction set of the compiled model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// x86-64 with SSE4.2: every such CPU since 2009.
    X86V2,
    /// x86-64 with AVX2.
    X86V3,
    /// x86-64-v3 with AVX-VNNI: Alder Lake and later, Zen 5.
    X86V3Vnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL; without VNNI.
    X86V4,
    /// x86-64-v4 with AVX-512-VNNI: the wide kernels.
    X86V4Vnni,
    /// 64-bit Arm with NEON.
    Aarch64,
}

/// Who makes the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Cranelift, with 128-bit vectors.
    Clif,
    /// [`crate::machine::Avx2`].
    Ymm(Dot),
    /// [`crate::machine::Avx512`] with VNNI.
    Avx512,
    /// [`crate::machine::Avx512`] with BW alone: sums of 16 bits.
    Avx512I16Sums,
}

impl Backend {
    /// The numbers of its machine.
    pub fn shape(self) -> &'static VectorShape {
        match self {
            Backend::Clif => &VectorShape::CLIF,
            Backend::Ymm(Dot::I16Pairs) => &VectorShape::AVX2,
            Backend::Ymm(Dot::Vex | Dot::Evex) => &VectorShape::AVX_VNNI,
            Backend::Ymm(Dot::I16Sums) => &VectorShape::AVX2_I16_SUMS,
            Backend::Avx512 => &VectorShape::AVX512,
            Backend::Avx512I16Sums => &VectorShape::AVX512_I16_SUMS,
        }
    }
}

/// How wide the vectors of kernels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vectors {
    /// 128 bits: everything is Cranelift's.
    V128,
    /// At most 256 bits.
    V256,
    /// As wide as the level has them.
    Widest,
}

/// As the command takes it.
impl fmt::Display for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Vectors::V128 => "128",
            Vectors::V256 => "256",
            Vectors::Widest => "widest",
        })
    }
}

impl FromStr for Vectors {
    type Err = Diag;

    fn from_str(name: &str) -> Result<Vectors, Diag> {
        let all = [Vectors::V128, Vectors::V256, Vectors::Widest];
        all.into_iter().find(|vectors| vectors.to_string() == name).ok_or_else(|| {
            Diag::new(Code::TARGET, format!("unknown width of vectors `{name}`")).help("use 128, 256 or widest")
        })
    }
}

/// A target: its level, and how much of it kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Instruction set.
    pub level: Level,
    /// Vectors of kernels.
    pub vectors: Vectors,
}

/// All levels with their names, the least demanding first.
pub const LEVELS: &[(Level, &str)] = &[
    (Level::X86V2, "x86-64-v2"),
    (Level::X86V3, "x86-64-v3"),
    (Level::X86V3Vnni, "x86-64-v3-vnni"),
    (Level::X86V4, "x86-64-v4"),
    (Level::X86V4Vnni, "x86-64-v4-vnni"),
    (Level::Aarch64, "aarch64"),
];

impl Target {
    /// A level with its widest vectors.
    pub const fn of(level: Level) -> Target {
        Target { level, vectors: Vectors::Widest }
    }

    /// The best target that runs on this CPU.
    pub fn native() -> Target {
        let runs = |level: &Level| Target::of(*level).runs_here();
        Target::of(LEVELS.iter().rev().map(|l| l.0).find(runs).unwrap_or(Level::X86V2))
    }

    /// The level that needs exactly these CPU features.
    pub fn with_features(features: CpuFeatures) -> Option<Target> {
        LEVELS.iter().map(|l| Target::of(l.0)).find(|target| target.features() == features)
    }

    /// Every target that runs on this CPU: all that tests have to agree on. Of the widths of a level, those that differ.
    pub fn all_runnable() -> Vec<Target> {
        let levels = LEVELS.iter().map(|l| l.0).filter(|&level| Target::of(level).runs_here());
        let all = levels.flat_map(|level| {
            let mut widths =
                [Vectors::V128, Vectors::V256, Vectors::Widest].map(|vectors| Target { level, vectors }).to_vec();
            widths.dedup_by_key(|target| (target.backend(), target.i16_sums_backend()));
            widths
        });
        all.collect()
    }

    /// True if this CPU has all that the target needs.
    pub fn runs_here(&self) -> bool {
        let same_arch = (self.level == Level::Aarch64) == cfg!(target_arch = "aarch64");
        same_arch && CpuFeatures::detect().contains(self.features())
    }

    /// The back end of kernels.
    pub fn backend(&self) -> Backend {
        match (self.level, self.vectors) {
            (Level::X86V2 | Level::Aarch64, _) | (_, Vectors::V128) => Backend::Clif,
            (Level::X86V3 | Level::X86V4, _) => Backend::Ymm(Dot::I16Pairs),
            (Level::X86V3Vnni, _) => Backend::Ymm(Dot::Vex),
            (Level::X86V4Vnni, Vectors::V256) => Backend::Ymm(Dot::Evex),
            (Level::X86V4Vnni, Vectors::Widest) => Backend::Avx512,
        }
    }

    /// The back end of microkernels that sum products in 16 bits, where there is no dot of bytes.
    pub fn i16_sums_backend(&self) -> Option<Backend> {
        match (self.level, self.vectors) {
            (Level::X86V4, Vectors::Widest) => Some(Backend::Avx512I16Sums),
            (Level::X86V3 | Level::X86V4, Vectors::V256 | Vectors::Widest) => Some(Backend::Ymm(Dot::I16Sums)),
            _ => None,
        }
    }

    /// The machine of fast inner products, where multiplications of 16-bit pairs are what products wait for.
    pub fn fast_inner_shape(&self) -> Option<&'static VectorShape> {
        (self.level == Level::X86V3 && self.has_vector_kernels()).then_some(&VectorShape::AVX2_FAST_INNER)
    }

    /// True if other steps than products, too, have kernels beyond Cranelift's vectors.
    pub fn has_vector_kernels(&self) -> bool {
        self.backend() != Backend::Clif
    }

    /// CPU features that the code needs.
    pub fn features(&self) -> CpuFeatures {
        type F = CpuFeatures;
        let all = |set: &[F]| set.iter().fold(F::NONE, |a, &b| a.union(b));
        let v2 = all(&[F::SSSE3, F::SSE41, F::SSE42, F::POPCNT]);
        let v3 = all(&[v2, F::AVX, F::AVX2, F::BMI1, F::BMI2]);
        let v4 = all(&[v3, F::AVX512F, F::AVX512BW, F::AVX512DQ, F::AVX512VL]);
        match self.level {
            Level::X86V2 => v2,
            Level::X86V3 => v3,
            Level::X86V3Vnni => v3.union(F::AVXVNNI),
            Level::X86V4 => v4,
            Level::X86V4Vnni => v4.union(F::AVX512VNNI),
            Level::Aarch64 => F::NEON,
        }
    }

    /// Name as the command takes it.
    pub fn name(&self) -> &'static str {
        LEVELS.iter().find(|l| l.0 == self.level).map_or("", |l| l.1)
    }

    /// Cranelift's description of the target.
    pub fn isa(&self) -> Result<OwnedTargetIsa, Diag> {
        let fail = |e: &dyn std::fmt::Display| Diag::new(Code::TARGET, format!("target `{}`: {e}", self.name()));
        let mut flags = settings::builder();
        let common = [
            ("opt_level", "speed"),
            ("is_pic", "false"),
            ("use_colocated_libcalls", "false"),
            ("enable_verifier", "false"),
        ];
        // The verifier stays on where debug assertions are.
        for (name, value) in common.into_iter().chain(cfg!(debug_assertions).then_some(("enable_verifier", "true"))) {
            flags.set(name, value).map_err(|e| fail(&e))?;
        }
        let triple =
            if self.level == Level::Aarch64 { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
        let triple = target_lexicon::Triple::from_str(triple).map_err(|e| fail(&e))?;
        let mut builder = isa::lookup(triple).map_err(|e| fail(&e))?;
        for feature in self.cranelift_features() {
            builder.enable(feature).map_err(|e| fail(&e))?;
        }
        builder.finish(settings::Flags::new(flags)).map_err(|e| fail(&e))
    }

    fn cranelift_features(&self) -> Vec<&'static str> {
        let v2 = ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
        let v3 = ["has_avx", "has_avx2", "has_bmi1", "has_bmi2"];
        // Without AVX512DQ: its 64-bit product takes the place of the product of extended 32-bit numbers and three times as long.
        let v4 = ["has_avx512f", "has_avx512vl"];
        match self.level {
            Level::X86V2 => v2.to_vec(),
            Level::X86V3 => [&v2[..], &v3].concat(),
            Level::X86V3Vnni => [&v2[..], &v3, &["has_avx_vnni"]].concat(),
            Level::X86V4 => [&v2[..], &v3, &v4].concat(),
            Level::X86V4Vnni => [&v2[..], &v3, &v4, &["has_avx512vnni"]].concat(),
            Level::Aarch64 => Vec::new(),
        }
    }
}

/// The name, and the width where it is not the widest.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.vectors {
            Vectors::Widest => Ok(()),
            Vectors::V128 | Vectors::V256 => write!(f, "-{}", self.vectors),
        }
    }
}

impl FromStr for Target {
    type Err = Diag;

    fn from_str(name: &str) -> Result<Target, Diag> {
        let short = |l: &str| l.strip_prefix("x86-64-").map(str::to_string);
        match name {
            "native" => Ok(Target::native()),
            _ => LEVELS
                .iter()
                .find(|(_, l)| *l == name || short(l).as_deref() == Some(name))
                .map(|&(level, _)| Target::of(level))
                .ok_or_else(|| {
                    let names: Vec<_> = LEVELS.iter().map(|l| l.1).collect();
                    Diag::new(Code::TARGET, format!("unknown target `{name}`"))
                        .help(format!("use native, {}", names.join(", ")))
                }),
        }
    }
}
