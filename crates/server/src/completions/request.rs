//! The body of a completion request.

use crate::App;
use crate::ask::{Api, Prepared, check_model};
use crate::error::ApiError;
use crate::fields::{Fields, kind, whole};
use crate::params::Params;
use crate::shape;
use crate::voice::Manner;
use engine::JobPrompt;
use engine::{Constraint, Form, Request};
use serde_json::Value;
use text::chat::request::ChatRequest;
use text::reply::Start;
use text::{Marker, Tokenizer};

/// Most prompts of one request.
const MAX_PROMPTS: usize = 64;

/// The prompts and how to answer them.
pub(super) struct CompletionBody {
    pub prompts: Vec<Vec<u32>>,
    pub style: Style,
}

/// How to answer.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub stream: bool,
    pub include_usage: bool,
    pub model: String,
    /// Texts to say before each prompt's replies; empty without `echo`.
    pub echo: Vec<String>,
    pub token_ids: bool,
    pub params: Params,
    pub constraint: Option<Constraint>,
    /// The text of each prompt's first token, if the prompt is scored; empty for the one that we put before it.
    pub first: Vec<String>,
    /// Whether the prompt's own tokens are scored: all but the first are then said by force.
    pub scored: bool,
    /// What the client should know about how it was understood.
    pub warnings: Vec<String>,
}

impl CompletionBody {
    /// Reads a body.
    pub fn read(body: &Value, app: &App) -> Result<CompletionBody, ApiError> {
        let fields = Fields::of_body(body)?;
        let speaker = app.loaded()?;
        let tokenizer = speaker.tokenizer();
        let model = fields.text("model")?.unwrap_or_default().to_owned();
        check_model(app, &model)?;
        let mut params = Params::read(&fields, 0, &app.options, speaker.info().vocab)?;
        if fields.whole("best_of", 1..)?.is_some_and(|best| best > params.n as i64) {
            return Err(ApiError::unsupported("best_of", "more than `n` is not supported here"));
        }
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "this model does not fill gaps"));
        }
        params.logprobs = match fields.get("logprobs") {
            Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some(0),
            _ => fields.whole("logprobs", 0..=20)?.map(|top| top as usize),
        };
        let form = shape::Form::of_extensions(&fields)?;
        let constraint = form.constraint(app, &ChatRequest::default(), None, false)?;
        let warnings = constraint.iter().flat_map(|it| it.warnings().iter().cloned()).collect();
        let prompts = prompts(&fields, tokenizer)?;
        let echo = match fields.flag("echo")?.unwrap_or(false) {
            true => prompts.iter().map(|prompt| shown(prompt, tokenizer)).collect(),
            false => Vec::new(),
        };
        let first = prompts.iter().map(|prompt| shown(&prompt[..1], tokenizer)).collect();
        let scored = !echo.is_empty() && params.logprobs.is_some();
        if scored && params.max_tokens == Some(0) {
            params.stop.clear(); // there is no reply that could end
        }
        if scored && !params.stop.is_empty() {
            return Err(ApiError::unsupported("stop", "not together with `echo` and `logprobs`"));
        }
        let options = fields.object("stream_options")?;
        let include_usage = match options {
            Some(object) => Fields::new(object, "stream_options.").flag("include_usage")?,
            None => None,
        };
        let style = Style {
            stream: params.stream,
            include_usage: include_usage.unwrap_or(app.options.always_usage),
            model: app.answer_name(&model),
            echo,
            token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            params,
            constraint,
            first,
            scored,
            warnings,
        };
        Ok(CompletionBody { prompts, style })
    }
}

impl Style {
    /// A prompt, ready for the engine.
    pub fn prepare(&self, mut prompt: Vec<u32>) -> Prepared {
        let params = &self.params;
        let forced = if self.scored { prompt.split_off(1) } else { Vec::new() };
        let count = forced.len();
        let max_tokens = params.max_tokens.map(|most| most.saturating_add(forced.len()));
        Prepared {
            prompt: JobPrompt::Tokens(prompt),
            request: Request {
                sampling: params.sampling.clone(),
                seed: params.seed,
                max_tokens,
                logprobs: params.logprobs,
                form: Form::Plain { stop: params.stop.clone() },
                strict_markup: false,
                constraint: self.constraint.clone(),
                think_budget: None,
                min_tokens: params.min_tokens,
                forced,
            },
            n: params.n,
            manner: Manner {
                api: Api::Completions,
                start: Start::Chat,
                call_prefix: "call_",
                forced: count,
                keep: None,
            },
            warnings: Vec::new(),
        }
    }

    /// What is said before the reply of this number.
    pub fn echo(&self, choice: usize) -> &str {
        self.echo.get(choice / self.params.n).map_or("", String::as_str)
    }

    /// The part of the echo that the reply does not begin with itself.
    pub fn echo_before_reply(&self, choice: usize) -> &str {
        if self.scored {
            self.first.get(choice / self.params.n).map_or("", String::as_str)
        } else {
            self.echo(choice)
        }
    }
}

/// The tokens of each prompt.
fn prompts(fields: &Fields<'_>, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    let special = fields.flag("parse_special")?.unwrap_or(true);
    let add_bos = fields.flag("add_special_tokens")?.unwrap_or(true);
    let encode = |text: &str| {
        let mut tokens = if special { tokenizer.encode_trusted(text) } else { tokenizer.encode(text) };
        if let Some(bos) =
            tokenizer.marker_id(Marker::Bos).filter(|bos| add_bos && tokens.first() != Some(bos))
        {
            tokens.insert(0, bos);
        }
        tokens
    };
    let refuse = |problem: &str| ApiError::invalid("prompt", problem);
    let expected = "a string, a list of strings, of token ids or of lists of token ids was expected";
    let vocab = tokenizer.len();
    let ids = |list: &[Value]| {
        let id = |value: &Value| whole(value).filter(|id| (0..vocab as i64).contains(id)).map(|id| id as u32);
        list.iter()
            .map(id)
            .collect::<Option<Vec<u32>>>()
            .ok_or_else(|| refuse(&format!("token ids are integers from 0 to {}", vocab.saturating_sub(1))))
    };
    let prompts = match fields.get("prompt") {
        None => return Err(ApiError::missing("prompt")),
        Some(Value::String(text)) => vec![encode(text)],
        Some(Value::Array(list)) => match list.first() {
            None => return Err(refuse("the list is empty")),
            Some(Value::Number(_)) => vec![ids(list)?],
            Some(_) if list.len() > MAX_PROMPTS => {
                return Err(refuse(&format!("more than {MAX_PROMPTS} prompts")));
            }
            Some(_) => list
                .iter()
                .map(|prompt| match prompt {
                    Value::String(text) => Ok(encode(text)),
                    Value::Array(list) => ids(list),
                    other => Err(refuse(&format!("{} is in the list; {expected}", kind(other)))),
                })
                .collect::<Result<_, _>>()?,
        },
        Some(other) => return Err(refuse(&format!("{} is given; {expected}", kind(other)))),
    };
    if prompts.iter().any(Vec::is_empty) {
        return Err(refuse("a prompt has no tokens"));
    }
    Ok(prompts)
}

/// A prompt as text, without the token that we put before it.
fn shown(prompt: &[u32], tokenizer: &Tokenizer) -> String {
    let bos = tokenizer.marker_id(Marker::Bos);
    let rest = if prompt.first().copied() == bos { &prompt[1..] } else { prompt };
    tokenizer.decode(rest).expect("checked against the vocabulary")
}
