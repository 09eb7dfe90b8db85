//! Precision by name: which format values have instead of u8, and which the weights of layers instead of i8.
//!
//! ```text
//! conv1=i16                   the value conv1
//! conv1.weights=i16           the weights of the layer that computes conv1
//! all=i16                     every value and all weights; what is named itself comes first: all=i16,logits=u8
//! all=i16, all.weights=i8     every value alone
//! ```
//!
//! Formats are rows of `qcc_num::format`; 8 and 16 stand for those of so many bits.
//!
//! Names are those of values, or of the ONNX nodes that compute them. A name that passes have given a suffix, as `qcc compare
//! --layers` prints it (`conv1.nhwc`), stands for the value without it.
//!
//! Before operators that read or give fewer bits (`forms`) a value is rounded to 8.
//!
//! Beside names stands what is said of all at once, [`Overall`]: with fewer than 7 bits not quite all (`low_bits`).

use std::collections::{BTreeMap, HashMap, HashSet};

use qcc_ir::diag::Code;
use qcc_ir::format::{self, Role};
use qcc_ir::{Diag, Diags, Format, Graph, NodeId, Opcode, ValueId};

use crate::layer::is_layer;
use crate::op_traits::clamps;
use crate::quant::low_bits::{self, Reason};

/// The name of a format, or its bits where a row says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Precision(&'static str);

/// Precision by name, as said in the header; what is not named has the usual format of its role.
pub type Precisions = BTreeMap<String, Precision>;

/// What layers have where nothing is said of them by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overall {
    /// Format of weights.
    pub weights: Option<Precision>,
    /// Format of values. One of 16 bits is that of every value, one of fewer than 8 that of operands of layers.
    pub activations: Option<Precision>,
}

/// Behind the name of a value: the weights of the layer that computes it.
pub const WEIGHTS: &str = ".weights";

/// Stands for all values.
pub const ALL: &str = "all";

impl Precision {
    /// What is finer than the usual: 16 bits.
    pub const FINER: Precision = Precision("16");

    /// The precision that is spelled so; `None` unless values or weights can have it.
    pub fn named(name: &str) -> Option<Precision> {
        let rows = [Role::Values, Role::Weights].into_iter().flat_map(format::rows);
        rows.flat_map(|row| row.alias.into_iter().chain([row.name])).find(|n| *n == name).map(Precision)
    }

    /// Its spelling.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The format in a role.
    pub fn format(self, role: Role) -> Option<&'static Format> {
        format::named(self.0, role).map(|row| row.format)
    }
}

/// The names of the formats of a role.
pub fn names(role: Role) -> String {
    format::rows(role).map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// 16 bits for all values, and for all weights of which nothing is said.
pub(crate) fn finer(overall: Overall) -> Precisions {
    let weights = overall.weights.is_none().then(|| format!("{ALL}{WEIGHTS}"));
    weights.into_iter().chain([ALL.to_string()]).map(|name| (name, Precision::FINER)).collect()
}

/// Adds what a text says, `NAME=i16,NAME=u8`, or says what is wrong with it.
pub fn parse(text: &str, into: &mut Precisions) -> Result<(), String> {
    for part in text.split(',') {
        let fault = || {
            let (values, weights) = (names(Role::Values), names(Role::Weights));
            format!("expected NAME=FORMAT, of values {values}, of weights {weights}, found `{part}`")
        };
        let (name, format) = part.rsplit_once('=').ok_or_else(fault)?;
        let precision = Precision::named(format.trim()).ok_or_else(fault)?;
        match name.trim() {
            "" => return Err(fault()),
            name => into.insert(name.to_string(), precision),
        };
    }
    Ok(())
}

/// A format that a name is given, or what is wrong with it.
fn chosen(name: &str, precision: Precision, role: Role) -> Result<&'static Format, Diag> {
    precision.format(role).ok_or_else(|| {
        let what = if role == Role::Weights { "weights" } else { "values" };
        let message = format!("`{name}={}` is no format of {what}", precision.name());
        Diag::new(Code::FLAGS, message).help(format!("formats of {what}: {}", names(role)))
    })
}

/// What a graph's values and layers are to have.
pub(crate) struct Wanted {
    values: HashMap<ValueId, &'static Format>,
    /// By layer.
    weights: HashMap<NodeId, &'static Format>,
    /// Of all other values, if it is said.
    all: Option<&'static Format>,
    /// Of all other weights, if it is said; else they follow `all` above 8 bits.
    all_weights: Option<&'static Format>,
    /// Of weights and values of which all this says nothing.
    overall: [Option<&'static Format>; 2],
    /// Layers that keep 8 bits where `overall` has few.
    kept: HashMap<NodeId, Reason>,
    /// Number of layers.
    layers: usize,
}

impl Wanted {
    /// Finds what the names stand for; those that stand for nothing are reported. `states` are inputs and what is fed back into them.
    pub(crate) fn find(
        g: &Graph,
        by_name: &Precisions,
        overall: Overall,
        states: &[(ValueId, ValueId)],
    ) -> Result<Wanted, Diags> {
        let mut faults = Diags::default();
        let mut of_all = |name: &str, precision: Option<Precision>, role: Role| {
            let found = precision.map(|precision| chosen(name, precision, role)).transpose();
            found.unwrap_or_else(|fault| {
                faults.0.push(fault);
                None
            })
        };
        let weights = of_all("--weights", overall.weights, Role::Weights);
        let values = of_all("--activations", overall.activations, Role::Values);
        let low = [weights, values].into_iter().flatten().any(low_bits::is_low);
        let mut wanted = Wanted {
            values: HashMap::new(),
            weights: HashMap::new(),
            all: None,
            all_weights: None,
            overall: [weights, values],
            kept: if low { low_bits::kept(g, states) } else { HashMap::new() },
            layers: g.order().into_iter().filter(|&n| is_layer(g.op(n))).count(),
        };
        for (name, &precision) in by_name {
            if let Err(fault) = wanted.add(g, name, precision) {
                faults.0.push(fault);
            }
        }
        faults.into_result()?;
        Ok(wanted)
    }

    fn add(&mut self, g: &Graph, name: &str, precision: Precision) -> Result<(), Diag> {
        let format = |role: Role| chosen(name, precision, role);
        let prefix = name.strip_suffix(WEIGHTS);
        if name == ALL {
            self.all = Some(format(Role::Values)?);
            return Ok(());
        } else if prefix == Some(ALL) {
            self.all_weights = Some(format(Role::Weights)?);
            return Ok(());
        }
        let of_layer = prefix.and_then(|n| value(g, n)).and_then(|v| layer(g, v));
        match (exact(g, name), of_layer) {
            (Some(v), _) => _ = self.values.insert(v, format(Role::Values)?),
            (None, Some(n)) => _ = self.weights.insert(n, format(Role::Weights)?),
            (None, None) => {
                let v = value(g, name).filter(|_| prefix.is_none()).ok_or_else(|| unknown(name))?;
                self.values.insert(v, format(Role::Values)?);
            }
        }
        Ok(())
    }

    /// The format that the value is to have, if anything is said of it or of all values.
    pub(crate) fn value(&self, v: ValueId) -> Option<&'static Format> {
        self.values.get(&v).copied().or(self.others())
    }

    /// Whether something is said of the value itself.
    pub(crate) fn is_named(&self, v: ValueId) -> bool {
        self.values.contains_key(&v)
    }

    /// The format that values are to have that are not named, if it is said.
    pub(crate) fn others(&self) -> Option<&'static Format> {
        self.all.or(self.overall[1].filter(|format| !format.fits_byte()))
    }

    /// The format that operands of layers are to have, if it has fewer than 8 bits, and these layers; `fine` are those of which an
    /// operand has more than 8.
    pub(crate) fn low_operands(
        &self,
        g: &Graph,
        fine: impl Fn(NodeId) -> bool,
    ) -> Option<(&'static Format, HashSet<NodeId>)> {
        let format = self.overall[1].filter(|format| low_bits::is_low(format) && self.all.is_none())?;
        let low = |&n: &NodeId| {
            is_layer(g.op(n)) && !self.kept.contains_key(&n) && !fine(n) && !self.is_named(g.operands(n)[0])
        };
        Some((format, g.order().into_iter().filter(low).collect()))
    }

    /// Remarks on layers that keep 8 bits.
    pub(crate) fn remarks(&self, g: &Graph) -> Vec<String> {
        let is_low = |format: Option<&'static Format>| format.is_some_and(low_bits::is_low);
        let mut remarks = Vec::new();
        if is_low(self.overall[0]) && self.all_weights.is_none() {
            let unnamed = self.kept.iter().filter(|(n, _)| !self.weights.contains_key(n));
            let kept = unnamed.map(|(&n, &reason)| (n, reason)).collect();
            remarks.extend(low_bits::remark(g, ("weights", "NAME.weights"), &kept, self.layers));
        }
        if is_low(self.overall[1]) && self.all.is_none() {
            let unnamed = self.kept.iter().filter(|(n, _)| !self.is_named(g.operands(**n)[0]));
            let kept = unnamed.map(|(&n, &reason)| (n, reason)).collect();
            remarks.extend(low_bits::remark(g, ("operands", "NAME"), &kept, self.layers));
        }
        remarks
    }

    /// The format that the weights of the layer are to have.
    pub(crate) fn weights(&self, layer: NodeId) -> &'static Format {
        self.weights_or(layer, format::usual(Role::Weights))
    }

    /// The format that the weights of the layer are to have, if flags say one.
    pub(crate) fn said_of_weights(&self, layer: NodeId) -> Option<&'static Format> {
        let usual = format::usual(Role::Weights);
        Some(self.weights_or(layer, usual)).filter(|format| *format != usual)
    }

    /// The same, with what they have where nothing is said.
    pub(crate) fn weights_or(&self, layer: NodeId, usual: &'static Format) -> &'static Format {
        let finer = self.all.filter(|format| !format.fits_byte()).map(|_| &format::I16_WEIGHTS);
        // Weights that need more than 8 bits have them.
        let spared = |format: &&Format| low_bits::is_low(format) && self.kept.contains_key(&layer);
        let overall = match self.overall[0] {
            Some(format) if format.bits() <= 8 && usual.bits() > 8 => Some(usual),
            Some(format) => Some(if spared(&format) { usual } else { format }),
            None => finer,
        };
        self.weights.get(&layer).copied().or(self.all_weights).or(overall).unwrap_or(usual)
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
    let mut v = v;
    loop {
        let n = g.producer(v)?;
        match g.op(n) {
            Opcode::Conv2d | Opcode::Linear => return Some(n),
            op if clamps(op) => v = g.operands(n)[0],
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let mut found = Precisions::new();
        parse("a/b:0=16, all.weights=i16,c=d=8", &mut found).unwrap();
        let wanted = [("a/b:0", "16"), ("all.weights", "i16"), ("c=d", "8")];
        let wanted = wanted.into_iter().map(|(n, p)| (n.to_string(), Precision::named(p).unwrap()));
        assert_eq!(found, wanted.collect());
        assert_eq!(found["c=d"].format(Role::Values), Some(&format::U8));
        assert_eq!(found["c=d"].format(Role::Weights), Some(&format::I8));
        assert_eq!(found["all.weights"].format(Role::Weights), Some(&format::I16_WEIGHTS));
        for bad in ["", "a", "a=", "a=12", "=16", "a=16,", "a=float", "a=i32"] {
            assert!(parse(bad, &mut Precisions::new()).is_err(), "{bad}");
        }
    }
}
