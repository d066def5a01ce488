//! Why a part of a prompt had to be read that might have been known.

use std::fmt;

/// Why not more of a prompt was found in the cache. Re-reading a prompt is what hurts users most, so each
/// request says why it had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Miss {
    /// Nothing that was read before begins like this prompt.
    New,
    /// The prompt goes on after what was read before, and all of that was known: the usual next turn.
    Beyond,
    /// The prompt goes on differently from what was read before; up to there all was known.
    Differs,
    /// More was read before than could be used: no state was kept close to where the prompt departs from it.
    NoCheckpoint {
        /// Tokens that the prompt has in common with what was read.
        common: usize,
    },
    /// More was read before, but it was evicted to make room.
    Evicted,
    /// The prompt is too short to have anything in common with another one that is worth keeping.
    TooShort,
    /// More of this text was read before, but in other tokens, and the prompt was given as tokens.
    Incompatible,
}

/// Where the known part of a prompt came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheSource {
    /// Nothing was known.
    #[default]
    Nothing,
    /// Memory: a conversation goes on, or another one begins with the same.
    Memory,
    /// Memory: from inside of a conversation, which goes on differently from there or is answered once more.
    Rewind,
    /// The page store, a folder of this machine.
    Disk,
    /// The page store, a bucket.
    Remote,
}

impl CacheSource {
    /// One of a few words, for clients.
    pub fn name(self) -> &'static str {
        match self {
            CacheSource::Nothing => "none",
            CacheSource::Memory => "memory",
            CacheSource::Rewind => "memory-rewind",
            CacheSource::Disk => "disk",
            CacheSource::Remote => "remote",
        }
    }
}

impl Miss {
    /// One of a few words, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Miss::New => "new",
            Miss::Beyond => "beyond",
            Miss::Differs => "differs",
            Miss::NoCheckpoint { .. } => "no_checkpoint",
            Miss::Evicted => "evicted",
            Miss::TooShort => "too_short",
            Miss::Incompatible => "incompatible",
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::New => write!(f, "nothing read before begins like it"),
            Miss::Beyond => write!(f, "all that was read before is known"),
            Miss::Differs => write!(f, "it goes on differently from what was read before"),
            Miss::NoCheckpoint { common } => {
                write!(
                    f,
                    "{common} tokens are in common with what was read before, but no state was kept there"
                )
            }
            Miss::Evicted => write!(f, "what was read before was evicted"),
            Miss::TooShort => write!(f, "it is too short for anything of it to be kept"),
            Miss::Incompatible => write!(f, "what was read before has the same text in other tokens"),
        }
    }
}
