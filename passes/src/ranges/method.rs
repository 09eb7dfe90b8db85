//! How a range is chosen from what was observed.

use std::fmt;
use std::str::FromStr;

/// How a range is chosen from what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Least and greatest value.
    #[default]
    MinMax,
    /// Quantiles 0.00001 and 0.99999.
    Percentile,
    /// The range with the least mean square error of quantization.
    Mse,
    /// The range with the least Kullback-Leibler divergence of the quantized distribution (Migacz, GTC 2017).
    Kl,
    /// Of the four, for each value, the one whose range has the least error measured, clipping counted fourfold.
    Auto,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 5] = [Method::MinMax, Method::Percentile, Method::Mse, Method::Kl, Method::Auto];

    /// Spelling in options.
    pub fn name(self) -> &'static str {
        match self {
            Method::MinMax => "minmax",
            Method::Percentile => "percentile",
            Method::Mse => "mse",
            Method::Kl => "kl",
            Method::Auto => "auto",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(s: &str) -> Result<Method, String> {
        let known = Method::ALL.map(Method::name).join(", ");
        Method::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| format!("`{s}` is none of {known}"))
    }
}
