//! What can be done about a cause: changes of flags, from the likeliest on.

use std::path::{Path, PathBuf};

use qcc_passes::{Method, Precision};

use super::cause::Cause;
use super::mixed::Side;
use crate::Options;
use crate::options::Calibration;

/// A change of flags.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// Samples from which ranges are found.
    Calibrate(PathBuf),
    /// How ranges follow from samples.
    Method(Method),
    /// The pass `equalize`.
    Equalize,
    /// The pass `round-weights`.
    RoundWeights,
    /// 16 bits for a value or for the weights of a layer.
    Precision(String, Side),
}

impl Remedy {
    /// The flag on the command line.
    pub fn flag(&self) -> String {
        match self {
            Remedy::Calibrate(path) => format!("--calibrate {}", quoted(&path.display().to_string())),
            Remedy::Method(method) => format!("--method {method}"),
            Remedy::Equalize => "--equalize on".to_string(),
            Remedy::RoundWeights => "--round-weights on".to_string(),
            Remedy::Precision(name, side) => {
                format!("--precision {}", quoted(&format!("{}={}", item(name, *side), Precision::FINER.name())))
            }
        }
    }

    /// The options with the change.
    pub fn apply(&self, options: &Options) -> Options {
        let mut options = options.clone();
        match self {
            Remedy::Calibrate(path) => options.calibration = Some(Calibration::Path(path.clone())),
            Remedy::Method(method) => options.method = *method,
            Remedy::Equalize => options.corrections.equalize = true,
            Remedy::RoundWeights => options.corrections.round_weights = true,
            Remedy::Precision(name, side) => {
                options.precision.insert(item(name, *side), Precision::FINER);
            }
        }
        options
    }
}

/// The name under which the precision of a part is given.
pub(crate) fn item(name: &str, side: Side) -> String {
    match side {
        Side::Value => name.to_string(),
        Side::Weights => format!("{name}{}", qcc_passes::quant::precision::WEIGHTS),
    }
}

/// Text as a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if text.chars().all(plain) { text.to_string() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What may help against a cause, the likeliest first, less what the options say already. `data` are the samples that are compared.
pub(crate) fn remedies(cause: &Cause, options: &Options, data: &Path) -> Vec<Remedy> {
    let mut found = Vec::new();
    let table = options.ranges.is_some();
    let sampled = options.calibration.is_some();
    let mut add = |remedy: Remedy| {
        let works = match &remedy {
            Remedy::Calibrate(path) => {
                !table && !matches!(&options.calibration, Some(Calibration::Path(known)) if known == path)
            }
            // Ranges from a table, or from the model alone, know no method.
            Remedy::Method(method) => sampled && !table && options.method != *method,
            Remedy::Equalize => sampled && !options.corrections.equalize,
            Remedy::RoundWeights => sampled && !options.corrections.round_weights,
            Remedy::Precision(..) => true,
        };
        if works && !found.contains(&remedy) {
            found.push(remedy);
        }
    };
    if !sampled {
        add(Remedy::Calibrate(data.to_path_buf()));
    }
    match cause.kind {
        "clipped" => {
            add(Remedy::Method(Method::MinMax));
            add(Remedy::Calibrate(data.to_path_buf()));
        }
        "few-codes" | "rare-values" => {
            add(Remedy::Method(Method::Percentile));
            add(Remedy::Method(Method::Mse));
        }
        "outlier-channel" => {
            add(Remedy::Equalize);
            add(Remedy::Method(Method::Mse));
        }
        "zero-heavy" => {
            add(Remedy::Method(Method::Mse));
            add(Remedy::Method(Method::Kl));
        }
        "bias-shift" | "weight-outlier" => add(Remedy::RoundWeights),
        "coarse-weights" => {
            add(Remedy::Equalize);
            add(Remedy::RoundWeights);
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_offered_only_if_it_changes_something() {
        let outlier = Cause { kind: "outlier-channel", text: String::new() };
        let data = Path::new("my images");
        let offered =
            |options: &Options| remedies(&outlier, options, data).iter().map(Remedy::flag).collect::<Vec<_>>();
        let mut options = Options::default();
        assert_eq!(offered(&options), ["--calibrate 'my images'"]);
        options.calibration = Some(Calibration::Path("x".into()));
        assert_eq!(offered(&options), ["--equalize on", "--method mse"]);
        options.corrections.equalize = true;
        assert_eq!(offered(&options), ["--method mse"]);
    }
}
