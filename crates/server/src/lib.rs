//! The HTTP server: OpenAI's and Anthropic's APIs, and our own.
//!
//! [`router`] is the whole app as a function; [`listen::serve`] puts it on a socket. The way of a request:
//! [`guard`] decides who may ask, a codec ([`chat`], [`completions`], [`responses`], [`messages`]) makes an
//! [`ask::Ask`] of it, the engine takes the job, a [`voice::Voice`] tells what it says, and the codec writes that
//! down, whole or as a [`stream`].
//!
//! Nothing here knows a tensor. No path or URL that a client sends is ever opened.

pub mod affinity;
pub mod app;
pub mod ask;
pub mod body;
pub mod chat;
pub mod completions;
pub mod error;
pub mod fields;
pub mod guard;
pub mod health;
mod heartbeat;
pub mod ids;
pub mod listen;
pub mod memory;
pub mod messages;
pub mod metrics;
pub mod models;
mod nonce;
pub mod openapi;
pub mod options;
pub mod page;
pub mod params;
pub mod places;
pub mod props;
pub mod responses;
pub mod router;
pub mod serving;
pub mod shape;
pub mod slots;
pub mod speaker;
pub mod stream;
pub mod thinking;
pub mod tls;
pub mod tokens;
pub mod tools;
pub mod trace;
pub mod usage;
pub mod voice;

pub use app::App;
pub use options::Options;
pub use router::router;
pub use speaker::{Speaker, Speech};
pub use tls::Tls;
