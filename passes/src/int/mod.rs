//! Integer operators: lowering, layout, fusion of roundings, and proofs about the result.

pub mod check_integer_only;
pub mod fuse_epilogue;
pub mod layout;
pub mod lower_to_dynamic;
pub mod lower_to_int;
pub mod merge_requant;
pub mod prove_accumulators;
