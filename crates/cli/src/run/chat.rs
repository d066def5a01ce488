//! A chat on the terminal: read a line, do what it says, show the reply, and again.

use super::command::{COMMANDS, Command};
use super::dialogue::Dialogue;
use super::input::{Input, Typed};
use super::summary::Summary;
use super::{How, answer};
use anyhow::Context;
use engine::Cancel;
use model::Ops;
use std::io::Write;
use std::path::Path;

/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A chat that goes on.
pub struct Chat<'a, B: Ops + 'static> {
    dialogue: Dialogue<B>,
    how: How<'a>,
    input: Input,
    cancel: Cancel,
    /// Text of files, to be put before the next message.
    attached: String,
    last: Option<Summary>,
}

/// Whether the chat goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Line,
    Quit,
}

impl<'a, B: Ops + 'static> Chat<'a, B> {
    /// A chat about to begin. From now on Ctrl-C stops a reply and not the program, unless a reply takes too
    /// long to stop: a batch of a prompt is read to its end first.
    pub fn new(dialogue: Dialogue<B>, how: How<'a>, input: Input) -> anyhow::Result<Self> {
        let cancel = Cancel::new();
        let switch = cancel.clone();
        let stop = move || match switch.is_stopped() {
            false => switch.stop(),
            true => std::process::exit(INTERRUPTED),
        };
        ctrlc::set_handler(stop).context("taking over Ctrl-C")?;
        Ok(Chat { dialogue, how, input, cancel, attached: String::new(), last: None })
    }

    /// Chats until the user leaves.
    pub fn run(mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        if matches!(self.input, Input::Terminal(_)) {
            eprintln!(
                "Ctrl-C stops a reply, Ctrl-D leaves, Alt-Enter or a \\ at the end begins a new line, /help tells more."
            );
        }
        self.how.greet();
        if !self.dialogue.open_calls().is_empty() && self.ask_for_results()? {
            self.reply(out)?; // a session that ended with calls
        }
        let mut interrupted = false;
        loop {
            match self.input.read(if self.attached.is_empty() { "> " } else { "+ " })? {
                Typed::End => return Ok(()),
                Typed::Interrupt if interrupted => return Ok(()),
                Typed::Interrupt => {
                    eprintln!("(Ctrl-C again leaves)");
                    interrupted = true;
                    continue;
                }
                Typed::Text(text) => {
                    if self.do_line(text, out)? == Next::Quit {
                        return Ok(());
                    }
                }
            }
            interrupted = false;
        }
    }

    fn do_line(&mut self, text: String, out: &mut dyn Write) -> anyhow::Result<Next> {
        match Command::parse(&text) {
            Some(Ok(Command::Quit)) => return Ok(Next::Quit),
            Some(Ok(command)) => {
                if let Err(error) = self.obey(command) {
                    eprintln!("{}", crate::story(&error));
                }
            }
            Some(Err(problem)) => eprintln!("{problem}"),
            None if text.trim().is_empty() && self.attached.is_empty() => {}
            None => self.converse(text, out)?,
        }
        Ok(Next::Line)
    }

    /// Says `text`, and lets the model answer until it calls no more tools.
    fn converse(&mut self, text: String, out: &mut dyn Write) -> anyhow::Result<()> {
        let attached = std::mem::take(&mut self.attached);
        self.dialogue.say(if attached.is_empty() { text } else { attached + &text });
        self.reply(out)
    }

    /// Lets the model answer until it calls no more tools.
    fn reply(&mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        loop {
            self.cancel.reset();
            match answer(&mut self.dialogue, &mut self.how, &self.cancel, out) {
                Ok(summary) => self.last = Some(summary),
                Err(error) if crate::is_closed_pipe(&error) => return Err(error),
                Err(error) => {
                    self.dialogue.unsay();
                    eprintln!("{}", crate::story(&error));
                    return Ok(());
                }
            }
            if self.dialogue.open_calls().is_empty() {
                return Ok(());
            }
            if !self.ask_for_results()? {
                return Ok(());
            }
        }
    }

    /// Asks what each call gave. False if somebody would rather not say: then an error is what they gave.
    fn ask_for_results(&mut self) -> anyhow::Result<bool> {
        let mut all = true;
        for call in self.dialogue.open_calls().to_vec() {
            let result =
                match all.then(|| self.input.read(&format!("result of {}> ", call.name))).transpose()? {
                    Some(Typed::Text(text)) => text,
                    _ => {
                        all = false;
                        "error: the call was not carried out".to_owned()
                    }
                };
            self.dialogue.tool_result(call.id, result);
        }
        Ok(all)
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        let changes = matches!(
            command,
            Command::System(Some(_)) | Command::Load(_) | Command::Clear | Command::Think(_)
        );
        self.carry_out(command)?;
        if changes && let Some(kept) = &mut self.how.kept {
            kept.save(&self.dialogue)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Help => help(),
            Command::Think(think) => {
                self.dialogue.set_think(think);
                think.warning(self.dialogue.session().context()).inspect(|warning| eprintln!("{warning}"));
            }
            Command::System(Some(text)) => self.dialogue.set_system(text),
            Command::System(None) if self.dialogue.system().is_empty() => eprintln!("no system prompt"),
            Command::System(None) => eprintln!("{}", self.dialogue.system()),
            Command::Read(path) => self.attach(&path)?,
            Command::Save(path) => {
                self.dialogue.save(&path)?;
                eprintln!("saved {} messages to {}", self.dialogue.len(), path.display());
            }
            Command::Load(path) => {
                let reread = self.dialogue.load(&path)?;
                eprintln!("{} messages from {}", self.dialogue.len(), path.display());
                if let Some(why) = reread {
                    eprintln!("the model will read them again: {why}");
                }
            }
            Command::Session(Some(name)) => {
                self.how.keep_as(&name, &mut self.dialogue)?;
                eprintln!("session {name}: {} messages", self.dialogue.len());
            }
            Command::Session(None) => match &self.how.kept {
                Some(kept) => eprintln!("session {}: {} messages", kept.name(), self.dialogue.len()),
                None => eprintln!("not a session; /session NAME makes it one"),
            },
            Command::Clear => self.dialogue.clear(),
            Command::Stats => self.stats(),
            Command::Quit => {}
        }
        Ok(())
    }

    fn attach(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        eprintln!("{} characters come before the next message", text.chars().count());
        self.attached += text.trim_end_matches('\n');
        self.attached += "\n\n";
        Ok(())
    }

    fn stats(&self) {
        let session = self.dialogue.session();
        let megabytes = session.memory() as f64 / 1e6;
        eprintln!("model    {}", session.loaded().model.config.name);
        eprintln!("context  {} of {} tokens", session.tokens().len(), session.context());
        eprintln!("cache    {megabytes:.1} MB, {}", session.kv_format().name());
        if let Some(last) = &self.last {
            eprintln!("reply    {last}");
        }
    }
}

fn help() {
    for (name, argument, meaning) in COMMANDS {
        eprintln!("{:<17}{meaning}", format!("{name} {argument}"));
    }
    eprintln!(
        "\nA \\ at the end of a line, Alt-Enter, or \"\"\" before and after: a message of several lines."
    );
    eprintln!("Ctrl-C stops a reply; what was said so far stays part of the conversation.");
}
