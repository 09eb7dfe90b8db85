//! Deviations of single products from what the estimates choose: found by measurement, kept as a record that can be given back.
//!
//! A choice changes which unit does what and in which order weights are packed, never a result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Choices by the name of the value that the product computes.
pub type Tuning = BTreeMap<String, Choice>;

/// What is chosen otherwise for one product; what is absent stays as estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Vectors side by side in a register tile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panel: Option<usize>,
    /// Rows of a row block.
    #[serde(default, alias = "strip", skip_serializing_if = "Option::is_none")]
    pub row_block: Option<usize>,
    /// The outer loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// How weights are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// With how many multiplications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

impl Choice {
    /// The method that is chosen. What else a choice says is about the direct one.
    pub fn chosen_method(&self) -> Option<Method> {
        let Choice { panel, row_block, outer, storage, method } = *self;
        let is_direct = panel.is_some() || row_block.is_some() || outer.is_some() || storage.is_some();
        method.or(is_direct.then_some(Method::Direct))
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// With all multiplications.
    Direct,
    /// With half of them, for additions: [`crate::kernel::microkernel::fast_inner`].
    #[serde(rename = "fast-inner")]
    FastInner,
    /// With fewer, by tiles of so many rows and columns of results: [`crate::kernel::winograd`].
    Winograd([usize; 2]),
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As they are multiplied.
    Bytes,
    /// As codes of 4 bits, if they are few enough values.
    Codes,
}

/// Which of the loops over blocks of channels and over chunks of row blocks is the outer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outer {
    /// Blocks of channels: each block's weights pass once.
    Blocks,
    /// Chunks of row blocks: activations pass once.
    Chunks,
}
