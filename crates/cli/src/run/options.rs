//! The options of `ds4 run` that shape a reply.

use clap::Args;
use engine::Sampling;
use engine::random::fresh_seed;
use serde::{Deserialize, Serialize};
use text::chat::request::{ChatRequest, Conversation, RequestDefaults, Thinking};
use text::chat::{MAX_EFFORT_CONTEXT, Profile, RenderOptions};

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Think {
    /// It answers at once.
    Off,
    /// It reasons first.
    On,
    /// It reasons at length.
    Max,
}

/// `--think` and its relatives.
#[derive(Args)]
#[group(multiple = false)]
pub struct ThinkArgs {
    /// Let the model reason before it answers
    #[arg(long)]
    think: bool,
    /// Let the model answer at once. The default here: on one's own machine, every token of reasoning is time
    /// spent waiting
    #[arg(long)]
    no_think: bool,
    /// Let the model reason at length; wants a context of 393216 tokens
    #[arg(long)]
    think_max: bool,
}

impl ThinkArgs {
    /// What was chosen, if anything was.
    pub fn choice(&self) -> Option<Think> {
        match self {
            ThinkArgs { think_max: true, .. } => Some(Think::Max),
            ThinkArgs { think: true, .. } => Some(Think::On),
            ThinkArgs { no_think: true, .. } => Some(Think::Off),
            _ => None,
        }
    }
}

impl Think {
    /// How prompts are rendered for a model of this profile and a context of so many tokens.
    pub fn render_options(self, profile: Profile, context: usize) -> RenderOptions {
        let request = ChatRequest {
            thinking: Some(Thinking::Switch(self != Think::Off)),
            reasoning_effort: (self == Think::Max).then(|| "max".to_owned()),
            ..ChatRequest::default()
        };
        let defaults = RequestDefaults { profile, ..RequestDefaults::default() };
        let empty = Conversation::new(request, &defaults).expect("no message, so none to refuse");
        let mut options = empty.options;
        options.effort = options.effort.map(|effort| effort.fitting(context));
        options
    }

    /// What to tell those who ask for more than the context has room for.
    pub fn warning(self, context: usize) -> Option<String> {
        (self == Think::Max && context < MAX_EFFORT_CONTEXT).then(|| {
            format!(
                "thinking at length wants a context of {MAX_EFFORT_CONTEXT} tokens and there are {context}, \
                 so the model thinks as usual"
            )
        })
    }
}

/// How tokens are chosen, and when to stop.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// How daring the choice of words is; 0 always takes the most probable one
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temp: f32,
    /// Choose among the K most probable tokens only; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the fewest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Leave out tokens less probable than this share of the most probable one
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// The same seed gives the same reply. Default: a new one each time, shown after the reply
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Divide the logits of tokens that were there before by this; 1 means off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Take this off the logit of every token that is in the reply
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Take this off the logit of a token for each time it is in the reply
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Add X to the logit of a token; can be given more than once
    #[arg(long, value_name = "TOKEN=X", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The most tokens to write, reasoning included
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Text that ends the answer and is not shown; can be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

fn parse_bias(arg: &str) -> Result<(u32, f32), String> {
    let (token, bias) = arg.split_once('=').ok_or("a token id, an equals sign and a number are needed")?;
    let token = token.parse().map_err(|e| format!("token {token:?}: {e}"))?;
    let bias = bias.parse().map_err(|e| format!("bias {bias:?}: {e}"))?;
    Ok((token, bias))
}

impl SamplingArgs {
    /// How tokens are chosen.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            bias: self.logit_bias.clone(),
        }
    }

    /// The seed of the next reply.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(fresh_seed)
    }

    /// The most tokens to write.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Text that ends the answer.
    pub fn stop(&self) -> Vec<String> {
        self.stop.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use text::chat::{Effort, ThinkingMode};

    #[test]
    fn thinking_is_rendered_as_the_checkpoint_knows_it() {
        let check = |think: Think, profile, context, mode, effort| {
            let options = think.render_options(profile, context);
            assert_eq!((options.mode, options.effort), (mode, effort), "{think:?} {profile:?} {context}");
        };
        let (chat, thinking) = (ThinkingMode::Chat, ThinkingMode::Thinking);
        check(Think::Off, Profile::V4, 4096, chat, None);
        check(Think::On, Profile::V4, 4096, thinking, None);
        check(Think::On, Profile::V4_0731, 4096, thinking, Some(Effort::High));
        check(Think::Max, Profile::V4, MAX_EFFORT_CONTEXT, thinking, Some(Effort::Max));
        check(Think::Max, Profile::V4_0731, 4096, thinking, Some(Effort::High));
        assert!(Think::Max.warning(4096).is_some());
        assert_eq!(Think::Max.warning(MAX_EFFORT_CONTEXT), None);
    }

    #[test]
    fn a_bias_is_a_token_and_a_number() {
        assert_eq!(parse_bias("12=-3.5"), Ok((12, -3.5)));
        assert!(parse_bias("12").is_err());
        assert!(parse_bias("a=1").unwrap_err().starts_with("token \"a\": "));
    }
}
