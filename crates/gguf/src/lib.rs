//! GGUF: the file format models are published in, read and written.
//!
//! A GGUF file is a list of metadata (keys and typed values), a list of tensors (name, dimensions,
//! type, offset) and the tensors' bytes. A large model may be split into several such files, called
//! shards. Source: the format's description in ggml's `docs/gguf.md`, versions 2 and 3.
//!
//! Start at [`Gguf`] for reading: it maps the files, distrusts every byte of them, and hands out
//! [`Metadata`], [`TensorInfo`] and, without copying, the [`Bytes`] of a tensor. [`GgufWriter`] is
//! the way back. [`TensorType`] lists the types a tensor may have and their sizes.
//!
//! This crate knows how many bytes a block of weights has, and neither what is in it nor what
//! a model is.

mod bytes;
mod cursor;
mod error;
mod metadata;
mod open;
mod parse;
mod shards;
mod tensor;
mod value;
mod writer;

pub use bytes::Bytes;
pub use error::{GgufError, Problem, ShardProblem};
pub use metadata::{Metadata, MetadataError};
pub use open::{Gguf, Warning};
pub use tensor::{TensorInfo, TensorType};
pub use value::{Array, Strings, Value, ValueType};
pub use writer::{GgufWriter, WriteError};
