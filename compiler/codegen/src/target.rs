//! What the code is made for.

use std::str::FromStr;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use qcc_ir::{Diag, diag::Code};
use qcc_runtime::CpuFeatures;

use crate::machine::Shape;

/// Instruction set of the compiled model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// x86-64 with SSE4.2: every such CPU since 2009.
    X86V2,
    /// x86-64 with AVX2.
    X86V3,
    /// x86-64 with AVX-512 F, BW, DQ, VL; without VNNI.
    X86V4,
    /// x86-64-v4 with AVX-512-VNNI: the wide kernels.
    X86V4Vnni,
    /// 64-bit Arm with NEON.
    Aarch64,
}

/// Who makes the kernels of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Cranelift, with 128-bit vectors.
    Clif,
    /// [`crate::machine::Avx2`].
    Avx2,
    /// [`crate::machine::Avx512`].
    Avx512,
}

impl Backend {
    /// The numbers of its machine.
    pub fn shape(self) -> &'static Shape {
        match self {
            Backend::Clif => &Shape::CLIF,
            Backend::Avx2 => &Shape::AVX2,
            Backend::Avx512 => &Shape::AVX512,
        }
    }
}

/// A target: its level, and whether the wide kernels are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Instruction set.
    pub level: Level,
    /// Whether the wide kernels are used where the level has them; without, everything is Cranelift's.
    pub wide: bool,
}

/// All levels with their names, the least demanding first.
pub const LEVELS: &[(Level, &str)] = &[
    (Level::X86V2, "x86-64-v2"),
    (Level::X86V3, "x86-64-v3"),
    (Level::X86V4, "x86-64-v4"),
    (Level::X86V4Vnni, "x86-64-v4-vnni"),
    (Level::Aarch64, "aarch64"),
];

impl Target {
    /// The best target that runs on this CPU.
    pub fn native() -> Target {
        let runs = |l: &&(Level, &str)| Target { level: l.0, wide: true }.runs_here();
        let level = LEVELS.iter().rev().find(runs).map_or(Level::X86V2, |l| l.0);
        Target { level, wide: true }
    }

    /// Every target that runs on this CPU: all that tests have to agree on.
    pub fn all_runnable() -> Vec<Target> {
        let levels = LEVELS.iter().map(|l| l.0).filter(|&level| Target { level, wide: true }.runs_here());
        let both = levels.flat_map(|level| [false, true].map(|wide| Target { level, wide }));
        both.filter(|t| !t.wide || t.backend() != Backend::Clif).collect()
    }

    /// True if this CPU has all that the target needs.
    pub fn runs_here(&self) -> bool {
        let same_arch = (self.level == Level::Aarch64) == cfg!(target_arch = "aarch64");
        same_arch && CpuFeatures::detect().contains(self.features())
    }

    /// The back end of products.
    pub fn backend(&self) -> Backend {
        match self.level {
            Level::X86V4Vnni if self.wide => Backend::Avx512,
            Level::X86V3 | Level::X86V4 if self.wide => Backend::Avx2,
            _ => Backend::Clif,
        }
    }

    /// True if other steps than products, too, have kernels beyond Cranelift's vectors.
    pub fn has_wide_kernels(&self) -> bool {
        self.backend() == Backend::Avx512
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
        let v4 = ["has_avx512f", "has_avx512dq", "has_avx512vl"];
        let mut all = Vec::new();
        if self.level == Level::Aarch64 {
            return all;
        }
        all.extend(v2);
        if self.level >= Level::X86V3 {
            all.extend(v3);
        }
        if self.level >= Level::X86V4 {
            all.extend(v4);
        }
        if self.level == Level::X86V4Vnni {
            all.push("has_avx512vnni");
        }
        all
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
                .map(|&(level, _)| Target { level, wide: true })
                .ok_or_else(|| {
                    let names: Vec<_> = LEVELS.iter().map(|l| l.1).collect();
                    Diag::new(Code::TARGET, format!("unknown target `{name}`"))
                        .help(format!("use native, {}", names.join(", ")))
                }),
        }
    }
}
