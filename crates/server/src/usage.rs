//! What a reply cost, counted from the tokens that were really read and written.

use engine::{Miss, Reply};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use text::reply::Start;
use text::{Marker, Tokenizer};
use utoipa::ToSchema;

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt, rendered.
    pub prompt: usize,
    /// Of these, what was in the cache.
    pub cached: usize,
    /// Sampled: reasoning, markup and the token at the end included.
    pub output: usize,
    /// Of these, reasoning and its markers.
    pub reasoning: usize,
}

impl Usage {
    /// The cost of a reply that started like this.
    ///
    /// - `forced`: how many tokens of the prompt the reply begins with
    pub fn new(prompt: usize, forced: usize, reply: &Reply, start: Start, tokenizer: &Tokenizer) -> Usage {
        let read = reply.stats.prompt.cached + reply.stats.prompt.computed;
        let ended = matches!(reply.finish, engine::Finish::Eos | engine::Finish::NextTurn(_));
        Usage {
            // The model may have spelled a part of the prompt in other tokens than we counted beforehand.
            prompt: forced + if read > 0 { read } else { prompt },
            cached: reply.stats.prompt.cached,
            output: reply.tokens.len().saturating_sub(forced) + usize::from(ended),
            reasoning: reasoning(reply, start, tokenizer),
        }
    }

    /// Several replies to one prompt, which is counted once.
    pub fn sum<'u>(usages: impl IntoIterator<Item = &'u Usage>) -> Usage {
        let mut sum: Option<Usage> = None;
        for usage in usages {
            sum = Some(match sum {
                None => *usage,
                Some(sum) => Usage {
                    output: sum.output + usage.output,
                    reasoning: sum.reasoning + usage.reasoning,
                    ..sum
                },
            });
        }
        sum.unwrap_or_default()
    }

    /// In the words of chat completions, DeepSeek's own included.
    pub fn chat(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.output,
            "total_tokens": self.prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "prompt_cache_hit_tokens": self.cached,
            "prompt_cache_miss_tokens": self.prompt - self.cached,
        })
    }

    /// In the words of Responses.
    pub fn responses(&self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.output,
        })
    }

    /// In the words of Messages. The three numbers of input add up to the prompt.
    pub fn messages(&self) -> Value {
        json!({
            "input_tokens": self.prompt - self.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.output,
            "output_tokens_details": {"thinking_tokens": self.reasoning},
        })
    }
}

/// Tokens up to the last `</think>`, or up to the calls if reasoning was not closed before them.
fn reasoning(reply: &Reply, start: Start, tokenizer: &Tokenizer) -> usize {
    if start != Start::Thinking {
        return 0;
    }
    let last = |marker| {
        let id = tokenizer.marker_id(marker)?;
        reply.tokens.iter().rposition(|&token| token == id)
    };
    let first = |marker| {
        let id = tokenizer.marker_id(marker)?;
        reply.tokens.iter().position(|&token| token == id)
    };
    match last(Marker::ThinkClose) {
        Some(at) => at + 1,
        None if !reply.message.tool_calls.is_empty() => first(Marker::Dsml).unwrap_or(reply.tokens.len()),
        None => reply.tokens.len(),
    }
}

/// How long it took, as an extension beside the usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Tokens of the prompt that were in the cache.
    pub cache_n: usize,
    /// Tokens of the prompt that were read.
    pub prompt_n: usize,
    /// How long that took.
    pub prompt_ms: f64,
    /// How many of them in a second.
    pub prompt_per_second: f64,
    /// Tokens written.
    pub predicted_n: usize,
    /// How long that took.
    pub predicted_ms: f64,
    /// How many of them in a second.
    pub predicted_per_second: f64,
    /// How long the request waited for its turn.
    pub queue_ms: f64,
    /// From the request to the first token.
    pub ttft_ms: f64,
    /// Tokens that were drafted.
    pub draft_n: usize,
    /// Of these, the ones that were right.
    pub draft_accepted_n: usize,
    /// Where the cached part came from: `none`, `memory`, `memory-rewind`, `disk` or `remote`.
    pub cache_source: &'static str,
    /// Why not more of the prompt was cached: `new`, `beyond`, `differs`, `no_checkpoint`, `evicted`,
    /// `too_short`, `incompatible`; nothing if all of it was.
    pub cache_miss: Option<&'static str>,
}

impl Timings {
    /// Of a reply.
    pub fn new(reply: &Reply, usage: &Usage, first_token: Option<Duration>, miss: Option<Miss>) -> Timings {
        let stats = &reply.stats;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Timings {
            cache_n: usage.cached,
            prompt_n: stats.prompt.computed,
            prompt_ms: ms(stats.prompt.elapsed),
            prompt_per_second: stats.prefill_rate().unwrap_or(0.0),
            predicted_n: usage.output,
            predicted_ms: ms(stats.decode),
            predicted_per_second: stats.decode_rate().unwrap_or(0.0),
            queue_ms: ms(stats.queued),
            ttft_ms: first_token.map_or(0.0, ms),
            draft_n: stats.drafted,
            draft_accepted_n: stats.accepted,
            cache_source: stats.source.name(),
            cache_miss: miss.map(Miss::name),
        }
    }
}
