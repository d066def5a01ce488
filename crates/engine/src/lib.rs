//! A model in service: it is loaded once, and sessions talk to it.
//!
//! Start at [`LoadedModel`], then [`Session`]: [`Session::sync`] reads a prompt doing as little work as
//! possible, [`Session::reply`] writes a reply. How tokens are chosen is in [`sampler`].
//!
//! This crate knows nothing of HTTP or terminals, and nothing of how an operation of the model is computed.

pub mod cancel;
pub mod generate;
pub mod loaded;
pub mod logprobs;
pub mod random;
pub mod reading;
pub mod sampler;
pub mod session;
pub mod vocabulary;

pub use cancel::Cancel;
pub use generate::{Event, Finish, Reply, ReplyError, Request, Stats};
pub use loaded::{LoadedModel, OpenError};
pub use reading::Form;
pub use sampler::Sampling;
pub use session::{Session, SessionError, Synced};
pub use vocabulary::vocabulary;
