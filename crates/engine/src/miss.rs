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
        }
    }
}
