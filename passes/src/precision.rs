//! Precision by name: which values have 16 bits instead of 8, and which layers have weights of 16 bits.
//!
//! ```text
//! conv1=16              the value conv1
//! conv1.weights=16      the weights of the layer that computes conv1
//! all=16, all.weights=16    every value, all weights; what is named itself comes first: all=16,logits=8
//! ```
//!
//! Names are those of values, or of the ONNX nodes that compute them. A name that passes have given a suffix, as `qcc compare
//! --layers` prints it (`conv1.nhwc`), stands for the value without it.

use std::collections::BTreeMap;

/// Bits of the integers that stand for real numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Precision {
    /// 8 bits.
    #[default]
    Bits8,
    /// 16 bits.
    Bits16,
}

/// Precision by name, as said in the header; what is not named has 8 bits.
pub type Precisions = BTreeMap<String, Precision>;

/// Behind the name of a value: the weights of the layer that computes it.
pub const WEIGHTS: &str = ".weights";

/// Stands for all values.
pub const ALL: &str = "all";

impl Precision {
    /// The number of bits.
    pub fn bits(self) -> u32 {
        match self {
            Precision::Bits8 => 8,
            Precision::Bits16 => 16,
        }
    }

    /// The precision with this number of bits.
    pub fn from_bits(bits: u32) -> Option<Precision> {
        [Precision::Bits8, Precision::Bits16].into_iter().find(|p| p.bits() == bits)
    }
}

/// Adds what a text says, `NAME=16,NAME=8`, or says what is wrong with it.
pub fn parse(text: &str, into: &mut Precisions) -> Result<(), String> {
    for part in text.split(',') {
        let fault = || format!("expected NAME=16 or NAME=8, found `{part}`");
        let (name, bits) = part.rsplit_once('=').ok_or_else(fault)?;
        let precision = bits.trim().parse().ok().and_then(Precision::from_bits).ok_or_else(fault)?;
        match name.trim() {
            "" => return Err(fault()),
            name => into.insert(name.to_string(), precision),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let mut found = Precisions::new();
        parse("a/b:0=16, all.weights=16,c=d=8", &mut found).unwrap();
        let wanted = [("a/b:0", Precision::Bits16), ("all.weights", Precision::Bits16), ("c=d", Precision::Bits8)];
        assert_eq!(found, wanted.into_iter().map(|(n, p)| (n.to_string(), p)).collect());
        for bad in ["", "a", "a=", "a=12", "=16", "a=16,", "a=float"] {
            assert!(parse(bad, &mut Precisions::new()).is_err(), "{bad}");
        }
    }
}
