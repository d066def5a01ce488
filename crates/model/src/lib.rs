//! The model: its configuration, its weights, **the forward pass, written once**, and the state it
//! leaves behind.
//!
//! Start at [`forward()`], which reads like the paper; its vocabulary is [`Ops`], with the formulas. Then
//! read [`Timeline`], the state of a conversation. [`load`](mod@load) makes a [`Model`] from a file.
//!
//! This crate knows nothing of threads, vector units, devices or requests: all of them arrive as an
//! [`Ops`] and a batch of rows.

pub mod config;
pub mod foresee;
pub mod forward;
pub mod kv;
pub mod load;
pub mod mtp;
mod mtp_file;
pub mod ops;
pub mod page;
pub mod rehearsal;
pub mod rope;
pub mod snapshot;
pub mod tail;
pub mod tap;
pub mod timeline;
pub mod weights;

pub use config::{Config, Ratio};
pub use foresee::{foresee, go_on};
pub use forward::{BatchError, Entry, Output, Wanted, forward};
pub use kv::{KvFormat, RowLayout};
pub use load::{LoadError, load};
pub use mtp::{DraftEntry, DraftState, draft};
pub use mtp_file::{JoinError, join_mtp};
pub use ops::Ops;
pub use page::{Page, PageKey};
pub use rehearsal::rehearsal;
pub use snapshot::{Codec, SnapshotError};
pub use tail::Tail;
pub use tap::{NoTap, Tap};
pub use timeline::{PAGE, SLACK, Timeline};
pub use weights::{Matrix, Model};
