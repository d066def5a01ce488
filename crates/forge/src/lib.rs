//! Making models: where a GGUF file comes from when nobody has published it.
//!
//! - [`synth`]: random weights in any size and format, for tests and benchmarks.
//!
//! This crate knows nothing of requests and terminals; progress is reported to whoever asks.

pub mod synth;
