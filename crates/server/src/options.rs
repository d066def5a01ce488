//! What the operator decides.

use crate::tls::Tls;
use engine::Sampling;
use std::path::PathBuf;
use std::time::Duration;
use text::chat::Effort;

/// Everything about the server that is not the model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name under which the model is offered.
    pub model_name: String,
    /// Whether other names are refused.
    pub strict_model: bool,
    /// Whether an answer repeats the name that was asked for.
    pub echo_model: bool,
    /// Keys of which a caller must show one; none means that everybody may ask.
    pub keys: Vec<String>,
    /// Whether only this machine can reach the server. Then `Host` must be a name of it.
    pub loopback: bool,
    /// Further names of this machine.
    pub hosts: Vec<String>,
    /// Web pages that may ask, as `scheme://host[:port]`, or `*`.
    pub origins: Vec<String>,
    /// Whether `/metrics` is for those with a key only.
    pub metrics_need_key: bool,
    /// Whether metrics are also given in llama.cpp's names.
    pub llamacpp_metrics: bool,
    /// Longest body, before and after decompression.
    pub max_body: usize,
    /// How long a body may stand still.
    pub body_patience: Duration,
    /// How long a client may leave our bytes unread.
    pub write_patience: Duration,
    /// How long a connection may stay without a request.
    pub idle_patience: Duration,
    /// Most connections at once.
    pub max_connections: usize,
    /// After how much silence a stream says that it is alive.
    pub keep_alive: Duration,
    /// Whether chat streams say so in a data frame instead of a comment.
    pub keep_alive_as_data: bool,
    /// Whether usage is sent at the end of streams that did not ask for it.
    pub always_usage: bool,
    /// How reasoning is given in chat completions.
    pub reasoning_field: ReasoningField,
    /// Whether the model thinks if nobody says.
    pub think: bool,
    /// How hard, if nobody says.
    pub effort: Option<Effort>,
    /// How tokens are chosen if nobody says.
    pub sampling: Sampling,
    /// Whether misspelt tool markup is understood.
    pub dsml_recovery: bool,
    /// Whether lines of `x-anthropic-…:` at the start of system texts are left out: they change with every
    /// request, and the prompt would never be found in the cache.
    pub strip_client_headers: bool,
    /// Bytes of stored responses; 0 stores none.
    pub response_store: usize,
    /// How long a request may wait in the queue.
    pub max_queue_time: Duration,
    /// Most requests of one key at once, those that wait included; 0 for as many as there is room for. Callers
    /// without a key count as one.
    pub key_limit: usize,
    /// Whether an answer in one piece that takes longer than `keep_alive` begins early, with spaces.
    pub heartbeat: bool,
    /// How to encrypt; `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// Whether `/metrics` has an address of its own. Then it is for those with a key only everywhere else.
    pub metrics_elsewhere: bool,
    /// Whether refusals for overload have Anthropic's own status 529.
    pub anthropic_529: bool,
    /// Where prompts, decisions and events are recorded.
    pub trace: Option<PathBuf>,
    /// The source that the program was built from, if that is known.
    pub commit: Option<String>,
    /// Whether conversations can be saved, brought back and forgotten by the number of their slot.
    pub slot_actions: bool,
    /// Whether `/slots` shows the prompts of conversations that are worked on.
    pub show_prompts: bool,
    /// How long the engine may be busy with one thing before the server calls itself unhealthy; zero for any time.
    pub watchdog: Duration,
    /// Whether a client that has said all it has to say, and closed its side, still waits for an answer.
    pub half_close: bool,
    /// Whether `ignore_eos` and `min_tokens` are carried out: whoever may ask for them can have long replies written.
    pub length_fields: bool,
    /// Whether requests cannot change how tokens are chosen while the model thinks.
    pub fixed_thinking_sampling: bool,
    /// The folder in which the spelling of replies is kept beyond restarts.
    pub replies: Option<PathBuf>,
}

/// How reasoning is given in chat completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningField {
    /// As `reasoning_content`.
    #[default]
    ReasoningContent,
    /// As `reasoning_content` and `reasoning`.
    Both,
    /// Between `<think>` and `</think>` at the beginning of the content, for clients that know no field for it.
    Inline,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            model_name: "deepseek-v4-flash".to_owned(),
            strict_model: false,
            echo_model: false,
            keys: Vec::new(),
            loopback: true,
            hosts: Vec::new(),
            origins: Vec::new(),
            metrics_need_key: false,
            llamacpp_metrics: false,
            max_body: 64 << 20,
            body_patience: Duration::from_secs(30),
            write_patience: Duration::from_secs(60),
            idle_patience: Duration::from_secs(75),
            max_connections: 1024,
            keep_alive: Duration::from_secs(10),
            keep_alive_as_data: false,
            always_usage: false,
            reasoning_field: ReasoningField::ReasoningContent,
            think: true,
            effort: None,
            sampling: Sampling::default(),
            dsml_recovery: true,
            strip_client_headers: true,
            response_store: 256 << 20,
            max_queue_time: Duration::from_secs(600),
            key_limit: 0,
            heartbeat: false,
            tls: None,
            metrics_elsewhere: false,
            anthropic_529: false,
            trace: None,
            commit: None,
            slot_actions: false,
            show_prompts: false,
            watchdog: Duration::from_secs(300),
            half_close: false,
            length_fields: false,
            fixed_thinking_sampling: false,
            replies: None,
        }
    }
}
