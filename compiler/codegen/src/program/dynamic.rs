//! Steps of values with dynamic scales: equations (8) to (13) and (16) to (19), (22), (29) and (30) of [`qcc_num::dynamic`].
//!
//! | module | steps |
//! |---|---|
//! | [`extrema`] | the range of accumulators |
//! | [`parameters`] | from it the scale of the result and the constants of its requantization |
//! | [`requant`] | the requantization |
//! | [`common`] | sums, products and concatenations: values that are brought to one scale |
//! | [`curve`] | functions of one value that are steep, or bent far from 0 |
//! | [`norm`] | what a normalization adds to its squares |
//! | [`tables`] | functions of one value, the exponentials of a softmax |

pub mod common;
pub mod curve;
pub mod extrema;
pub mod norm;
mod number;
pub mod parameters;
pub mod requant;
pub mod tables;
