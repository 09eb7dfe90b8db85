//! The calls that an entry point makes, one a task, and the estimate of their time.

use cranelift_module::FuncId;

use super::builder::TaskInfo;

/// Multiply-accumulates and bytes that a task does in a nanosecond, roughly.
const MACS_A_NANOSECOND: u64 = 150;
/// See [`MACS_A_NANOSECOND`].
const BYTES_A_NANOSECOND: u64 = 8;

/// One call of the sequence that an entry point makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub function: FuncId,
    pub units: usize,
    /// Rough time in nanoseconds.
    pub estimate: u64,
}

impl Call {
    /// The call of a task.
    pub fn of(task: &TaskInfo) -> Call {
        let estimate = task.macs / MACS_A_NANOSECOND + task.output_bytes / BYTES_A_NANOSECOND;
        Call { function: task.function, units: task.units, estimate }
    }

    /// The call of a function that does nothing but move so many bytes.
    pub fn moving(function: FuncId, units: usize, bytes: usize) -> Call {
        Call { function, units, estimate: bytes as u64 / BYTES_A_NANOSECOND }
    }
}
