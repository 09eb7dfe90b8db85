//! CPU features that compiled code may need, as a set that fits the model's description.

use std::fmt;

/// A set of instruction set extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CpuFeatures(u64);

/// Declares the features: constant, bit, name, and how the running CPU is asked on which architecture.
macro_rules! features {
    ($($constant:ident = $bit:literal $name:literal ($arch:literal);)*) => {
        impl CpuFeatures {
            $(#[doc = concat!("`", $name, "` (", $arch, ").")]
            pub const $constant: CpuFeatures = CpuFeatures(1 << $bit);)*
        }

        /// Every feature with its name and architecture, in the order of its bit.
        pub const FEATURES: &[(CpuFeatures, &str, &str)] = &[$((CpuFeatures::$constant, $name, $arch)),*];
    };
}

features! {
    SSSE3 = 0 "ssse3" ("x86_64");
    SSE41 = 1 "sse4.1" ("x86_64");
    SSE42 = 2 "sse4.2" ("x86_64");
    POPCNT = 3 "popcnt" ("x86_64");
    AVX = 4 "avx" ("x86_64");
    AVX2 = 5 "avx2" ("x86_64");
    BMI1 = 6 "bmi1" ("x86_64");
    BMI2 = 7 "bmi2" ("x86_64");
    LZCNT = 8 "lzcnt" ("x86_64");
    FMA = 9 "fma" ("x86_64");
    AVX512F = 10 "avx512f" ("x86_64");
    AVX512BW = 11 "avx512bw" ("x86_64");
    AVX512DQ = 12 "avx512dq" ("x86_64");
    AVX512VL = 13 "avx512vl" ("x86_64");
    AVX512VNNI = 14 "avx512vnni" ("x86_64");
    AVX512VBMI = 15 "avx512vbmi" ("x86_64");
    AVXVNNI = 16 "avxvnni" ("x86_64");
    NEON = 32 "neon" ("aarch64");
    DOTPROD = 33 "dotprod" ("aarch64");
    I8MM = 34 "i8mm" ("aarch64");
}

impl CpuFeatures {
    /// No feature beyond the architecture's baseline.
    pub const NONE: CpuFeatures = CpuFeatures(0);

    /// The set with these bits, which may include bits unknown to this version.
    pub const fn from_bits(bits: u64) -> Self {
        CpuFeatures(bits)
    }

    /// The bits as stored in a model.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Features of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        CpuFeatures(self.0 | other.0)
    }

    /// Features of `self` that `other` lacks.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        CpuFeatures(self.0 & !other.0)
    }

    /// True if every feature of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// True for the empty set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The feature of this name, as in [`FEATURES`].
    pub fn by_name(name: &str) -> Option<Self> {
        FEATURES.iter().find(|(_, n, _)| *n == name).map(|(f, _, _)| *f)
    }

    /// Features of the CPU that runs this function, as far as the operating system lets programs use them.
    pub fn detect() -> Self {
        detect()
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> CpuFeatures {
    use std::arch::is_x86_feature_detected as has;
    type F = CpuFeatures;
    [
        (F::SSSE3, has!("ssse3")),
        (F::SSE41, has!("sse4.1")),
        (F::SSE42, has!("sse4.2")),
        (F::POPCNT, has!("popcnt")),
        (F::AVX, has!("avx")),
        (F::AVX2, has!("avx2")),
        (F::BMI1, has!("bmi1")),
        (F::BMI2, has!("bmi2")),
        (F::LZCNT, has!("lzcnt")),
        (F::FMA, has!("fma")),
        (F::AVX512F, has!("avx512f")),
        (F::AVX512BW, has!("avx512bw")),
        (F::AVX512DQ, has!("avx512dq")),
        (F::AVX512VL, has!("avx512vl")),
        (F::AVX512VNNI, has!("avx512vnni")),
        (F::AVX512VBMI, has!("avx512vbmi")),
        (F::AVXVNNI, has!("avxvnni")),
    ]
    .into_iter()
    .filter(|(_, present)| *present)
    .fold(F::NONE, |set, (feature, _)| set.union(feature))
}

#[cfg(target_arch = "aarch64")]
fn detect() -> CpuFeatures {
    use std::arch::is_aarch64_feature_detected as has;
    type F = CpuFeatures;
    [(F::NEON, has!("neon")), (F::DOTPROD, has!("dotprod")), (F::I8MM, has!("i8mm"))]
        .into_iter()
        .filter(|(_, present)| *present)
        .fold(F::NONE, |set, (feature, _)| set.union(feature))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> CpuFeatures {
    CpuFeatures::NONE
}

/// Names separated by commas; bits without a name as `bit N`.
impl fmt::Display for CpuFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for bit in (0..u64::BITS).filter(|bit| self.0 >> bit & 1 == 1) {
            f.write_str(std::mem::replace(&mut separator, ", "))?;
            match FEATURES.iter().find(|(feature, _, _)| feature.0 == 1 << bit) {
                Some((_, name, _)) => f.write_str(name)?,
                None => write!(f, "bit {bit}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_one_to_one() {
        for (feature, name, _) in FEATURES {
            assert_eq!(feature.bits().count_ones(), 1, "{name}");
            assert_eq!(CpuFeatures::by_name(name), Some(*feature));
            assert_eq!(feature.to_string(), *name);
        }
        let set = CpuFeatures::AVX2.union(CpuFeatures::from_bits(1 << 63));
        assert_eq!(set.to_string(), "avx2, bit 63");
        assert_eq!(set.minus(CpuFeatures::AVX2).to_string(), "bit 63");
        assert_eq!(CpuFeatures::NONE.to_string(), "none");
    }

    #[test]
    fn only_features_of_this_architecture_are_detected() {
        for (feature, name, arch) in FEATURES {
            let absent = !CpuFeatures::detect().contains(*feature);
            assert!(absent || *arch == std::env::consts::ARCH, "{name}");
        }
    }
}
