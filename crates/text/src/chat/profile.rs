//! What differs between checkpoints that speak the same protocol: the texts that set the effort.

use serde::{Deserialize, Serialize};

/// Which checkpoint a prompt is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Profile {
    /// The first releases of V4 Flash and V4 Pro.
    #[default]
    #[serde(rename = "v4")]
    V4,
    /// V4-Flash-0731 and what came after it.
    #[serde(rename = "v4-0731")]
    V4_0731,
}

impl Profile {
    /// Recognises a checkpoint by its embedded chat template, its `general.name` and the name of its
    /// file, as far as they are known.
    pub fn detect(chat_template: Option<&str>, names: &[&str]) -> Self {
        let later_template = chat_template.is_some_and(|template| template.contains("Beyond maximum"));
        let later_name = names.iter().any(|name| name.contains("0731") || name.contains("0813"));
        if later_template || later_name { Profile::V4_0731 } else { Profile::V4 }
    }
}

impl std::str::FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        match name {
            "v4" => Ok(Profile::V4),
            "v4-0731" => Ok(Profile::V4_0731),
            _ => Err(UnknownProfile { name: name.to_owned() }),
        }
    }
}

/// A profile that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile {name:?}: known are \"v4\" and \"v4-0731\"")]
pub struct UnknownProfile {
    /// What was asked for.
    pub name: String,
}

/// How hard the model should think, in the words of the checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// Least; only the 0731 line knows it.
    Low,
    /// The usual.
    High,
    /// Most.
    Max,
}

/// The model card asks for this much context before [`Effort::Max`] is used.
pub const MAX_EFFORT_CONTEXT: usize = 393_216;

impl Effort {
    /// The next lower effort if `context` tokens are too few for this one.
    pub fn fitting(self, context: usize) -> Self {
        if self == Effort::Max && context < MAX_EFFORT_CONTEXT { Effort::High } else { self }
    }

    /// The text at the very start of a thinking prompt; `None` if the checkpoint does not know this
    /// effort.
    pub(crate) fn text(self, profile: Profile) -> Option<&'static str> {
        match (profile, self) {
            (Profile::V4, Effort::Low) => None,
            (Profile::V4, Effort::High) | (Profile::V4_0731, Effort::Low) => Some(""),
            (Profile::V4, Effort::Max) | (Profile::V4_0731, Effort::High) => Some(ABSOLUTE_MAXIMUM),
            (Profile::V4_0731, Effort::Max) => Some(BEYOND_MAXIMUM),
        }
    }
}

const ABSOLUTE_MAXIMUM: &str = "\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.

";

const BEYOND_MAXIMUM: &str = "\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the \
problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause \
rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no \
assumption remains unchecked and no error remains undiscovered.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_known_by_its_template_or_its_name() {
        assert_eq!(Profile::detect(None, &[]), Profile::V4);
        assert_eq!(Profile::detect(Some("Absolute maximum"), &["DeepSeek V4 Flash"]), Profile::V4);
        assert_eq!(Profile::detect(Some("... Beyond maximum ..."), &[]), Profile::V4_0731);
        assert_eq!(Profile::detect(None, &["x", "DeepSeek-V4-Flash-0731-Q2.gguf"]), Profile::V4_0731);
        assert_eq!(Profile::detect(None, &["DeepSeek-V4-Pro-0813"]), Profile::V4_0731);
    }

    #[test]
    fn the_effort_texts_have_their_published_lengths() {
        assert_eq!(ABSOLUTE_MAXIMUM.len(), 476);
        assert_eq!(BEYOND_MAXIMUM.len(), 528);
    }

    #[test]
    fn the_most_effort_needs_room() {
        assert_eq!(Effort::Max.fitting(393_216), Effort::Max);
        assert_eq!(Effort::Max.fitting(393_215), Effort::High);
        assert_eq!(Effort::Low.fitting(0), Effort::Low);
    }
}
