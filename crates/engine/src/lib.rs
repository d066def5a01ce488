//! A model in service: it is loaded once, and sessions talk to it.
//!
//! Start at [`LoadedModel`]. A single conversation is a [`Session`]: [`Session::sync`] reads a prompt doing as
//! little work as possible, [`Session::reply`] writes a reply. Many at once are served by an [`Engine`]; see
//! [`service`]. How tokens are chosen is in [`sampler`], and what may be chosen at all in
//! [`constraint`].
//!
//! This crate knows nothing of HTTP or terminals, and nothing of how an operation of the model is computed.

mod cache;
pub mod cancel;
pub mod constraint;
pub mod drafts;
mod fetch_logits;
pub mod generate;
pub mod loaded;
pub mod logprobs;
pub mod miss;
mod pace;
pub mod random;
mod rate;
pub mod reading;
pub mod sampler;
pub mod service;
pub mod session;
pub mod store;
pub mod vocabulary;

pub use cancel::Cancel;
pub use constraint::{Constraint, ConstraintError, Constraints};
pub use drafts::{Drafts, MOST_DRAFTS};
pub use generate::{Event, Finish, Reply, ReplyError, Request, Stats};
pub use loaded::{LoadPhase, LoadedModel, Loading, OpenError};
pub use miss::{CacheSource, Miss};
pub use model::{PAGE, PageKey};
pub use reading::Form;
pub use sampler::Sampling;
pub use service::{
    Engine, EngineOptions, Invalid, Job, JobError, JobEvent, JobPrompt, ModelInfo, Priority, Refusal,
    SlotAction, SlotDone, SlotError, StartError, Status, Ticket,
};
pub use session::{Session, SessionError, Synced};
pub use vocabulary::vocabulary;
