//! What is told about a reply once it is there.

use clap::ValueEnum;
use engine::{Finish, Reply, Stats};
use serde_json::json;
use std::fmt;

/// What to tell about a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsStyle {
    /// A line for people.
    Line,
    /// A line of JSON.
    Json,
    /// Nothing.
    Off,
}

/// The cost of a reply, and why it ended.
#[derive(Clone, Debug)]
pub struct Summary {
    stats: Stats,
    tokens: usize,
    finish: Finish,
    stop_string: Option<String>,
    has_calls: bool,
    seed: u64,
}

impl Summary {
    /// The summary of a reply that was written with this seed.
    pub fn new(reply: &Reply, seed: u64) -> Self {
        Summary {
            stats: reply.stats,
            tokens: reply.tokens.len(),
            finish: reply.finish.clone(),
            stop_string: reply.message.stop_string.clone(),
            has_calls: !reply.message.tool_calls.is_empty(),
            seed,
        }
    }

    /// Prints it on standard error.
    pub fn print(&self, style: StatsStyle) {
        match style {
            StatsStyle::Line => eprintln!("{self}"),
            StatsStyle::Json => eprintln!("{}", self.json()),
            StatsStyle::Off => {}
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "prompt_tokens": self.stats.prompt.cached + self.stats.prompt.computed,
            "cached_tokens": self.stats.prompt.cached,
            "reply_tokens": self.tokens,
            "drafted_tokens": self.stats.drafted,
            "accepted_tokens": self.stats.accepted,
            "prefill_tokens_per_second": self.stats.prefill_rate(),
            "decode_tokens_per_second": self.stats.decode_rate(),
            "first_token_seconds": self.stats.first_token.as_secs_f64(),
            "finish": self.finish_name(),
            "stop_string": self.stop_string,
            "seed": self.seed,
        })
    }

    fn finish_name(&self) -> &'static str {
        match self.finish {
            Finish::Eos => "eos",
            Finish::NextTurn(_) => "next_turn",
            Finish::Complete if self.stop_string.is_some() => "stop_string",
            Finish::Complete if self.has_calls => "tool_calls",
            Finish::Complete => "constraint",
            Finish::MaxTokens => "max_tokens",
            Finish::ContextFull => "context_full",
            Finish::MemoryFull => "memory_full",
            Finish::Deadline => "deadline",
            Finish::Cancelled => "cancelled",
        }
    }

    /// Why the reply is not whole, if it is not.
    fn cut(&self) -> &'static str {
        match self.finish {
            Finish::MaxTokens => "; cut at --max-tokens",
            Finish::ContextFull => "; cut, for the context is full",
            Finish::MemoryFull => "; cut, for the memory is full",
            Finish::Deadline => "; cut, for its time is over",
            Finish::Cancelled => "; interrupted",
            _ => "",
        }
    }
}

/// One line for people.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompt = self.stats.prompt;
        write!(f, "[prompt: {} tokens", prompt.cached + prompt.computed)?;
        if prompt.cached > 0 {
            write!(f, ", {} of them known", prompt.cached)?;
        }
        if let Some(rate) = self.stats.prefill_rate() {
            write!(f, ", {rate:.1} t/s")?;
        }
        write!(f, "; reply: {} tokens", self.tokens)?;
        if let Some(rate) = self.stats.decode_rate() {
            write!(f, ", {rate:.1} t/s")?;
        }
        if self.stats.drafted > 0 {
            write!(f, ", {} of {} guesses right", self.stats.accepted, self.stats.drafted)?;
        }
        write!(f, "; seed {}{}]", self.seed, self.cut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Synced;
    use std::time::Duration;

    #[test]
    fn the_line_tells_sizes_and_speeds() {
        let mut summary = Summary {
            stats: Stats::default(),
            tokens: 0,
            finish: Finish::Cancelled,
            stop_string: None,
            has_calls: false,
            seed: 7,
        };
        assert_eq!(summary.to_string(), "[prompt: 0 tokens; reply: 0 tokens; seed 7; interrupted]");
        summary.stats.prompt = Synced { cached: 5, computed: 10, elapsed: Duration::from_secs(2) };
        (summary.stats.steps, summary.stats.decode) = (3, Duration::from_secs(2));
        (summary.tokens, summary.finish) = (4, Finish::Eos);
        let want = "[prompt: 15 tokens, 5 of them known, 5.0 t/s; reply: 4 tokens, 1.5 t/s; seed 7]";
        assert_eq!(summary.to_string(), want);
        (summary.stats.drafted, summary.stats.accepted) = (6, 5);
        let want = "[prompt: 15 tokens, 5 of them known, 5.0 t/s; reply: 4 tokens, 4.0 t/s, 5 of 6 guesses right; seed 7]";
        assert_eq!(summary.to_string(), want);
    }
}
