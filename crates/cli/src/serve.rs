//! `ds4 serve`: the HTTP server.

use crate::backend::{BackendArgs, Task};
use crate::drafts_arg::DraftsArg;
use crate::model_arg::ModelArg;
use anyhow::{Context, bail, ensure};
use engine::store::{PageStore, Place, StoreOptions};
use engine::{Engine, EngineOptions, LoadedModel, Sampling};
use gguf::Gguf;
use model::{Codec, KvFormat, Ops};
#[cfg(unix)]
use server::listen::UnixSocket;
use server::listen::{RunError, Socket};
use server::options::ReasoningField;
use server::{App, Options, Speaker, Tls};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use text::chat::Profile;

/// Serve the model over HTTP.
///
/// Speaks the APIs of OpenAI (chat completions, completions, responses) and Anthropic (messages), so that their
/// clients and coding agents can be pointed at it. Listens on this machine only, unless told otherwise.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    #[command(flatten)]
    model: ModelArg,
    /// The address to listen on. Any other than this machine's own needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Instead of --host and --port: HOST:PORT, or unix:PATH for a socket that only your programs can open
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["host", "port"])]
    listen: Option<Listen>,
    /// A key that callers must show; can be given more than once. Also read from $DS4_API_KEY
    #[arg(long, value_name = "KEY", env = "DS4_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// A file with such keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Listen on a public address without a key: whoever can reach it can use it
    #[arg(long)]
    no_key_needed: bool,
    /// Another name of this machine that callers may use; can be given more than once
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Encrypt: the file with the server's certificate (PEM), and those that vouch for it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The file with the certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A web page's origin that may call, like https://chat.example; can be given more than once
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// The name under which the model is offered. Default: deepseek-v4-flash
    #[arg(long, value_name = "NAME", default_value = "deepseek-v4-flash", hide_default_value = true)]
    model_name: String,
    /// Refuse requests for other names
    #[arg(long)]
    strict_model: bool,
    /// Answer with the name that was asked for
    #[arg(long)]
    echo_model: bool,
    /// Let the model answer at once if a request does not say whether to think
    #[arg(long, help_heading = "Replies")]
    no_think: bool,
    /// The name under which chat completions give reasoning: `reasoning_content`, or that and also `reasoning`, for
    /// clients that read only the latter
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        default_value = "reasoning_content",
        help_heading = "Replies"
    )]
    reasoning_field: ReasoningName,
    /// Send usage at the end of every stream
    #[arg(long, help_heading = "Replies")]
    always_usage: bool,
    /// Leave `x-anthropic-...:` lines at the start of system texts out of the prompt (Claude Code puts one there). They
    /// change with every request; with `false` they stay, and then nothing of a prompt is found in the cache
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Replies")]
    strip_client_headers: bool,
    /// How reasoning is given in chat completions: in a field of its own, or inline, between <think> and </think> at
    /// the beginning of the content
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "field", help_heading = "Replies")]
    reasoning_format: ReasoningFormat,
    /// Whether misspelt tool markup around a declared tool is understood as a call
    #[arg(long, value_enum, value_name = "ON_OFF", default_value = "on", help_heading = "Replies")]
    dsml_recovery: OnOff,
    /// Temperature of requests that give none
    #[arg(long, value_name = "T", help_heading = "Replies")]
    temp: Option<f32>,
    /// How tokens are chosen if a request does not say: NAME=VALUE, separated by commas, of temperature, top_p, top_k,
    /// min_p, repetition_penalty, presence_penalty, frequency_penalty
    #[arg(long, value_name = "LIST", help_heading = "Replies", conflicts_with = "temp")]
    default_sampling: Option<DefaultSampling>,
    /// While the model thinks, choose tokens like this whatever a request says
    #[arg(long, help_heading = "Replies")]
    fixed_thinking_sampling: bool,
    /// Carry out `ignore_eos` and `min_tokens`, for benchmarks: any caller can then have long replies written
    #[arg(long, help_heading = "Replies")]
    allow_ignore_eos: bool,
    /// Seconds of silence after which a stream says that it is alive
    #[arg(long, value_name = "SECONDS", default_value_t = 10, help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..))]
    keep_alive: u64,
    /// Say so in a data frame, for clients of chat completions that do not count comments
    #[arg(long, help_heading = "Limits")]
    keepalive_as_data: bool,
    /// Seconds that a running request has to finish when the server ends
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Limits")]
    grace: u64,
    /// Seconds that a client may leave our bytes unread
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..))]
    slow_client_timeout: u64,
    /// Longest request, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..4096))]
    max_body: u32,
    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits", value_parser = clap::value_parser!(u32).range(1..100_000))]
    max_connections: u32,
    /// Seconds that a request may wait for its turn
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Limits")]
    max_queue_seconds: u64,
    /// Most requests of one key at once, those that wait included; 0 for as many as there is room for
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Limits")]
    key_limit: usize,
    /// Begin an answer in one piece early, with spaces, if it takes longer than --keep-alive: for clients that give up
    /// without a head. What fails later then has status 200 and an `error` in it
    #[arg(long, help_heading = "Limits")]
    nonstream_heartbeat: bool,
    /// Memory for stored responses, in MiB; 0 stores none
    #[arg(long, value_name = "MIB", default_value_t = 256, help_heading = "Limits", value_parser = clap::value_parser!(u32).range(..65_536))]
    response_store: u32,
    /// Go on with an answer when the client has closed its side for sending. It is then noticed late, or not at all
    /// before the end, that a client has gone
    #[arg(long, help_heading = "Limits")]
    allow_half_close: bool,
    /// Seconds that one step of the engine may take before /health calls the server unhealthy; 0 for any time
    #[arg(long, value_name = "SECONDS", default_value_t = 300, help_heading = "Operation")]
    watchdog: u64,
    /// Let callers save, restore and erase the conversation of a slot (POST /slots/N?action=...); needs --store
    #[arg(long, help_heading = "Operation", requires = "store")]
    slot_actions: bool,
    /// Show the prompts of the conversations that are worked on in GET /slots, to everybody with a key
    #[arg(long, help_heading = "Operation")]
    slots_show_prompt: bool,
    /// Give metrics in the names of another server too, for dashboards made for it (vLLM's are always there)
    #[arg(long, value_enum, value_name = "SERVER", help_heading = "Operation")]
    metrics_compat: Option<MetricsCompat>,
    /// Give metrics (and probes) on an address of their own, to everybody who can reach it
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Operation")]
    metrics_listen: Option<SocketAddr>,
    /// Refuse with status 529 instead of 503 in Anthropic's API
    #[arg(long, help_heading = "Operation")]
    anthropic_529: bool,
    /// Give metrics to those with a key only
    #[arg(long, help_heading = "Operation")]
    metrics_need_key: bool,
    /// Record requests, prompts, decisions and replies in this file, which only its owner can read
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    trace: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Engine")]
    backend: BackendArgs,
    /// How the KV cache is stored: f32, f16 or f8. Default: f8, or f16 if the model's sizes do not allow that
    #[arg(long, value_name = "FORMAT", value_parser = KvFormat::from_str, help_heading = "Engine")]
    kv: Option<KvFormat>,
    /// The most tokens of a conversation. Default: as many as the model can take
    #[arg(long, value_name = "N", help_heading = "Engine", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    #[command(flatten, next_help_heading = "Engine")]
    drafts: DraftsArg,
    /// Conversations that are worked on at once
    #[arg(long, value_name = "N", default_value = "16", help_heading = "Engine")]
    sessions: NonZero<usize>,
    /// Requests that may wait. Default: four for each session
    #[arg(long, value_name = "N", help_heading = "Engine")]
    max_queue: Option<usize>,
    /// Memory for cached conversations, in MiB. Default: a part of what is free
    #[arg(long, value_name = "MIB", help_heading = "Engine")]
    kv_memory: Option<u64>,
    /// Keep what was read here, so that it need not be read again after a restart: a folder, which only its
    /// owner can read, or s3://BUCKET/PREFIX if this program was built for buckets (cargo feature s3)
    #[arg(long, value_name = "STORE", help_heading = "Engine")]
    store: Option<String>,
    /// The most space that this may take, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32 << 10, help_heading = "Engine", requires = "store", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    store_limit: u64,
    /// Whose words prompts are written in: v4 or v4-0731. Default: what the file says it is
    #[arg(long, value_name = "NAME", value_parser = Profile::from_str, help_heading = "Engine")]
    profile: Option<Profile>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq)]
enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: wants a path after it".to_owned()),
            Some(path) => Ok(Listen::Unix(path.into())),
            None => text
                .parse()
                .map(Listen::Tcp)
                .map_err(|_| "wanted unix:PATH, or an IP address and a port".into()),
        }
    }
}

/// The name of reasoning in chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ReasoningName {
    /// The usual one.
    #[value(name = "reasoning_content")]
    ReasoningContent,
    /// `reasoning_content` and `reasoning`.
    Both,
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
}

/// Servers whose metrics' names we know besides vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MetricsCompat {
    Llamacpp,
}

/// How reasoning is given in chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ReasoningFormat {
    /// In a field of its own.
    Field,
    /// At the beginning of the content.
    Inline,
}

/// `NAME=VALUE,...`
#[derive(Clone, Debug, PartialEq)]
struct DefaultSampling(Sampling);

impl FromStr for DefaultSampling {
    type Err = String;

    fn from_str(text: &str) -> Result<DefaultSampling, String> {
        let mut sampling = Sampling::default();
        for pair in text.split(',') {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is no NAME=VALUE"))?;
            let number =
                || value.trim().parse::<f32>().map_err(|_| format!("{name}: {value:?} is no number"));
            match name.trim() {
                "temperature" | "temp" => sampling.temperature = number()?,
                "top_p" => sampling.top_p = number()?,
                "top_k" => {
                    sampling.top_k =
                        value.trim().parse().map_err(|_| format!("top_k: {value:?} is no count"))?;
                }
                "min_p" => sampling.min_p = number()?,
                "repetition_penalty" => sampling.repetition_penalty = number()?,
                "presence_penalty" => sampling.presence_penalty = number()?,
                "frequency_penalty" => sampling.frequency_penalty = number()?,
                other => {
                    return Err(format!("{other:?} is none of the numbers that say how tokens are chosen"));
                }
            }
        }
        sampling.check(usize::MAX).map_err(|error| error.to_string())?;
        Ok(DefaultSampling(sampling))
    }
}

const EXAMPLES: &str = "\
Examples:
  ds4 serve
  ds4 serve --store ~/.cache/ds4
  ds4 serve --host 0.0.0.0 --api-key-file keys.txt
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any codex
  ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=any claude";

impl Serve {
    /// Serves until it gets SIGTERM or Ctrl-C.
    pub fn run(self, _: &mut dyn Write) -> anyhow::Result<()> {
        let options = self.options()?;
        let gguf = self.drafts.file.open(&self.model)?;
        let listener = self.bind(options.tls.is_some())?;
        let metrics = self.metrics_listen.map(|address| {
            let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
            eprintln!("metrics on http://{}/metrics", listener.local_addr()?);
            anyhow::Ok(listener)
        });
        let metrics = metrics.transpose()?;
        let grace = Duration::from_secs(self.grace);
        let load = move |app: &App| -> anyhow::Result<Arc<dyn Speaker>> {
            let engine = self.backend.run(Start { args: &self, gguf, app })??;
            app.computes_on(self.backend.describe());
            for warning in &engine.info().warnings {
                eprintln!("warning: {warning}");
            }
            Ok(Arc::new(engine))
        };
        let ready = |speaker: &dyn Speaker| {
            let info = speaker.info();
            eprintln!("ready: {} with a context of {} tokens", info.name, info.context);
        };
        match server::listen::run(listener, metrics, options, grace, load, ready) {
            Ok(()) => Ok(()),
            Err(RunError::Load(error)) => Err(error),
            Err(error) => Err(anyhow::anyhow!("{error}")),
        }
    }

    /// Where to listen.
    fn place(&self) -> Listen {
        self.listen.clone().unwrap_or(Listen::Tcp(SocketAddr::new(self.host, self.port)))
    }

    /// Opens the socket and says where it is: tests and scripts read that line to learn the port.
    fn bind(&self, encrypted: bool) -> anyhow::Result<Socket> {
        match self.place() {
            Listen::Tcp(address) => {
                let listener =
                    TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
                let scheme = if encrypted { "https" } else { "http" };
                eprintln!("listening on {scheme}://{}", listener.local_addr()?);
                Ok(Socket::Tcp(listener))
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let bound = UnixSocket::bind(&path);
                let socket = bound.with_context(|| format!("listening on unix:{}", path.display()))?;
                eprintln!("listening on unix:{}", path.display());
                Ok(Socket::Unix(socket))
            }
            #[cfg(not(unix))]
            Listen::Unix(path) => bail!("unix:{}: this system has no such sockets", path.display()),
        }
    }

    /// The keys, wherever they come from.
    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            keys.extend(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()));
            ensure!(!keys.is_empty(), "{} has no keys", path.display());
        }
        ensure!(keys.iter().all(|key| !key.trim().is_empty()), "an API key is empty");
        Ok(keys)
    }

    fn options(&self) -> anyhow::Result<Options> {
        let keys = self.keys()?;
        let host = match self.place() {
            Listen::Tcp(address) => Some(address.ip()),
            Listen::Unix(_) => None,
        };
        if let Some(host) = host.filter(|host| !host.is_loopback())
            && keys.is_empty()
            && !self.no_key_needed
        {
            bail!(
                "listening on {host} lets others in, and there is no key: give one with --api-key-file, or say \
                 --no-key-needed if everybody who can reach this address may use it"
            );
        }
        if self.cors_origin.iter().any(|origin| origin == "*") && keys.is_empty() {
            bail!(
                "--cors-origin '*' lets every web page in, so it needs a key: give one with --api-key-file"
            );
        }
        let usual = Options::default();
        let given = self.default_sampling.clone().map_or(usual.sampling, |given| given.0);
        let sampling = Sampling { temperature: self.temp.unwrap_or(given.temperature), ..given };
        sampling.check(usize::MAX)?;
        Ok(Options {
            model_name: self.model_name.clone(),
            strict_model: self.strict_model,
            echo_model: self.echo_model,
            keys,
            // No browser gets to a socket that is a file, so no page can pretend to be one of ours there.
            loopback: host.is_some_and(|host| host.is_loopback()),
            hosts: self.allow_host.clone(),
            origins: self.cors_origin.clone(),
            metrics_need_key: self.metrics_need_key,
            llamacpp_metrics: self.metrics_compat == Some(MetricsCompat::Llamacpp),
            max_body: (self.max_body as usize) << 20,
            write_patience: Duration::from_secs(self.slow_client_timeout),
            max_connections: self.max_connections as usize,
            keep_alive: Duration::from_secs(self.keep_alive),
            keep_alive_as_data: self.keepalive_as_data,
            always_usage: self.always_usage,
            reasoning_field: match (self.reasoning_format, self.reasoning_field) {
                (ReasoningFormat::Inline, _) => ReasoningField::Inline,
                (ReasoningFormat::Field, ReasoningName::Both) => ReasoningField::Both,
                (ReasoningFormat::Field, ReasoningName::ReasoningContent) => ReasoningField::ReasoningContent,
            },
            think: !self.no_think,
            sampling,
            dsml_recovery: self.dsml_recovery == OnOff::On,
            response_store: (self.response_store as usize) << 20,
            max_queue_time: Duration::from_secs(self.max_queue_seconds),
            key_limit: self.key_limit,
            heartbeat: self.nonstream_heartbeat,
            tls: self
                .tls_cert
                .as_deref()
                .zip(self.tls_key.as_deref())
                .map(|(cert, key)| Tls::load(cert, key))
                .transpose()?,
            metrics_elsewhere: self.metrics_listen.is_some(),
            anthropic_529: self.anthropic_529,
            strip_client_headers: self.strip_client_headers,
            trace: self.trace.clone(),
            commit: option_env!("DS4_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_owned),
            slot_actions: self.slot_actions,
            show_prompts: self.slots_show_prompt,
            watchdog: Duration::from_secs(self.watchdog),
            half_close: self.allow_half_close,
            length_fields: self.allow_ignore_eos,
            fixed_thinking_sampling: self.fixed_thinking_sampling,
            replies: self.store.as_deref().and_then(|store| match Place::parse(store) {
                Ok(Place::Folder(folder)) => Some(folder),
                _ => None,
            }),
            ..usual
        })
    }
}

/// Loads the model and starts the engine, once it is known where to compute.
struct Start<'a> {
    args: &'a Serve,
    gguf: Gguf,
    app: &'a App,
}

impl Task for Start<'_> {
    type Output = anyhow::Result<Engine>;

    fn file(&self) -> &Gguf {
        &self.gguf
    }

    fn context(&self) -> Option<u32> {
        self.args.ctx
    }

    fn on<B: Ops + 'static>(self, ops: B) -> anyhow::Result<Engine> {
        let args = self.args;
        let progress = |part| self.app.progress(part);
        let loaded = LoadedModel::load_watched(ops, &self.gguf, args.profile, &progress);
        let loaded = loaded.context("loading the model")?;
        let kv = args.kv.unwrap_or_else(|| loaded.usual_kv());
        kv.check(&loaded.model.config)?;
        let drafts = args.drafts.of(&loaded)?;
        loaded.rehearse(kv, args.sessions.get(), &progress);
        let store = args.store.as_deref().map(|address| {
            let codec = Codec::new(&loaded.model.config, kv, loaded.model.fingerprint);
            let (limit, model) = (args.store_limit << 20, Some(loaded.name.clone()));
            let options = StoreOptions { limit, model, ..StoreOptions::default() };
            let opened = Place::parse(address).map_err(anyhow::Error::from);
            let opened = opened.and_then(|place| Ok(PageStore::open(&place, codec, options)?));
            opened.with_context(|| format!("opening the page store {address}"))
        });
        let store = store.transpose()?;
        let options = EngineOptions {
            kv: Some(kv),
            context: args.ctx.map(|n| n as usize),
            sessions: args.sessions.get(),
            queue: args.max_queue.unwrap_or(4 * args.sessions.get()),
            memory: args.kv_memory.map(|mib| mib << 20),
            drafts,
            store,
            ..EngineOptions::default()
        };
        Engine::start(Arc::new(loaded), options).context("starting the engine")
    }
}
