//! What is said of each layer: how near its value is to the float one, what it does to the output, why, and what helps.

use serde::Serialize;

use super::cause::Cause;

/// One value of the model in both forms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// Name of the value.
    pub name: String,
    /// Integer operator that computes it.
    pub op: String,
    /// Signal-to-noise ratio of the value; `None` if there is no noise.
    pub sqnr_db: Option<f64>,
    /// How much of it was lost here: the least ratio of the values that it is computed from, less its own.
    pub loss_db: f64,
    /// Cosine of the angle between the float and the integer value.
    pub cosine: f64,
    /// Least and greatest float value.
    pub float_range: (f64, f64),
    /// Least and greatest value that the integers can stand for; over all calls where each has a scale of its own.
    pub int_range: (f64, f64),
    /// What it does to the output, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
}

/// What a part does to the final output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Damage {
    /// Signal-to-noise ratio of the outputs if this part alone is quantized; `None` if that makes no noise.
    pub alone_db: Option<f64>,
    /// Its share of the noise of all parts.
    pub share: f64,
    /// The share of that which its layer's weights have.
    pub weights_share: f64,
    /// Signal-to-noise ratio of the outputs if this part alone is not quantized, on the side that does more damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed_db: Option<f64>,
    /// The likely cause.
    pub cause: Cause,
    /// What helps against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Advice>,
}

/// A flag that helps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// As it is written on the command line.
    pub flag: String,
    /// Signal-to-noise ratio of the outputs that is to be expected with it, or that was measured; `None` if not known.
    pub sqnr_db: Option<f64>,
    /// The ratio without it, on the same samples.
    pub instead_of_db: Option<f64>,
    /// Whether it was tried.
    pub verified: bool,
}
