//! Why a file was refused: where, what was found, what was needed.

use std::io;
use std::path::PathBuf;

use crate::tensor::{MAX_DIMS, MAX_NAME, TensorType};

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened, measured or mapped.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What the file holds is not right.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file, or the name given to memory in place of one.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
    /// The files of a split model do not belong together.
    #[error("{}: {problem}", file.display())]
    Shards {
        /// The file that does not fit.
        file: PathBuf,
        /// What is wrong with the set.
        #[source]
        problem: ShardProblem,
    },
}

/// What can be wrong with one GGUF file.
///
/// A `place` says where in the file, in words: `the value of key general.name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the message says
pub enum Problem {
    /// Something that cannot be mapped.
    #[error("not a regular file")]
    NotAFile,
    /// Another kind of file. `hint` is empty or says which.
    #[error("not a GGUF file: it starts with \"{found}\" and should with \"GGUF\"{hint}")]
    Magic { found: String, hint: &'static str },
    /// A version of the format that is not read here.
    #[error("GGUF version {found}, needed 2 or 3: {hint}")]
    Version { found: u32, hint: &'static str },
    /// More keys or tensors than the file has room for.
    #[error("{found} {what} announced, but the {remaining} bytes after the header hold at most {most}")]
    Count { what: &'static str, found: u64, remaining: u64, most: u64 },
    /// The file ends inside its metadata, or a length in there is wrong.
    #[error(
        "truncated or damaged: {place} needs {need} bytes at offset {offset}, \
         but the file ends at {end}"
    )]
    Cut { place: String, need: u64, offset: u64, end: u64 },
    /// A length beyond any sensible one, although the file is long enough.
    #[error("{place} is {found} long, at most {most} accepted")]
    TooLong { place: String, found: u64, most: u64 },
    /// An unknown type of value.
    #[error("{place} has type {found}, needed 0 to 12")]
    ValueType { place: String, found: u32 },
    /// An array of arrays, or of something unknown.
    #[error("{place} is an array of type {found}, needed 0 to 12 and not 9 (arrays of arrays)")]
    ArrayType { place: String, found: u32 },
    /// A key without letters.
    #[error("{place} is empty")]
    EmptyKey { place: String },
    /// A name that is not text.
    #[error("{place} is named \"{found}\", which is not UTF-8")]
    NotText { place: String, found: String },
    /// The same key twice.
    #[error("key {key} occurs twice")]
    DuplicateKey { key: String },
    /// An alignment that cannot be one.
    #[error("key general.alignment is {found}, needed a power of two up to {most}, as u32")]
    Alignment { found: String, most: u32 },
    /// A tensor's name is empty or too long.
    #[error("tensor \"{name}\": the name is {len} bytes long, needed 1 to {MAX_NAME}")]
    TensorName { name: String, len: usize },
    /// The same tensor twice.
    #[error("tensor {tensor} occurs twice")]
    DuplicateTensor { tensor: String },
    /// Too many dimensions.
    #[error("tensor {tensor}: {found} dimensions, needed at most {MAX_DIMS}")]
    DimensionCount { tensor: String, found: u64 },
    /// A dimension that cannot be one.
    #[error("tensor {tensor}: a dimension of {found}, needed 1 to 2^63 - 1")]
    Dimension { tensor: String, found: u64 },
    /// A product of dimensions beyond 64 bits.
    #[error("tensor {tensor}: dimensions {dims:?} are too large for any file")]
    TooLarge { tensor: String, dims: Vec<u64> },
    /// A type that no table here has.
    #[error("tensor {tensor}: unknown type id {found}")]
    UnknownType { tensor: String, found: u32 },
    /// Rows that are not whole blocks.
    #[error("tensor {tensor}: {kind} needs rows of a multiple of {block} elements, found {row}")]
    BlockSize { tensor: String, kind: TensorType, row: u64, block: u64 },
    /// Data at an odd place.
    #[error("tensor {tensor}: offset {offset} is no multiple of the alignment {alignment}")]
    Offset { tensor: String, offset: u64, alignment: u64 },
    /// The file is shorter than its tensors: often a download that was not finished.
    #[error(
        "truncated: tensor {tensor} ends at byte {need}, but the file has {found} ({percent} % of what it needs)"
    )]
    Truncated { tensor: String, need: u64, found: u64, percent: u64 },
    /// Two tensors share bytes.
    #[error(
        "tensors {first} and {second} overlap: the first ends at byte {end}, the second starts at {start}{hint}"
    )]
    Overlap { first: String, second: String, end: u64, start: u64, hint: &'static str },
    /// The file changed while it was in use.
    #[error("the file had {before} bytes when it was opened and has {now} now")]
    Changed { before: u64, now: u64 },
}

/// What can be wrong with a set of shards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the message says
pub enum ShardProblem {
    /// A split model in memory: there is no folder to look for its other parts in.
    #[error("one part of a model in {count} files, which can only be opened from a folder")]
    InMemory { count: u64 },
    /// Without the usual name the other shards cannot be found.
    #[error("one part of a model in {count} files must be named PREFIX-{no:05}-of-{count:05}.gguf")]
    Name { no: u64, count: u64 },
    /// A shard is not there.
    #[error("shard {no} of {count} is missing")]
    Missing { no: u64, count: u64 },
    /// A shard of another set, or in another place.
    #[error("key {key} is {found}, needed {needed}")]
    Key { key: &'static str, found: String, needed: u64 },
    /// A tensor is in two shards.
    #[error("tensor {tensor} is in shard {first} too")]
    DuplicateTensor { tensor: String, first: usize },
    /// Tensors are missing, or too many.
    #[error("the shards hold {found} tensors, key split.tensors.count says {needed}")]
    TensorCount { found: u64, needed: u64 },
}
