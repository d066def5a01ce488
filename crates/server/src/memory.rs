//! What the model sampled earlier, so that a conversation that comes back is rendered as it was.
//!
//! Turns with calls are known by the ids of the calls ([`ReplayStore`]). Turns without are known by what came
//! before them and what they say: most clients do not send reasoning back, and the model may have spelled the
//! text in other tokens than the tokenizer would.

mod journal;

pub use journal::Journal;

use crate::ids::canonical_call;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use text::chat::message::AssistantMessage;
use text::chat::replay::{ReplayEntry, ReplayScope, ReplayStore, SampledTurn};
use text::chat::request::Conversation;
use text::chat::{Message, Replay};
use text::{Prompt, Reply};

/// Bytes of turns without calls that are kept.
const MAX_BYTES: usize = 64 << 20;

/// Everything that is remembered.
#[derive(Debug, Default)]
pub struct Memory {
    calls: ReplayStore,
    turns: HashMap<TurnKey, Said>,
    /// Oldest first. A turn that was said again is there twice, and goes with its first mention.
    order: VecDeque<(TurnKey, usize)>,
    bytes: usize,
    journal: Option<Journal>,
}

/// Something that is remembered, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
pub enum Record {
    /// A turn with calls.
    Calls(ReplayEntry),
    /// A turn without.
    Turn {
        /// Its place.
        key: TurnKey,
        /// What was said.
        said: Said,
    },
}

/// A turn in its place: a hash of who talks, with which model, of all that was said before, and of the text.
pub type TurnKey = [u8; 32];

/// A turn without calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Said {
    reasoning: String,
    turn: Option<SampledTurn>,
}

/// The state of a hash over the visible part of a conversation.
#[derive(Clone, Debug)]
pub struct Trail(blake3::Hasher);

impl Trail {
    fn new(scope: &ReplayScope) -> Trail {
        let mut trail = Trail(blake3::Hasher::new());
        trail.add("scope", &[&scope.client, &scope.model]);
        trail
    }

    fn add(&mut self, kind: &str, texts: &[&str]) {
        for text in std::iter::once(&kind).chain(texts) {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
        self.0.update(&[0xff; 8]);
    }

    /// The key of a reply with this content.
    pub fn key(&self, content: &str) -> TurnKey {
        let mut trail = self.clone();
        trail.add("assistant", &[content]);
        *trail.0.finalize().as_bytes()
    }

    /// Goes on over a message. Ids and reasoning are no part of it: clients rewrite and drop them.
    fn pass(&mut self, message: &Message) {
        match message {
            Message::System(it) | Message::Developer(it) => self.add("system", &[&it.content]),
            Message::User(it) => self.add("user", &[&it.content]),
            Message::Tool(it) => self.add("tool", &[&it.content]),
            Message::LatestReminder(it) => self.add("reminder", &[&it.content]),
            Message::Assistant(it) if it.tool_calls.is_empty() => self.add("assistant", &[&it.content]),
            Message::Assistant(it) => {
                let names: Vec<&str> = it.tool_calls.iter().map(|call| &*call.name).collect();
                self.add("calls", &names);
            }
        }
    }
}

impl Memory {
    /// Remembers what was written down earlier, oldest first, and from now on writes down what is kept.
    pub fn remember(&mut self, known: Vec<Record>, journal: Journal) {
        known.into_iter().for_each(|record| self.put(record));
        self.journal = Some(journal);
    }

    /// Gives every assistant message what was sampled for it. Returns the trail up to the end, for the reply.
    pub fn attach(&mut self, scope: &ReplayScope, conversation: &mut Conversation) -> Trail {
        for message in &mut conversation.messages {
            canonical_ids(message);
        }
        self.calls.attach(scope, &mut conversation.messages);
        let mut trail = Trail::new(scope);
        for message in &mut conversation.messages {
            if let Message::Assistant(assistant) = message
                && assistant.tool_calls.is_empty()
                && !assistant.wo_eos
                && let Some(said) = self.turns.get(&trail.key(&assistant.content))
            {
                said.restore(assistant);
            }
            trail.pass(message);
        }
        trail
    }

    /// Keeps a finished reply. `ids` are those of its calls; `turn` is all that was sampled, if that says what
    /// the client was told.
    pub fn keep(
        &mut self,
        scope: ReplayScope,
        trail: &Trail,
        reply: &Reply,
        ids: &[String],
        turn: Option<SampledTurn>,
    ) {
        if !reply.tool_calls.is_empty() {
            let ids: Vec<String> = ids.iter().map(|id| canonical_call(id).to_owned()).collect();
            if let Some(entry) = ReplayEntry::new(scope, reply, &ids, turn) {
                self.keep_record(Record::Calls(entry));
            }
            return;
        }
        if reply.content.is_empty() {
            return;
        }
        let said = Said { reasoning: reply.reasoning_content.clone(), turn };
        self.keep_record(Record::Turn { key: trail.key(&reply.content), said });
    }

    fn keep_record(&mut self, record: Record) {
        if let Some(journal) = &self.journal {
            journal.write(&record);
        }
        self.put(record);
    }

    fn put(&mut self, record: Record) {
        let (key, said) = match record {
            Record::Calls(entry) => return self.calls.insert(entry),
            Record::Turn { key, said } => (key, said),
        };
        let tokens = said.turn.as_ref().map_or(0, |turn| turn.tokens.text.len() + 4 * turn.tokens.ids.len());
        let size = 128 + said.reasoning.len() + tokens;
        self.turns.insert(key, said);
        self.order.push_back((key, size));
        self.bytes += size;
        while self.bytes > MAX_BYTES {
            let Some((oldest, size)) = self.order.pop_front() else { break };
            self.turns.remove(&oldest);
            self.bytes -= size;
        }
    }
}

impl Said {
    fn restore(&self, message: &mut AssistantMessage) {
        if message.reasoning_content.is_empty() {
            message.reasoning_content.clone_from(&self.reasoning);
        }
        if message.reasoning_content == self.reasoning && self.turn.is_some() {
            message.replay = Some(Replay { turn: self.turn.clone(), block: Prompt::new() });
        }
    }
}

/// Clients put things around our ids; results and calls are matched by what is ours of them.
fn canonical_ids(message: &mut Message) {
    let shorten = |id: &mut Option<String>| {
        if let Some(id) = id {
            *id = canonical_call(id).to_owned();
        }
    };
    match message {
        Message::Assistant(message) => message.tool_calls.iter_mut().for_each(|call| shorten(&mut call.id)),
        Message::Tool(message) => shorten(&mut message.tool_call_id),
        _ => {}
    }
}
