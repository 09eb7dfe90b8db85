//! The C ABI of a compiled model: what lies in `model.so` and what its functions take.
//!
//! Laws of this file:
//! - Everything is position independent: a structure stored in a model holds no pointer, so that loading a model needs no
//!   dynamic relocation.
//! - Every structure is `repr(C)` without implicit padding, of the same layout on all 64-bit targets, little-endian.
//! - A field is never moved or removed without a new [`ABI_VERSION`]. Fields may be appended: a reader finds the tensor
//!   table by [`QccModelInfo::header_bytes`] and steps through it by [`QccModelInfo::tensor_bytes`].
//!
//! `emit/header.rs` of qcc-codegen writes the same structures as C.

use std::ffi::{c_int, c_void};

/// Version of all structures and entry points here.
pub const ABI_VERSION: u32 = 1;

/// Most dimensions of a tensor at the boundary of a model.
pub const MAX_RANK: usize = 8;

/// Bytes of a name, including its terminating NUL.
pub const NAME_BYTES: usize = 64;

/// Bytes of the compiler's version, including its terminating NUL.
pub const VERSION_BYTES: usize = 32;

/// Codes returned by the entry points.
pub mod code {
    /// The outputs are written.
    pub const OK: i32 = 0;
    /// A pointer is null: the array of inputs or outputs, one of its elements, or the scratch.
    pub const ERR_NULL: i32 = -1;
    /// The CPU lacks a feature listed in `cpu_features`.
    pub const ERR_CPU: i32 = -2;
    /// The scratch is not aligned to `scratch_align`.
    pub const ERR_ALIGN: i32 = -3;
    /// The pool has no `parallel_for` or no threads.
    pub const ERR_POOL: i32 = -4;
}

/// Symbols that every model exports beside those with its own name, so that a loader need not know the file's name.
pub mod symbol {
    /// [`InfoFn`](super::InfoFn).
    pub const INFO: &str = "qcc_model_info";
    /// [`RunFn`](super::RunFn).
    pub const RUN: &str = "qcc_model_run";
    /// [`RunMtFn`](super::RunMtFn).
    pub const RUN_MT: &str = "qcc_model_run_mt";
    /// [`RunF32Fn`](super::RunF32Fn); absent without a float interface.
    pub const RUN_F32: &str = "qcc_model_run_f32";
    /// [`RunF32MtFn`](super::RunF32MtFn); absent without a float interface.
    pub const RUN_F32_MT: &str = "qcc_model_run_f32_mt";
    /// The [`QccModelInfo`](super::QccModelInfo) that the function gives, under a name that is not exported: tools find it in the
    /// file without running anything.
    pub const DESCRIPTION: &str = "model_description";
    /// Data: a little-endian `u64` with the number of bytes that follow, then the [`Manifest`](crate::Manifest).
    pub const MANIFEST: &str = "qcc_model_manifest";

    /// The exported name of an entry point of the model `name`: `qcc_<name>_run` for [`RUN`].
    pub fn of_model(name: &str, fixed: &str) -> String {
        fixed.replacen("model", name, 1)
    }
}

/// One input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct QccTensorInfo {
    /// NUL-terminated UTF-8, cut to fit.
    pub name: [u8; NAME_BYTES],
    /// A [`DType`](crate::DType) code.
    pub dtype: u32,
    /// Number of valid `dims`.
    pub rank: u32,
    /// Extents; those beyond `rank` are 1.
    pub dims: [i64; MAX_RANK],
    /// Bits of the `f32` scale: real = scale * (stored - zero_point). 0 where the tensor is not quantized.
    pub scale_bits: u32,
    /// Stored value that stands for the real 0.
    pub zero_point: i32,
    /// The scale without a float: exactly `scale_multiplier / 2^scale_shift`.
    pub scale_multiplier: u32,
    /// See `scale_multiplier`; negative for scales of 2^24 and more.
    pub scale_shift: i32,
}

/// Fixed part of a model's description; `n_inputs + n_outputs` [`QccTensorInfo`] follow at `header_bytes` from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct QccModelInfo {
    /// [`ABI_VERSION`] of the compiler.
    pub abi_version: u32,
    /// Offset of the first tensor from the start of this structure.
    pub header_bytes: u32,
    /// Distance between tensors.
    pub tensor_bytes: u32,
    /// Number of inputs.
    pub n_inputs: u32,
    /// Number of outputs.
    pub n_outputs: u32,
    /// 1 if `run_f32` exists.
    pub has_float_edge: u32,
    /// Bytes of scratch that a call needs. Its content is undefined at entry and at return.
    pub scratch_bytes: u64,
    /// Alignment of the scratch in bytes, a power of two.
    pub scratch_align: u64,
    /// Set of [`CpuFeatures`](crate::CpuFeatures) that the code uses.
    pub cpu_features: u64,
    /// Multiply-accumulates of one call.
    pub macs: u64,
    /// Digest of the source model and of the options that it was compiled with.
    pub model_hash: [u8; 32],
    /// NUL-terminated version of the compiler.
    pub compiler: [u8; VERSION_BYTES],
    /// NUL-terminated name of the model.
    pub name: [u8; NAME_BYTES],
}

/// A piece of parallel work: units `begin..end` of a job described by `arg`.
pub type TaskFn = unsafe extern "C" fn(arg: *mut c_void, begin: usize, end: usize);

/// Runs `task` over `0..n`, split over threads in any way, and returns when all of it is done.
pub type ParallelForFn = unsafe extern "C" fn(ctx: *mut c_void, task: TaskFn, arg: *mut c_void, n: usize);

/// Threads lent by the host to a call. The results do not depend on them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct QccPool {
    /// First argument of `parallel_for`.
    pub ctx: *mut c_void,
    /// Number of threads that `parallel_for` spreads work over, the caller included.
    pub threads: u32,
    /// Zero.
    pub reserved: u32,
    /// The host's function.
    pub parallel_for: Option<ParallelForFn>,
}

/// `const qcc_model_info *info(void)`: a structure that lives as long as the model is loaded.
pub type InfoFn = unsafe extern "C" fn() -> *const QccModelInfo;

/// `int run(in, out, scratch)`: integer tensors, dense, row-major, aligned to their element size.
pub type RunFn =
    unsafe extern "C" fn(input: *const *const c_void, output: *const *mut c_void, scratch: *mut c_void) -> c_int;

/// `int run_mt(in, out, scratch, pool)`: `run` over the host's threads. A null pool means one thread.
pub type RunMtFn = unsafe extern "C" fn(
    input: *const *const c_void,
    output: *const *mut c_void,
    scratch: *mut c_void,
    pool: *const QccPool,
) -> c_int;

/// `int run_f32(in, out, scratch)`: every tensor as `float`, quantized on entry and dequantized on return.
pub type RunF32Fn =
    unsafe extern "C" fn(input: *const *const f32, output: *const *mut f32, scratch: *mut c_void) -> c_int;

/// `int run_f32_mt(in, out, scratch, pool)`: `run_f32` over the host's threads. A null pool means one thread.
pub type RunF32MtFn = unsafe extern "C" fn(
    input: *const *const f32,
    output: *const *mut f32,
    scratch: *mut c_void,
    pool: *const QccPool,
) -> c_int;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// The layouts are a contract with C: sizes are the sums of the fields, and no field moves.
    #[test]
    fn structures_have_no_padding() {
        assert_eq!(size_of::<QccTensorInfo>(), NAME_BYTES + 8 + 8 * MAX_RANK + 16);
        assert_eq!(size_of::<QccModelInfo>(), 6 * 4 + 4 * 8 + 32 + VERSION_BYTES + NAME_BYTES);
        assert_eq!(size_of::<QccPool>(), 24);
        assert_eq!(offset_of!(QccModelInfo, scratch_bytes), 24);
        assert_eq!(offset_of!(QccTensorInfo, scale_bits), 136);
        assert_eq!(offset_of!(QccPool, parallel_for), 16);
    }

    #[test]
    fn entry_points_are_named_after_the_model() {
        assert_eq!(symbol::of_model("resnet50", symbol::RUN_F32), "qcc_resnet50_run_f32");
        assert_eq!(symbol::of_model("model_a", symbol::INFO), "qcc_model_a_info");
    }
}
