//! Block formats: how weights lie in a file, what they mean, and how they are made.
//!
//! One file per format. Each begins with the layout and the formula of its format; its type is a
//! view of the bytes in place (alignment 1, size checked by the compiler), and its `decode` *is*
//! the meaning of the format, in plain scalar code that every fast kernel is held to.
//!
//! Start at [`Format`], which names the formats a tensor may have and decodes or encodes whole
//! rows; then read [`q8_0`], the simplest block. [`kv_rounding`] is the other half of this crate:
//! the FP8 and FP4 roundings the model was trained with, for its cache.

mod block;
pub mod e8m0;
mod encode_error;
pub mod float;
mod format;
pub mod fp4;
pub mod fp8;
pub mod hadamard;
pub mod iq2_xxs;
pub mod kv_rounding;
pub mod mxfp4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod q8_k;

pub use block::{Block, Encode};
pub use encode_error::EncodeError;
pub use format::Format;
