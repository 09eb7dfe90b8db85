//! What a compiled model claims of itself in its manifest, compared with the file and with itself: nothing of the compilation is needed.
//!
//! | claim | what is computed anew here | what is taken from the manifest |
//! |---|---|---|
//! | memory | every buffer lies within the scratch memory that the description asks for, with the bytes behind it that kernels may read, and two that are alive at the same step share nothing | places and lives of the buffers |
//! | accumulators | whether a sum of so many products of bytes and a bias fits 32 bits whatever the weights are; else whether the bounds that the compiler found in the weights do | number of products, bias, bounds |
//! | requantization | that factors, shifts and offsets lie where equations (1) to (4) of `docs/math.md` are defined, and results in bytes | these numbers |
//!
//! That the code keeps to these buffers follows from the bounds of its loops, which are constants; it is tested between guard pages
//! (`tests/hosts`), not proved here.

use std::collections::{BTreeMap, BTreeSet};

use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};
use qcc_runtime::abi::symbol;
use qcc_runtime::manifest::{BufferSpan, Term};
use qcc_runtime::{Manifest, ModelInfo};

use super::contents::parse;
use super::report::CheckError;
use crate::plan::SLACK;

/// Faults that are kept.
const MOST_FAULTS: usize = 100;

/// What was found of a model's claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Bytes of scratch memory of a call.
    pub scratch_bytes: u64,
    /// Buffers in it.
    pub buffers: usize,
    /// Sums in 32 bits, in the order in which they are computed.
    pub sums: Vec<SumClaim>,
    /// Requantizations.
    pub requantizations: usize,
    /// Whatever does not hold.
    pub faults: Vec<String>,
}

/// The sums of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumClaim {
    /// Value that is computed from them.
    pub name: String,
    /// Products, or elements, of one sum.
    pub terms: u64,
    /// Least and greatest sum for any input, with the weights that the model has.
    pub bounds: (i64, i64),
    /// Bits by which these could grow within 32.
    pub margin: Option<u32>,
    /// The same for any weights and inputs of 8 bits, from the number of products and the bias alone; `None` if the weights are needed.
    pub margin_of_any_weights: Option<u32>,
}

/// Bits by which both ends could grow within 32 bits; `None` if they do not fit.
pub fn margin(low: i64, high: i64) -> Option<u32> {
    i32::try_from(low).and(i32::try_from(high)).ok()?;
    let magnitude = high.max(-(low + 1)).max(0).unsigned_abs();
    Some(magnitude.leading_zeros() - 33)
}

/// The manifest of a compiled model, if it has one.
pub fn manifest(file: &[u8]) -> Result<Option<Manifest>, CheckError> {
    let elf = parse(file)?;
    let Some(section) = data(&elf, symbol::MANIFEST) else { return Ok(None) };
    Manifest::from_section(section).map(Some).map_err(|e| damaged(&format!("the manifest ({e})")))
}

fn damaged(what: &str) -> CheckError {
    CheckError::Elf(format!("{what} cannot be read"))
}

/// Reads and checks the claims of a compiled model; `None` for one without a manifest.
pub fn claims(file: &[u8]) -> Result<Option<Claims>, CheckError> {
    let elf = parse(file)?;
    let Some(manifest) = manifest(file)? else { return Ok(None) };
    let info = data(&elf, symbol::DESCRIPTION).ok_or_else(|| damaged("the description"))?;
    let info = ModelInfo::decode(info).map_err(|e| damaged(&format!("the description ({e})")))?;
    let mut claims = Claims { scratch_bytes: info.scratch_bytes, ..Claims::default() };
    claims.memory(&manifest);
    claims.check_sums(&manifest);
    claims.requantize(&manifest);
    Ok(Some(claims))
}

/// The bytes from a symbol of constants on, up to the end of its section.
fn data<'d>(elf: &ElfFile64<'d, Endianness>, name: &str) -> Option<&'d [u8]> {
    let symbol = elf.symbols().chain(elf.dynamic_symbols()).find(|s| s.is_definition() && s.name() == Ok(name))?;
    let section = elf.section_by_index(symbol.section_index()?).ok()?;
    let start = usize::try_from(symbol.address().checked_sub(section.address())?).ok()?;
    section.data().ok()?.get(start..)
}

impl Claims {
    /// Notes what does not hold; a file that lies everywhere is told the first hundred.
    fn fault(&mut self, what: String) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(what);
        }
    }

    /// Buffers within the scratch memory, and apart from each other: in the order in which they begin to live, each is compared with its
    /// neighbours among those that are alive, which are apart.
    fn memory(&mut self, manifest: &Manifest) {
        self.buffers = manifest.buffers.len();
        let of = self.scratch_bytes;
        let mut buffers: Vec<_> = manifest.buffers.iter().filter(|b| b.bytes > 0).collect();
        buffers.sort_by_key(|b| (b.first, b.offset));
        let mut alive: BTreeMap<u64, &BufferSpan> = BTreeMap::new();
        let mut ends: BTreeSet<(u32, u64)> = BTreeSet::new();
        for buffer in buffers {
            let end = buffer.offset.saturating_add(buffer.bytes);
            if end.saturating_add(SLACK as u64) > of || buffer.first > buffer.last {
                let (first, last) = (buffer.first, buffer.last);
                self.fault(format!(
                    "the buffer `{}` of steps {first} to {last} ends at byte {end} of {of} bytes of scratch memory",
                    buffer.name
                ));
                continue;
            }
            while let Some(&(last, offset)) = ends.first().filter(|e| e.0 < buffer.first) {
                ends.remove(&(last, offset));
                alive.remove(&offset);
            }
            let before =
                alive.range(..=buffer.offset).next_back().filter(|b| b.0.saturating_add(b.1.bytes) > buffer.offset);
            let behind = alive.range(buffer.offset..).next().filter(|b| *b.0 < end);
            if let Some((_, other)) = before.or(behind) {
                let what =
                    format!("the buffers `{}` and `{}` share memory while both are alive", other.name, buffer.name);
                self.fault(what);
                continue;
            }
            alive.insert(buffer.offset, buffer);
            ends.insert((buffer.last, buffer.offset));
        }
    }

    /// Sums within 32 bits.
    fn check_sums(&mut self, manifest: &Manifest) {
        for sum in &manifest.accumulators {
            let bounds = (sum.low, sum.high);
            let (least, greatest) = match Term::try_from(sum.term) {
                Ok(Term::WeightedCode) => (-255 * 128, 255 * 127),
                Ok(Term::Product) => (-255 * 255, 255 * 255),
                Ok(Term::Code) => (-255, 255),
                Err(_) => {
                    self.fault(format!(
                        "the sums of `{}` are of terms of a kind {} that nobody knows",
                        sum.name, sum.term
                    ));
                    continue;
                }
            };
            let terms = i64::try_from(sum.terms).unwrap_or(i64::MAX);
            let low = terms.saturating_mul(least).saturating_add(sum.bias_low);
            let high = terms.saturating_mul(greatest).saturating_add(sum.bias_high);
            let claim = SumClaim {
                name: sum.name.clone(),
                terms: sum.terms,
                bounds,
                margin: margin(bounds.0, bounds.1),
                margin_of_any_weights: margin(low, high),
            };
            if claim.margin.is_none() || bounds.0 > bounds.1 {
                self.fault(format!(
                    "the sums of `{}` may reach {} to {}: more than 32 bits",
                    sum.name, sum.low, sum.high
                ));
            } else if bounds.0 < low || bounds.1 > high {
                let what = "bounds that so many products and this bias cannot reach";
                self.fault(format!("the sums of `{}` have {what}: {} to {}", sum.name, sum.low, sum.high));
            }
            self.sums.push(claim);
        }
    }

    /// Constants of requantizations where their equations are defined.
    fn requantize(&mut self, manifest: &Manifest) {
        self.requantizations = manifest.requantizations.len();
        for r in &manifest.requantizations {
            let fits =
                r.mult_low >= i64::from(i32::MIN) && r.mult_high <= i64::from(i32::MAX) && r.mult_low <= r.mult_high;
            let small = r.shl < 32 && i16::try_from(r.offset).is_ok();
            if !(fits && small && 0 <= r.least && r.least <= r.greatest && r.greatest <= 255) {
                self.fault(format!("the constants of the requantization of `{}` are out of their ranges", r.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use qcc_runtime::manifest::{Accumulator, Requantization};

    use super::*;

    fn faults(manifest: &Manifest) -> Vec<String> {
        let mut claims = Claims { scratch_bytes: 1000, ..Claims::default() };
        claims.memory(manifest);
        claims.check_sums(manifest);
        claims.requantize(manifest);
        claims.faults
    }

    fn span(offset: u64, bytes: u64, first: u32, last: u32) -> BufferSpan {
        BufferSpan { name: format!("b{offset}"), offset, bytes, first, last }
    }

    #[test]
    fn margins() {
        assert_eq!(margin(0, i64::from(i32::MAX)), Some(0));
        assert_eq!(margin(i64::from(i32::MIN), 0), Some(0));
        assert_eq!(margin(-256, 255), Some(23));
        assert_eq!(margin(0, 1 << 31), None);
    }

    #[test]
    fn buffers_stay_apart_and_inside() {
        let of = |buffers: Vec<BufferSpan>| faults(&Manifest { buffers, ..Manifest::default() });
        assert!(of(vec![span(0, 100, 0, 3), span(100, 100, 2, 5), span(0, 100, 4, 5)]).is_empty());
        assert!(of(vec![span(0, 100, 0, 3), span(99, 10, 3, 5)])[0].contains("share memory"));
        assert!(of(vec![span(0, 1, 0, 0), span(50, 10, 0, 9), span(0, 51, 3, 4)])[0].contains("share memory"));
        assert!(of(vec![span(0, 50, 0, 9), span(50, 10, 1, 2), span(55, 10, 3, 4)]).is_empty());
        assert!(of(vec![span(0, 10, 3, 2)])[0].contains("steps 3 to 2"));
        assert!(of(vec![span(900, 37, 0, 0)])[0].contains("ends at byte 937 of 1000"));
        assert!(of(vec![span(u64::MAX, u64::MAX, 0, 0)])[0].contains("ends at"));
    }

    #[test]
    fn sums_fit_and_are_possible() {
        let sum = |terms, low, high| Accumulator { name: "y".into(), terms, low, high, ..Accumulator::default() };
        let of = |a: Accumulator| faults(&Manifest { accumulators: vec![a], ..Manifest::default() });
        assert!(of(sum(100, -3_264_000, 3_238_500)).is_empty());
        assert!(of(sum(100, -3_264_001, 0))[0].contains("cannot reach"));
        assert!(of(sum(100_000, 0, 1 << 31))[0].contains("more than 32 bits"));
        assert!(of(Accumulator { term: 3, ..sum(1, 0, 1) })[0].contains("nobody knows"));
    }

    #[test]
    fn requantizations_have_ranges() {
        let good = Requantization {
            name: "y".into(),
            mult_low: 1,
            mult_high: 1 << 30,
            greatest: 255,
            ..Requantization::default()
        };
        let of = |r: Requantization| faults(&Manifest { requantizations: vec![r], ..Manifest::default() });
        assert!(of(good.clone()).is_empty());
        for bad in [
            Requantization { shl: 32, ..good.clone() },
            Requantization { greatest: 256, ..good.clone() },
            Requantization { mult_high: 1 << 31, ..good.clone() },
            Requantization { offset: 1 << 15, ..good },
        ] {
            assert!(!of(bad).is_empty());
        }
    }
}
