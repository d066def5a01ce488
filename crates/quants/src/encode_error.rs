//! Why a row could not be encoded.

use crate::Format;

/// Why a row of numbers could not be written in a block format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// NaN or an infinity among the weights: no format has a meaning for them.
    #[error("value {index} of the row is {value}; only finite numbers can be encoded")]
    NotFinite {
        /// Where in the row.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// A finite number that the format could only write as an infinity.
    #[error("value {index} of the row is {value:e}; {format} holds at most {largest:e}")]
    TooLarge {
        /// The format asked for.
        format: Format,
        /// Where in the row.
        index: usize,
        /// What was found.
        value: f32,
        /// The largest magnitude the format holds.
        largest: f32,
    },
    /// A format that this program reads but does not write.
    #[error("{format} can be read, but there is no encoder for it")]
    NoEncoder {
        /// The format asked for.
        format: Format,
    },
}
