//! Flags that limit what a model may ask of the compiler.

use std::time::{Duration, Instant};

use clap::Args;
use qcc::ir::Budget;

/// What a model may ask for.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct BudgetFlags {
    /// Memory for the model's constants, and for the values of one evaluation [default: 16 times the file, 2GB at least]
    #[arg(long, value_name = "BYTES|MB|GB", value_parser = bytes)]
    max_memory: Option<u64>,
    /// Nodes of the model [default: 32768]
    #[arg(long, value_name = "N")]
    max_nodes: Option<usize>,
    /// Operations that computing one constant may take [default: 20000000000]
    #[arg(long, value_name = "N")]
    max_work: Option<u64>,
    /// Time for the compilation [default: any]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    max_time: Option<Duration>,
}

impl BudgetFlags {
    /// The limits, beginning now.
    pub fn budget(&self) -> Budget {
        let usual = Budget::default();
        Budget {
            memory: self.max_memory,
            nodes: self.max_nodes.unwrap_or(usual.nodes),
            work: self.max_work.unwrap_or(usual.work),
            deadline: self.max_time.and_then(|time| Instant::now().checked_add(time)),
        }
    }
}

/// A number of bytes: `2000000000`, `2000MB`, `2GB`.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("", 1)];
    let (number, unit) = units.into_iter().find_map(|(u, n)| Some((text.strip_suffix(u)?, n))).unwrap_or((text, 1));
    let number: Option<u64> = number.trim().parse().ok();
    number.and_then(|n| n.checked_mul(unit)).ok_or_else(|| "expected a number of bytes, such as 4GB".to_string())
}

/// A time in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok();
    number.and_then(|n| Duration::try_from_secs_f64(n).ok()).ok_or_else(|| "expected a number of seconds".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(bytes("4GB"), Ok(4_000_000_000));
        assert_eq!(bytes("1500 MB"), Ok(1_500_000_000));
        assert_eq!(bytes("12"), Ok(12));
        for bad in ["", "GB", "-1", "1.5GB", "99999999999GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["", "-1", "nan", "inf", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
