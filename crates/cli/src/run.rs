//! `ds4 run`: one answer, or a chat.
//!
//! [`Run`] is the command; [`dialogue`] keeps the conversation, [`chat`] asks for the next message,
//! [`display`] shows the reply.

mod chat;
mod command;
mod dialogue;
mod display;
mod input;
mod options;
mod summary;

use crate::backend::{BackendArgs, Task};
use crate::model_arg::ModelArg;
use anyhow::{Context, bail};
use chat::Chat;
use dialogue::Dialogue;
use display::Display;
use engine::{Cancel, Form, LoadedModel, Reply, Request, Session};
use gguf::Gguf;
use input::Input;
use model::{KvFormat, Ops};
use options::{SamplingArgs, ThinkArgs};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
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
    sampling: SamplingArgs,
    #[command(flatten, next_help_heading = "Engine")]
    backend: BackendArgs,
    /// How the KV cache is stored: f32, f16 or f8. Default: f8, or f16 if the model's sizes do not allow that
    #[arg(long, value_name = "FORMAT", value_parser = KvFormat::from_str, help_heading = "Engine")]
    kv: Option<KvFormat>,
    /// The most tokens of a conversation. Default: as many as the model can take
    #[arg(long, value_name = "N", help_heading = "Engine", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Whose words prompts are written in: v4 or v4-0731. Default: what the file says it is
    #[arg(long, value_name = "NAME", value_parser = Profile::from_str, help_heading = "Engine")]
    profile: Option<Profile>,
    /// What to tell about a reply on standard error
    #[arg(long, value_enum, value_name = "FORM", default_value = "line", help_heading = "Engine")]
    stats: StatsStyle,
}

const EXAMPLES: &str = "\
Examples:
  ds4 run \"What is 12 + 30?\"
  ds4 run --think \"Is 91 prime?\"
  git diff | ds4 run \"Write a commit message for this change.\" > message.txt
  ds4 run --temp 0 --tools tools.json \"What is the weather in Bern?\"
  ds4 run";

impl Run {
    /// Answers, or chats.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let prompt = match self.chat {
            true => None,
            false => self.prompt()?,
        };
        let tools = self.tools.as_deref().map(read_tools).transpose()?.unwrap_or_default();
        let gguf = self.model.open()?;
        self.backend.run(Job { args: &self, gguf, prompt, tools, out })?
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
    tools: Vec<Tool>,
    out: &'a mut dyn Write,
}

impl Task for Job<'_> {
    type Output = anyhow::Result<()>;

    fn file(&self) -> &Gguf {
        &self.gguf
    }

    fn on<B: Ops + 'static>(self, ops: B) -> anyhow::Result<()> {
        let args = self.args;
        let loaded = LoadedModel::load(ops, &self.gguf, args.profile).context("loading the model")?;
        loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        let kv = args.kv.unwrap_or_else(|| loaded.usual_kv());
        kv.check(&loaded.model.config)?;
        let mut session = Session::new(Arc::new(loaded), kv, args.ctx.map(|n| n as usize));
        let think = args.think.choice();
        if let Some(warning) = think.warning(session.context()) {
            eprintln!("warning: {warning}");
        }
        let prompt = match (self.prompt, args.raw) {
            (Some(prompt), true) => return continue_raw(&mut session, &prompt, args, self.out),
            (prompt, _) => prompt,
        };
        let system = args.system.clone().unwrap_or_default();
        let mut dialogue = Dialogue::new(session, system, self.tools, think);
        match prompt {
            Some(prompt) => {
                dialogue.say(prompt);
                answer(&mut dialogue, args, &Cancel::new(), self.out).map(drop)
            }
            None => {
                let input = if args.chat { Input::Pipe(io::stdin()) } else { Input::terminal()? };
                Chat::new(dialogue, args, input)?.run(self.out)
            }
        }
    }
}

impl Run {
    /// How to reply.
    fn request(&self, form: Form, seed: u64) -> Request {
        Request {
            sampling: self.sampling.sampling(),
            seed,
            max_tokens: self.sampling.max_tokens(),
            logprobs: None,
            form,
            strict_markup: true,
            constraint: None,
            think_budget: None,
            forced: Vec::new(),
        }
    }
}

/// Lets the model answer the conversation so far: its words and calls to `out`, the rest to standard error.
fn answer<B: Ops>(
    dialogue: &mut Dialogue<B>,
    args: &Run,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> anyhow::Result<Summary> {
    let (seed, stop) = (args.sampling.seed(), args.sampling.stop());
    let request = |options| args.request(Form::Chat(ReplyOptions { stop, ..options }), seed);
    let mut display = Display::new(out, cancel);
    let reply = dialogue.reply(request, cancel, &mut |event| display.show(event));
    display.finish()?;
    let reply = reply?;
    print_calls(&reply, out)?;
    let summary = Summary::new(&reply, seed);
    summary.print(args.stats);
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
    args: &Run,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let tokenizer = &session.loaded().tokenizer;
    let mut tokens = tokenizer.encode_trusted(prompt);
    if let Some(bos) = tokenizer.marker_id(Marker::Bos).filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    let (seed, cancel) = (args.sampling.seed(), Cancel::new());
    let request = args.request(Form::Plain { stop: args.sampling.stop() }, seed);
    let mut display = Display::new(out, &cancel);
    let reply = session.reply(&tokens, request, &cancel, &mut |event| display.show(event));
    display.finish()?;
    Summary::new(&reply?, seed).print(args.stats);
    Ok(())
}
