//! What any chat API asks for, and the way from there to a job of the engine.
//!
//! Each API's codec makes an [`Ask`]; [`Ask::prepare`] renders and checks it, [`Prepared::begin`] hands it to the
//! engine. Everything that can fail cheaply fails here, before an answer begins.

use crate::app::App;
use crate::error::{ApiError, Fault};
use crate::guard::{Client, RequestId};
use crate::memory::Trail;
use crate::nonce;
use crate::params::Params;
use crate::places::Place;
use crate::shape;
use crate::thinking::Think;
use crate::voice::{Manner, Voice};
use engine::{Form, Request, Sampling};
use engine::{Job, JobPrompt, Priority};
use std::sync::Arc;
use text::chat::ThinkingMode;
use text::chat::replay::ReplayScope;
use text::chat::request::{ChatRequest, Conversation, RequestDefaults, RequestError, Thinking, ToolChoice};
use text::reply::Start;
use text::{Marker, Prompt, ReplyOptions, Tokenizer};

/// A chat request of any API.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The API, for metrics.
    pub api: Api,
    /// The model's name in the request.
    pub model: String,
    /// The conversation.
    pub chat: ChatRequest,
    /// Whether and how hard to think.
    pub think: Think,
    /// The numbers.
    pub params: Params,
    /// What the content must look like.
    pub shape: shape::Form,
    /// The only tools that may be called; `None` allows all.
    pub allowed: Option<Vec<String>>,
    /// Whether at most one tool is called.
    pub one_call: bool,
    /// What the ids of calls begin with.
    pub call_prefix: &'static str,
    /// What the client should know about how it was understood.
    pub warnings: Vec<String>,
}

/// An API, for metrics and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// Chat Completions.
    Chat,
    /// Completions.
    Completions,
    /// Responses.
    Responses,
    /// Messages.
    Messages,
}

impl Api {
    /// All of them.
    pub const ALL: [Api; 4] = [Api::Chat, Api::Completions, Api::Responses, Api::Messages];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Api::Chat => "chat",
            Api::Completions => "completions",
            Api::Responses => "responses",
            Api::Messages => "messages",
        }
    }
}

/// A request that is ready for the engine.
pub struct Prepared {
    /// The prompt.
    pub prompt: JobPrompt,
    /// How to reply.
    pub request: Request,
    /// How many replies.
    pub n: usize,
    /// How the replies are told.
    pub manner: Manner,
    /// What the client should know about how it was understood.
    pub warnings: Vec<String>,
}

impl Ask {
    /// Renders the conversation and checks all there is to check.
    ///
    /// # Errors
    ///
    /// If the request makes no sense or asks for something that cannot be had.
    pub fn prepare(self, app: &App, client: &Client) -> Result<Prepared, ApiError> {
        let speaker = app.loaded()?;
        check_model(app, &self.model)?;
        let (tokenizer, info) = (speaker.tokenizer(), speaker.info());
        let mut warnings = self.warnings;

        let think = self.think.or(Think::of_model(&self.model));
        let mut chat = self.chat;
        if app.options.strip_client_headers {
            nonce::strip(&mut chat.messages);
        }
        chat.thinking = think.on.map(Thinking::Switch);
        chat.reasoning_effort = think.effort;
        self.shape.declare(&mut chat);
        check_choice(&chat)?;
        let constraint = self.shape.constraint(app, &chat, self.allowed.as_deref(), self.one_call)?;
        warnings.extend(constraint.iter().flat_map(|constraint| constraint.warnings().iter().cloned()));
        let forbidden = chat.tool_choice == ToolChoice::None;
        if chat.messages.is_empty() {
            return Err(ApiError::invalid("messages", "at least one message is needed"));
        }
        let defaults =
            RequestDefaults { profile: info.profile, think: app.options.think, effort: app.options.effort };
        let mut conversation = Conversation::new(chat, &defaults).map_err(refusal)?;
        let asked = conversation.options.effort;
        conversation.options.effort = asked.map(|effort| effort.fitting(info.context));
        if conversation.options.effort != asked {
            warnings.push(format!(
                "thinking at length wants a context of {} tokens and there are {}: the model thinks as usual",
                text::chat::MAX_EFFORT_CONTEXT,
                info.context
            ));
        }

        let scope = ReplayScope {
            client: client.scope.clone(),
            model: app.options.model_name.clone(),
            profile: info.profile,
        };
        let trail = app.memory().attach(&scope, &mut conversation);
        let prompt = conversation.prompt().map_err(|error| ApiError::invalid("messages", error))?;
        let reply = ReplyOptions {
            stop: self.params.stop.clone(),
            recovery: app.options.dsml_recovery,
            ..conversation.reply_options()
        };
        let start = reply.start;
        let reasons = conversation.options.mode == ThinkingMode::Thinking;

        let mut sampling = self.params.sampling;
        if reasons && app.options.fixed_thinking_sampling {
            sampling = Sampling { bias: sampling.bias, ..app.options.sampling.clone() };
        }
        if forbidden
            && !conversation.declared_tools.is_empty()
            && let Some(dsml) = tokenizer.marker_id(Marker::Dsml)
        {
            // The definitions stay in the prompt, so the model may want to call; it cannot without this token.
            sampling.bias.push((dsml, -100.0));
        }
        let whole_turn = start != Start::Block && !is_prefill(&conversation);
        Ok(Prepared {
            request: Request {
                sampling,
                seed: self.params.seed,
                max_tokens: self.params.max_tokens,
                logprobs: self.params.logprobs,
                form: Form::Chat(reply),
                strict_markup: true,
                constraint,
                think_budget: think.budget,
                min_tokens: self.params.min_tokens,
                forced: Vec::new(),
            },
            prompt: JobPrompt::Rendered(prompt),
            n: self.params.n,
            manner: Manner {
                api: self.api,
                start,
                call_prefix: self.call_prefix,
                forced: 0,
                keep: Some(Keep { scope, trail, reasons, whole_turn }),
            },
            warnings,
        })
    }
}

/// What is needed to remember a reply.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Who may see it again.
    pub scope: ReplayScope,
    /// What came before it.
    pub trail: Trail,
    /// Whether the reply begins with reasoning.
    pub reasons: bool,
    /// Whether the sampled tokens are the whole turn.
    pub whole_turn: bool,
}

impl Prepared {
    /// Tokens of the prompt.
    ///
    /// # Errors
    ///
    /// If the vocabulary lacks a control token.
    pub fn count(&self, app: &App) -> Result<usize, ApiError> {
        match &self.prompt {
            JobPrompt::Tokens(tokens) => Ok(tokens.len()),
            JobPrompt::Rendered(prompt) => Ok(encode(app, prompt)?.len()),
        }
    }

    /// The prompt as text.
    fn shown(&self, tokenizer: &Tokenizer) -> String {
        match &self.prompt {
            JobPrompt::Tokens(tokens) => tokenizer.decode(tokens).unwrap_or_default(),
            JobPrompt::Rendered(prompt) => prompt.to_string(),
        }
    }

    /// Hands the request to the engine: one job for each reply.
    ///
    /// # Errors
    ///
    /// If the engine does not take it.
    pub fn begin(self, app: &App, id: &RequestId, place: &Arc<Place>) -> Result<Vec<Voice>, ApiError> {
        let speaker = app.speaker()?;
        let mut voices = Vec::with_capacity(self.n);
        for nth in 0..self.n {
            let mut request = self.request.clone();
            request.seed = request.seed.wrapping_add(nth as u64);
            let job = Job {
                prompt: self.prompt.clone(),
                request,
                priority: Priority::Normal,
                deadline: None,
                affinity: id.1.get(),
            };
            let speech = speaker.submit(job)?;
            let mut voice = Voice::new(app.clone(), speech, self.manner.clone(), id, place.clone());
            if app.options.show_prompts {
                voice.show(self.shown(speaker.tokenizer()));
            }
            voices.push(voice);
        }
        Ok(voices)
    }
}

/// The tokens of a rendered prompt.
///
/// # Errors
///
/// If the vocabulary lacks a control token.
pub fn encode(app: &App, prompt: &Prompt) -> Result<Vec<u32>, ApiError> {
    app.loaded()?
        .tokenizer()
        .encode_prompt(prompt)
        .map_err(|error| ApiError::new(Fault::Unsupported, error.to_string()))
}

/// Whether the name is one of this server's.
///
/// # Errors
///
/// If the operator wants that to be checked, and it is not.
pub fn check_model(app: &App, asked: &str) -> Result<(), ApiError> {
    let own = &app.options.model_name;
    let base = asked.rsplit('/').next().unwrap_or(asked);
    let known = base == own
        || base.strip_prefix(own.as_str()).is_some_and(|suffix| {
            matches!(suffix, ":nothink" | "-nothink" | ":think" | "-think" | ":max" | "-max")
        })
        || matches!(base, "deepseek-chat" | "deepseek-reasoner");
    if !app.options.strict_model || known {
        return Ok(());
    }
    let message = format!("the model `{asked}` is not served here; `{own}` is");
    Err(ApiError::new(Fault::Model, message).at("model"))
}

/// A choice must be of something that is there.
fn check_choice(chat: &ChatRequest) -> Result<(), ApiError> {
    let declared = |name: &str| chat.tools.iter().any(|tool| tool.0.name() == name);
    match &chat.tool_choice {
        ToolChoice::Required if chat.tools.is_empty() => {
            Err(ApiError::invalid("tool_choice", "a call is required, but there are no tools"))
        }
        ToolChoice::Named(name) if !declared(name) => {
            Err(ApiError::invalid("tool_choice", format!("the tool {name:?} is not among the tools")))
        }
        _ => Ok(()),
    }
}

fn is_prefill(conversation: &Conversation) -> bool {
    use text::chat::Message;
    use text::chat::request::Ending;
    matches!(conversation.ending, Ending::OpenReasoning(_))
        || matches!(conversation.messages.last(), Some(Message::Assistant(last)) if last.wo_eos)
}

fn refusal(error: RequestError) -> ApiError {
    let message = error.to_string();
    let param = match &error {
        RequestError::Part { message, .. } => format!("messages[{message}].content"),
        RequestError::Call { message, call } => format!("messages[{message}].tool_calls[{call}]"),
        _ => "messages".to_owned(),
    };
    ApiError::new(Fault::Invalid, message).at(&param)
}
