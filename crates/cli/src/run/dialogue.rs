//! A conversation with the model: the messages so far, and the session that has read them.
//!
//! The whole conversation is rendered anew for each reply; the session finds out what of it is new. What the
//! model sampled is put back as it was, so that it need not be read again in other tokens.

use super::options::Think;
use super::turn::{Answer, Call, Turn};
use crate::private;
use anyhow::{Context, ensure};
use engine::store::PageStore;
use engine::{Cancel, Event, Finish, Reply, Request, Session, SessionError, Synced};
use model::Ops;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use text::chat::message::Instructions;
use text::chat::replay::SampledTurn;
use text::chat::request::{Conversation, Ending};
use text::chat::{Message, ThinkingMode, Tool};
use text::{Marker, ReplyOptions, Sampled};

/// How long to wait until what was read is on disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation.
pub struct Dialogue<B: Ops> {
    session: Session<B>,
    system: String,
    tools: Vec<Tool>,
    think: Think,
    turns: Vec<Turn>,
    /// Where what the session has read is kept.
    store: Option<PageStore>,
}

impl<B: Ops + 'static> Dialogue<B> {
    /// A conversation that has not begun.
    pub fn new(session: Session<B>, system: String, tools: Vec<Tool>, think: Think) -> Self {
        Dialogue { session, system, tools, think, turns: Vec::new(), store: None }
    }

    /// The session that reads it.
    pub fn session(&self) -> &Session<B> {
        &self.session
    }

    /// The system prompt; empty if there is none.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// Replaces the system prompt.
    pub fn set_system(&mut self, text: String) {
        self.system = text;
    }

    /// Keeps what is read in a page store, and looks there for what was read before.
    pub fn set_store(&mut self, store: PageStore) {
        self.store = Some(store);
    }

    /// The messages after the system prompt.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Goes on after these messages.
    pub fn set_turns(&mut self, turns: Vec<Turn>) {
        self.turns = turns;
    }

    /// The tools that the model may call.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Whether the model thinks.
    pub fn think(&self) -> Think {
        self.think
    }

    /// Decides whether the model thinks from now on.
    pub fn set_think(&mut self, think: Think) {
        self.think = think;
    }

    /// Messages after the system prompt.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.session.clear();
    }

    /// Adds a message of the user.
    pub fn say(&mut self, text: String) {
        self.turns.push(Turn::User(text));
    }

    /// Takes back the last message, if the user said it and it was not answered.
    pub fn unsay(&mut self) {
        if matches!(self.turns.last(), Some(Turn::User(_))) {
            self.turns.pop();
        }
    }

    /// Adds the result of a call.
    pub fn tool_result(&mut self, call_id: String, content: String) {
        self.turns.push(Turn::ToolResult { call_id, content });
    }

    /// The calls of the last message.
    pub fn open_calls(&self) -> &[Call] {
        match self.turns.last() {
            Some(Turn::Assistant(answer)) => &answer.calls,
            _ => &[],
        }
    }

    /// Lets the model reply, and adds the reply to the conversation; if it is stopped before it begins, takes
    /// back what the user said. `request` says how to reply, and is told how this conversation's replies are
    /// read.
    pub fn reply(
        &mut self,
        request: impl FnOnce(ReplyOptions) -> Request,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> anyhow::Result<Reply> {
        let chat = self.render();
        let prompt = self.session.loaded().tokenizer.encode_prompt(&chat.prompt()?)?;
        let request = request(chat.reply_options());
        let read = self.read(&prompt, chat.options.mode, cancel, on_event)?;
        let mut reply = self.session.reply(&prompt, request, cancel, on_event)?;
        if let Some(read) = read {
            reply.stats.prompt = read;
        }
        if reply.finish == Finish::Cancelled && reply.tokens.is_empty() {
            self.unsay();
        } else {
            let answer = self.answer(&reply, chat.options.mode);
            self.turns.push(Turn::Assistant(answer));
        }
        Ok(reply)
    }

    /// Reads a prompt, with the help of the page store if there is one. Where the reply will begin with reasoning,
    /// which is left out once the conversation has gone on, the end of the prompt is where the next one starts, and
    /// is kept. Returns what reading came to, if that was done here.
    fn read(
        &mut self,
        prompt: &[u32],
        mode: ThinkingMode,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Option<Synced>, SessionError> {
        let Some(store) = &self.store else { return Ok(None) };
        self.session.recall(store, prompt);
        let mut progress = |done, total| on_event(Event::Prefill { done, total });
        match self.session.sync(prompt, &mut progress, cancel) {
            Ok(read) => {
                if mode == ThinkingMode::Thinking {
                    self.keep();
                }
                Ok(Some(read))
            }
            Err(SessionError::Cancelled) => Ok(None), // and so will be the reply
            Err(error) => Err(error),
        }
    }

    /// Puts what was read into the page store, if there is one.
    pub fn keep(&self) {
        if let Some(store) = &self.store
            && !self.session.keep(store, PATIENCE)
        {
            eprintln!(
                "warning: the page store could not take what was read; it will be read again next time"
            );
        }
    }

    /// The conversation in the renderer's terms.
    fn render(&self) -> Conversation {
        let mut messages = Vec::new();
        if !self.system.is_empty() || !self.tools.is_empty() {
            let (content, tools) = (self.system.clone(), self.tools.clone());
            messages.push(Message::System(Instructions { content, tools, ..Instructions::default() }));
        }
        messages.extend(self.turns.iter().map(Turn::message));
        let profile = self.session.loaded().profile;
        Conversation {
            messages,
            options: self.think.render_options(profile, self.session.context()),
            ending: Ending::Plain,
            tools_active: !self.tools.is_empty(),
            declared_tools: self.tools.iter().map(|tool| tool.name().to_owned()).collect(),
        }
    }

    fn answer(&self, reply: &Reply, mode: ThinkingMode) -> Answer {
        let tokenizer = &self.session.loaded().tokenizer;
        let reasons = mode == ThinkingMode::Thinking;
        let said = &reply.message;
        let first = self.turns.iter().filter(|turn| matches!(turn, Turn::Assistant(_))).count();
        let calls = said.tool_calls.iter().enumerate().map(|(nth, call)| Call {
            id: format!("call_{first}_{nth}"),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
        // Tokens speak for the message unless it ends before them, or its reasoning was left open.
        let closed = |close| reply.tokens.contains(&close);
        let whole = said.stop_string.is_none()
            && (!reasons || tokenizer.marker_id(Marker::ThinkClose).is_some_and(closed))
            && (reply.finish == Finish::Complete || said.tool_calls.is_empty());
        let sampled = whole.then(|| SampledTurn {
            reasons,
            tokens: Sampled {
                text: tokenizer.decode(&reply.tokens).expect("tokens of this vocabulary"),
                ids: reply.tokens.clone(),
            },
        });
        Answer {
            reasoning: said.reasoning_content.clone(),
            content: said.content.clone(),
            calls: calls.collect(),
            sampled,
            block: said.block.clone(),
        }
    }
}

/// The first line of a saved conversation; what the session has read follows it.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// Version of this form.
    ds4_conversation: u32,
    system: String,
    turns: Vec<Turn>,
}

const VERSION: u32 = 1;

impl<B: Ops + 'static> Dialogue<B> {
    /// Saves the conversation. The file is for its owner's eyes only, and complete or not there.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let saved =
            Saved { ds4_conversation: VERSION, system: self.system.clone(), turns: self.turns.clone() };
        let write = |file: &mut dyn Write| -> anyhow::Result<()> {
            serde_json::to_writer(&mut *file, &saved)?;
            file.write_all(b"\n")?;
            Ok(file.write_all(&self.session.save())?)
        };
        private::write(path, write).with_context(|| format!("saving to {}", path.display()))
    }

    /// Goes on with a saved conversation. If what the session had read is of another model or KV format, the
    /// conversation is read again with the next message; returns whether that is so, and why.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<Option<String>> {
        let load = || -> anyhow::Result<(Saved, Vec<u8>)> {
            let mut bytes = std::fs::read(path)?;
            let end = bytes.iter().position(|&b| b == b'\n').context("not a saved conversation")?;
            let saved: Saved = serde_json::from_slice(&bytes[..end]).context("not a saved conversation")?;
            let version = saved.ds4_conversation;
            ensure!(version == VERSION, "saved in form {version}, and this program reads {VERSION}");
            Ok((saved, bytes.split_off(end + 1)))
        };
        let (saved, state) = load().with_context(|| format!("loading {}", path.display()))?;
        self.system = saved.system;
        self.turns = saved.turns;
        Ok(self.session.load(&state).err().map(|error| error.to_string()))
    }
}
