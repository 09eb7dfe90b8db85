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
//!
//! Which operators read and give 16 bits is said by `reads_16` and `gives_16`; before the others a value is rounded to 8.

use std::collections::{BTreeMap, HashMap};

use qcc_ir::diag::Code;
use qcc_ir::ops::{Binary, Class, Contract, Move, Norm, Reduce};
use qcc_ir::{Diag, Diags, Elem, Graph, Int, NodeId, Opcode, Uniform, ValueId};

use crate::op_traits::clamps;
use crate::rewrite::scalar;

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

/// What a graph's values and layers are to have.
pub(crate) struct Wanted {
    values: HashMap<ValueId, Precision>,
    /// By layer.
    weights: HashMap<NodeId, Precision>,
    /// Of all other values, if it is said.
    all: Option<Precision>,
    all_weights: Precision,
}

impl Wanted {
    /// Finds what the names stand for; those that stand for nothing are reported.
    pub(crate) fn find(g: &Graph, by_name: &Precisions) -> Result<Wanted, Diags> {
        let all_weights = format!("{ALL}{WEIGHTS}");
        let mut wanted = Wanted {
            values: HashMap::new(),
            weights: HashMap::new(),
            all: by_name.get(ALL).copied(),
            all_weights: by_name.get(&all_weights).copied().unwrap_or_default(),
        };
        let mut faults = Diags::default();
        for (name, &precision) in by_name.iter().filter(|(n, _)| n.as_str() != ALL && **n != all_weights) {
            let of_layer = name.strip_suffix(WEIGHTS).and_then(|n| value(g, n)).and_then(|v| layer(g, v));
            match (exact(g, name), of_layer) {
                (Some(v), _) => _ = wanted.values.insert(v, precision),
                (None, Some(n)) => _ = wanted.weights.insert(n, precision),
                (None, None) => match value(g, name).filter(|_| !name.ends_with(WEIGHTS)) {
                    Some(v) => _ = wanted.values.insert(v, precision),
                    None => faults.0.push(unknown(name)),
                },
            }
        }
        faults.into_result()?;
        Ok(wanted)
    }

    /// True if the value is to have 16 bits.
    pub(crate) fn value_16(&self, v: ValueId) -> bool {
        self.values.get(&v).copied().or(self.all).unwrap_or_default() == Precision::Bits16
    }

    /// True if something is said of the value, or of all values.
    pub(crate) fn says(&self, v: ValueId) -> bool {
        self.values.contains_key(&v) || self.all.is_some()
    }

    /// True if the weights of the layer are to have 16 bits.
    pub(crate) fn weights_16(&self, layer: NodeId) -> bool {
        *self.weights.get(&layer).unwrap_or(&self.all_weights) == Precision::Bits16
    }
}

fn unknown(name: &str) -> Diag {
    let layer = name.strip_suffix(WEIGHTS);
    let message = match layer {
        Some(layer) => format!("a precision is given for the weights of `{layer}`, which is no layer"),
        None => format!("a precision is given for `{name}`, which is no value of the model"),
    };
    Diag::new(Code::FLAGS, message).help("`qcc compare MODEL --data .. --layers` lists the names")
}

/// The value of this very name that is computed or an input.
fn exact(g: &Graph, name: &str) -> Option<ValueId> {
    g.find(name).filter(|&v| g.constant(v).is_none())
}

/// The value that a name stands for.
fn value(g: &Graph, name: &str) -> Option<ValueId> {
    let node = |name: &str| {
        let named = |n: &NodeId| g.node(*n).origin.as_ref().is_some_and(|o| o.name == name);
        g.order().into_iter().rev().find(named).map(|n| g.result(n))
    };
    let mut prefixes = std::iter::successors(Some(name), |n| n.rsplit_once('.').map(|(prefix, _)| prefix));
    exact(g, name).or_else(|| node(name)).or_else(|| prefixes.find_map(|n| exact(g, n)))
}

/// The layer whose result a value is, behind what clamps it.
fn layer(g: &Graph, v: ValueId) -> Option<NodeId> {
    let n = g.producer(v)?;
    match g.op(n) {
        Opcode::Conv2d | Opcode::Linear => Some(n),
        op if clamps(op) => layer(g, g.operands(n)[0]),
        _ => None,
    }
}

/// True if the operation takes 16 bits as operand `i`.
pub(crate) fn reads_16(g: &Graph, n: NodeId, i: usize) -> bool {
    let constant = |i: usize| g.operands(n).get(i).is_some_and(|&v| scalar(g, v).is_some());
    match g.op(n).info().class {
        Class::Contract(Contract::Conv2d | Contract::Linear) => i == 0,
        Class::Binary(Binary::Add | Binary::Sub | Binary::Mul) => true,
        Class::Binary(_) => constant(0) || constant(1),
        Class::Reduce(kind) => kind != Reduce::Min,
        Class::Norm(kind) => kind != Norm::Layer,
        Class::Unary(_) | Class::Pool(_) | Class::Cast(_) => true,
        Class::Move(kind) => moves_16(kind),
        Class::Contract(Contract::MatMul) | Class::Int(_) => false,
    }
}

/// True if the operation can give 16 bits.
pub(crate) fn gives_16(g: &Graph, n: NodeId) -> bool {
    reads_16(g, n, 0)
}

/// True if this data movement has a form of 16 bits.
pub(crate) fn moves_16(kind: Move) -> bool {
    match kind {
        Move::Reshape | Move::Transpose | Move::Concat | Move::Slice | Move::Pad | Move::Gather | Move::Expand => true,
        Move::Cast | Move::Where | Move::TopK | Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex => false,
    }
}

/// Whether a value has 16 bits.
pub(crate) fn is_16(g: &Graph, v: ValueId) -> bool {
    g.ty(v).uniform().is_some_and(|u| u.storage == Int::I16)
}

/// The type of 8 bits that covers what one of 16 does.
pub(crate) fn narrowed(of: &Uniform) -> Elem {
    Elem::Uniform(Uniform::u8_for(of.range()).into())
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
