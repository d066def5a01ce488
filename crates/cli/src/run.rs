//! `ds4 run`: one answer, or a chat.
//!
//! [`Run`] is the command; [`dialogue`] has the conversation, [`chat`] asks for the next message,
//! [`display`] shows the reply, [`kept`] is a conversation that outlives the command.

mod chat;
mod command;
mod dialogue;
mod display;
mod input;
mod kept;
pub mod options;
mod rules;
mod summary;
pub mod turn;

pub use display::printable;

use crate::backend::{BackendArgs, Task};
use crate::drafts_arg::DraftsArg;
use crate::folders;
use crate::model_arg::ModelArg;
use crate::sessions::{ModelMark, Name, Shelf};
use anyhow::{Context, bail, ensure};
use chat::Chat;
use dialogue::Dialogue;
use display::Display;
use engine::store::{PageStore, Place, StoreOptions};
use engine::{Cancel, Constraint, Form, LoadedModel, Reply, Request, Session};
use gguf::Gguf;
use indicatif::ProgressBar;
use input::Input;
use kept::Kept;
use model::{Codec, KvFormat, Ops};
use options::{SamplingArgs, Think, ThinkArgs};
use rules::ShapeArgs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use summary::{StatsStyle, Summary};
use text::chat::request::RequestTool;
use text::chat::{Profile, Tool};
use text::{Marker, ReplyOptions};

/// Answer a prompt, or chat.
///
/// With a PROMPT, or a prompt on standard input, prints the answer and ends. With both, the prompt comes first
/// and then, after a blank line, what standard input has. Without either, on a terminal, begins a chat; /help
/// tells what can be done there.
///
/// Only the answer goes to standard output, so it can be piped. Reasoning, progress and statistics go to
/// standard error.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// What to say to the model
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelArg,
    /// What the model should know beforehand
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tools that the model may call: a JSON array of definitions as in the OpenAI API. Each call is printed as
    /// a line of JSON
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    tools: Option<PathBuf>,
    #[command(flatten)]
    think: ThinkArgs,
    /// Continue the prompt as it is, without the form of a chat. Control tokens that it spells are meant, and
    /// a begin-of-text token is added if it has none
    #[arg(long, conflicts_with_all = ["system", "think", "no_think", "think_max"])]
    raw: bool,
    /// Chat even if standard input is not a terminal: a message a line
    #[arg(long, conflicts_with_all = ["prompt", "raw"])]
    chat: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
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
    /// Whose words prompts are written in: v4 or v4-0731. Default: what the file says it is
    #[arg(long, value_name = "NAME", value_parser = Profile::from_str, help_heading = "Engine")]
    profile: Option<Profile>,
    /// What to tell about a reply on standard error
    #[arg(long, value_enum, value_name = "FORM", default_value = "line", help_heading = "Engine")]
    stats: StatsStyle,
}

/// A conversation that outlives the command.
#[derive(clap::Args)]
#[command(next_help_heading = "Sessions")]
struct SessionArgs {
    /// Go on with the session of this name, or begin it. It is saved after each reply, with its system prompt, its
    /// tools and whether to think; what the model has read is kept, too, so that it goes on at once
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    session: Option<Name>,
    /// Go on with a session although it was made with another model
    #[arg(long, requires = "session")]
    take_over: bool,
    /// Where to keep what sessions have read: a folder, or s3://BUCKET/PREFIX if this program was built for buckets.
    /// Default: store in $DS4_HOME, else in the system's place for caches
    #[arg(long, value_name = "STORE", requires = "session")]
    store: Option<String>,
    /// The most space that this may take, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32 << 10, requires = "session", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    store_limit: u64,
}

const EXAMPLES: &str = "\
Examples:
  ds4 run \"What is 12 + 30?\"
  ds4 run --think \"Is 91 prime?\"
  git diff | ds4 run \"Write a commit message for this change.\" > message.txt
  ds4 run --session work \"Where were we?\"
  ds4 run --regex \"yes|no\" \"Is 7 prime?\"
  ds4 run --schema person.json \"Ada Lovelace, born in 1815\" | jq .name
  ds4 run --temp 0 --tools tools.json \"What is the weather in Bern?\"
  ds4 run";

impl Run {
    /// Answers, or chats.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let prompt = match self.chat {
            true => None,
            false => self.prompt()?,
        };
        let tools = self.tools.as_deref().map(read_tools).transpose()?;
        let held = self.session.session.as_ref().map(|name| Shelf::open()?.take(name)).transpose()?;
        let gguf = self.drafts.file.open(&self.model)?;
        let take_over = self.session.take_over;
        let kept = held.map(|held| Kept::open(held, ModelMark::of(&gguf), take_over)).transpose()?;
        self.backend.run(Job { args: &self, gguf, prompt, tools, kept, out })?
    }

    /// What to answer: the argument, standard input, or both. `None` if somebody wants to chat.
    fn prompt(&self) -> anyhow::Result<Option<String>> {
        let (stdin, terminal) = (io::stdin(), io::stdout().is_terminal());
        if stdin.is_terminal() {
            return match &self.prompt {
                Some(prompt) => Ok(Some(prompt.clone())),
                None if terminal && !self.raw => Ok(None),
                None => bail!("no prompt: give one as an argument or on standard input"),
            };
        }
        let mut piped = String::new();
        stdin.lock().read_to_string(&mut piped).context("reading the prompt from standard input")?;
        let piped = if self.raw { piped.as_str() } else { piped.trim_end_matches('\n') };
        match (&self.prompt, piped) {
            (None, "") => bail!("no prompt: standard input is empty"),
            (None, piped) => Ok(Some(piped.to_owned())),
            (Some(prompt), "") => Ok(Some(prompt.clone())),
            (Some(prompt), piped) => Ok(Some(format!("{prompt}\n\n{piped}"))),
        }
    }
}

fn read_tools(path: &Path) -> anyhow::Result<Vec<Tool>> {
    let read = || -> anyhow::Result<Vec<RequestTool>> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    let tools = read().with_context(|| format!("reading tools from {}", path.display()))?;
    Ok(tools.into_iter().map(|RequestTool(tool)| tool).collect())
}

/// One command, once it is known where to compute.
struct Job<'a> {
    args: &'a Run,
    gguf: Gguf,
    prompt: Option<String>,
    tools: Option<Vec<Tool>>,
    kept: Option<Kept>,
    out: &'a mut dyn Write,
}

impl Task for Job<'_> {
    type Output = anyhow::Result<()>;

    fn file(&self) -> &Gguf {
        &self.gguf
    }

    fn context(&self) -> Option<u32> {
        self.args.ctx
    }

    fn on<B: Ops + 'static>(self, ops: B) -> anyhow::Result<()> {
        let args = self.args;
        let loaded = LoadedModel::load(ops, &self.gguf, args.profile).context("loading the model")?;
        loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        let known = self.kept.as_ref().map(Kept::kv).transpose()?.flatten();
        let kv = args.kv.or(known).unwrap_or_else(|| loaded.usual_kv());
        kv.check(&loaded.model.config)?;
        rehearse(&loaded, kv);
        if let Some(known) = known.filter(|&known| known != kv) {
            let (known, kv) = (known.name(), kv.name());
            eprintln!("warning: the session was kept in KV format {known}; in {kv} the model reads it again");
        }
        let store = self.kept.as_ref().map(|_| args.session.open_store(&loaded, kv)).transpose()?.flatten();
        let tools = self.tools.or_else(|| Some(self.kept.as_ref()?.tools())).unwrap_or_default();
        let constraint = rules::constraint(&loaded.constraints, args.shape.shape()?, &tools)?;
        let drafts = args.drafts.of(&loaded)?;
        let mut session =
            Session::new(Arc::new(loaded), kv, args.ctx.map(|n| n as usize)).with_drafts(drafts);
        let mut how = How { args, model: ModelMark::of(&self.gguf), constraint, kept: self.kept };
        let prompt = match (self.prompt, args.raw) {
            (Some(prompt), true) => return continue_raw(&mut session, &prompt, &how, self.out),
            (prompt, _) => prompt,
        };
        let system = args.system.clone().unwrap_or_default();
        let mut dialogue = Dialogue::new(session, system, tools, args.think.choice().unwrap_or(Think::Off));
        store.into_iter().for_each(|store| dialogue.set_store(store));
        if let Some(kept) = &how.kept {
            kept.restore(&mut dialogue, args.system.is_some(), args.think.choice().is_some());
        }
        if let Some(warning) = dialogue.think().warning(dialogue.session().context()) {
            eprintln!("warning: {warning}");
        }
        match prompt {
            Some(prompt) => {
                how.greet();
                say(&mut dialogue, prompt)?;
                answer(&mut dialogue, &mut how, &Cancel::new(), self.out).map(drop)
            }
            None => {
                let input = if args.chat { Input::Pipe(io::stdin()) } else { Input::terminal()? };
                Chat::new(dialogue, how, input)?.run(self.out)
            }
        }
    }
}

/// Has a GPU's kernels compiled, on a terminal with a word on what takes so long the first time.
fn rehearse<B: Ops>(loaded: &LoadedModel<B>, kv: KvFormat) {
    let spinner = ProgressBar::new_spinner();
    loaded.rehearse(kv, 1, &|_| {
        spinner.set_message("compiling kernels for the GPU (most drivers keep them for the next time)");
        spinner.enable_steady_tick(Duration::from_millis(100));
    });
    spinner.finish_and_clear();
}

/// Says what was asked; where a session ended with a call that waits for its result, that is what it is.
fn say<B: Ops + 'static>(dialogue: &mut Dialogue<B>, prompt: String) -> anyhow::Result<()> {
    let calls = dialogue.open_calls();
    let Some(call) = calls.first().cloned() else {
        dialogue.say(prompt);
        return Ok(());
    };
    ensure!(
        calls.len() == 1,
        "the session waits for the results of {} calls; `ds4 run --chat` with it asks for each",
        calls.len()
    );
    eprintln!("(this is the result of the call of {})", call.name);
    dialogue.tool_result(call.id, prompt);
    Ok(())
}

impl SessionArgs {
    /// Opens the store for what sessions have read. One that nobody named and that cannot be used is not worth
    /// failing for: things are then read again, and a warning says so.
    fn open_store<B: Ops>(&self, loaded: &LoadedModel<B>, kv: KvFormat) -> anyhow::Result<Option<PageStore>> {
        let open = |place: &Place| {
            let codec = Codec::new(&loaded.model.config, kv, loaded.model.fingerprint);
            let (limit, model) = (self.store_limit << 20, Some(loaded.name.clone()));
            PageStore::open(place, codec, StoreOptions { limit, model, ..StoreOptions::default() })
        };
        if let Some(address) = &self.store {
            let opened = Place::parse(address).map_err(anyhow::Error::from).and_then(|p| Ok(open(&p)?));
            return opened.map(Some).with_context(|| format!("opening the page store {address}"));
        }
        let Some(folder) = folders::store() else { return Ok(None) };
        let opened = open(&Place::Folder(folder.clone()));
        let opened = opened.with_context(|| format!("opening the page store {}", folder.display()));
        Ok(opened.inspect_err(|error| eprintln!("warning: {}", crate::story(error))).ok())
    }
}

/// How replies come about, and what becomes of them.
pub struct How<'a> {
    args: &'a Run,
    model: ModelMark,
    constraint: Option<Constraint>,
    kept: Option<Kept>,
}

impl How<'_> {
    /// Says which session this is, if it is one.
    fn greet(&self) {
        if let Some(kept) = &self.kept
            && self.args.stats == StatsStyle::Line
        {
            eprintln!("{}", kept.greeting());
        }
    }

    /// Keeps the conversation as a session from now on.
    fn keep_as<B: Ops + 'static>(&mut self, name: &Name, dialogue: &mut Dialogue<B>) -> anyhow::Result<()> {
        let mut kept = Kept::begin(name, self.model.clone())?;
        let session = dialogue.session();
        let store = self.args.session.open_store(session.loaded(), session.kv_format())?;
        store.into_iter().for_each(|store| dialogue.set_store(store));
        kept.save(dialogue)?;
        dialogue.keep();
        self.kept = Some(kept);
        Ok(())
    }

    /// How to reply.
    fn request(&self, form: Form, seed: u64) -> Request {
        let sampling = &self.args.sampling;
        Request {
            sampling: sampling.sampling(),
            seed,
            max_tokens: sampling.max_tokens(),
            logprobs: None,
            form,
            strict_markup: true,
            constraint: self.constraint.clone(),
            think_budget: None,
            min_tokens: 0,
            forced: Vec::new(),
        }
    }
}

/// Lets the model answer the conversation so far: its words and calls to `out`, the rest to standard error. A session
/// is saved.
fn answer<B: Ops + 'static>(
    dialogue: &mut Dialogue<B>,
    how: &mut How<'_>,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> anyhow::Result<Summary> {
    let (seed, stop) = (how.args.sampling.seed(), how.args.sampling.stop());
    let request = |options| how.request(Form::Chat(ReplyOptions { stop, ..options }), seed);
    let mut display = Display::new(out, cancel);
    let reply = dialogue.reply(request, cancel, &mut |event| display.show(event));
    display.finish()?;
    let reply = reply?;
    print_calls(&reply, out)?;
    let summary = Summary::new(&reply, seed);
    summary.print(how.args.stats);
    if let Some(kept) = &mut how.kept {
        kept.save(dialogue)?; // first what cannot be made again
        dialogue.keep();
    }
    Ok(summary)
}

/// Prints each call as a line of JSON.
fn print_calls(reply: &Reply, out: &mut dyn Write) -> anyhow::Result<()> {
    for call in &reply.message.tool_calls {
        let arguments: serde_json::Value = serde_json::from_str(&call.arguments)?;
        writeln!(out, "{}", serde_json::json!({ "name": call.name, "arguments": arguments }))?;
    }
    Ok(out.flush()?)
}

/// Continues a text as it is.
fn continue_raw<B: Ops>(
    session: &mut Session<B>,
    prompt: &str,
    how: &How<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let args = how.args;
    let tokenizer = &session.loaded().tokenizer;
    let mut tokens = tokenizer.encode_trusted(prompt);
    if let Some(bos) = tokenizer.marker_id(Marker::Bos).filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    let (seed, cancel) = (args.sampling.seed(), Cancel::new());
    let request = how.request(Form::Plain { stop: args.sampling.stop() }, seed);
    let mut display = Display::new(out, &cancel);
    let reply = session.reply(&tokens, request, &cancel, &mut |event| display.show(event));
    display.finish()?;
    Summary::new(&reply?, seed).print(args.stats);
    Ok(())
}
