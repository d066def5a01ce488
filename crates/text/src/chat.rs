//! The chat protocol: how a conversation becomes a prompt.
//!
//! The way of a request: [`request`] turns what a client sent into [`Message`]s, [`replay`]
//! attaches what the model sampled for them earlier, [`render()`] writes the prompt. The way back,
//! from generated tokens to a message, is in [`reply`](crate::reply).

pub mod message;
mod profile;
mod render;
pub mod replay;
pub mod request;
mod tools;

pub use message::{Message, Task, Tool, ToolCall};
pub use profile::{Effort, MAX_EFFORT_CONTEXT, Profile, UnknownProfile};
pub use render::{RenderError, RenderOptions, ThinkingMode, render};
pub use replay::Replay;
