//! `ds4 serve`: the HTTP server.

use crate::backend::{BackendArgs, Task};
use crate::model_arg::ModelArg;
use anyhow::{Context, bail, ensure};
use engine::store::{PageStore, Place, StoreOptions};
use engine::{Engine, EngineOptions, LoadedModel, Sampling};
use gguf::Gguf;
use model::{Codec, KvFormat, Ops};
use server::listen::RunError;
use server::options::ReasoningField;
use server::{Options, Speaker, Tls};
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
    /// Also give reasoning under the name `reasoning` in chat completions
    #[arg(long, help_heading = "Replies")]
    reasoning_both: bool,
    /// Send usage at the end of every stream
    #[arg(long, help_heading = "Replies")]
    always_usage: bool,
    /// Leave `x-anthropic-...:` lines at the start of system texts in the prompt. They change with every request, so
    /// nothing of the prompt is found in the cache
    #[arg(long, help_heading = "Replies")]
    keep_client_headers: bool,
    /// Do not repair misspelt tool markup
    #[arg(long, help_heading = "Replies")]
    no_dsml_recovery: bool,
    /// Temperature of requests that give none
    #[arg(long, value_name = "T", help_heading = "Replies")]
    temp: Option<f32>,
    /// Seconds of silence after which a stream says that it is alive
    #[arg(long, value_name = "SECONDS", default_value_t = 10, help_heading = "Limits", value_parser = clap::value_parser!(u64).range(1..))]
    keep_alive: u64,
    /// Say so in a data frame, for clients of chat completions that do not count comments
    #[arg(long, help_heading = "Limits")]
    keep_alive_as_data: bool,
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
    /// Also give metrics in llama.cpp's names
    #[arg(long, help_heading = "Operation")]
    llamacpp_metrics: bool,
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
        let gguf = self.model.open()?;
        let address = SocketAddr::new(self.host, self.port);
        let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        let address = listener.local_addr()?;
        // Tests and scripts read this line to learn the port.
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        eprintln!("listening on {scheme}://{address}");
        let metrics = self.metrics_listen.map(|address| {
            let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
            eprintln!("metrics on http://{}/metrics", listener.local_addr()?);
            anyhow::Ok(listener)
        });
        let metrics = metrics.transpose()?;
        let grace = Duration::from_secs(self.grace);
        let load = move || -> anyhow::Result<Arc<dyn Speaker>> {
            let engine = self.backend.run(Start { args: &self, gguf })??;
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
        let loopback = self.host.is_loopback();
        if !loopback && keys.is_empty() && !self.no_key_needed {
            bail!(
                "listening on {} lets others in, and there is no key: give one with --api-key-file, or say \
                 --no-key-needed if everybody who can reach this address may use it",
                self.host
            );
        }
        if self.cors_origin.iter().any(|origin| origin == "*") && keys.is_empty() {
            bail!(
                "--cors-origin '*' lets every web page in, so it needs a key: give one with --api-key-file"
            );
        }
        let usual = Options::default();
        let sampling =
            Sampling { temperature: self.temp.unwrap_or(usual.sampling.temperature), ..usual.sampling };
        sampling.check(usize::MAX)?;
        Ok(Options {
            model_name: self.model_name.clone(),
            strict_model: self.strict_model,
            echo_model: self.echo_model,
            keys,
            loopback,
            hosts: self.allow_host.clone(),
            origins: self.cors_origin.clone(),
            metrics_need_key: self.metrics_need_key,
            llamacpp_metrics: self.llamacpp_metrics,
            max_body: (self.max_body as usize) << 20,
            write_patience: Duration::from_secs(self.slow_client_timeout),
            max_connections: self.max_connections as usize,
            keep_alive: Duration::from_secs(self.keep_alive),
            keep_alive_as_data: self.keep_alive_as_data,
            always_usage: self.always_usage,
            reasoning_field: if self.reasoning_both {
                ReasoningField::Both
            } else {
                ReasoningField::default()
            },
            think: !self.no_think,
            sampling,
            dsml_recovery: !self.no_dsml_recovery,
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
            strip_client_headers: !self.keep_client_headers,
            trace: self.trace.clone(),
            ..usual
        })
    }
}

/// Loads the model and starts the engine, once it is known where to compute.
struct Start<'a> {
    args: &'a Serve,
    gguf: Gguf,
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
        let loaded = LoadedModel::load(ops, &self.gguf, args.profile).context("loading the model")?;
        let kv = args.kv.unwrap_or_else(|| loaded.usual_kv());
        kv.check(&loaded.model.config)?;
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
            store,
            ..EngineOptions::default()
        };
        Engine::start(Arc::new(loaded), options).context("starting the engine")
    }
}
