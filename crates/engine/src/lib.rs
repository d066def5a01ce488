//! A model in service.
pub mod cancel;
pub mod logprobs;
pub mod random;
pub mod sampler;
pub mod stop;
