//! What the model sampled when it called tools, kept so that it can be rendered as it was.
//!
//! A client sends an assistant's turn back as JSON, with keys in another order, numbers in another
//! form, white space changed, reasoning left out. Rendered from that, the bytes differ from what was
//! sampled, and everything after them would have to be read again. So the sampled text is kept under
//! the ids of its calls, and used when the message still says the same.
//!
//! Start at [`ReplayStore::attach`].

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message::{AssistantMessage, Message, ToolCall};
use super::profile::Profile;
use crate::json::{same_value, to_json};
use crate::{Prompt, Reply, Sampled, Segment};

/// What was sampled for a message, as the renderer uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The whole turn, if the message's text and reasoning are those of the turn.
    pub turn: Option<SampledTurn>,
    /// The calls, from the separator before them to the last sampled token.
    pub block: Prompt,
}

/// A turn as it was sampled: all that came after the header, the end-of-sentence token excluded.
/// If the prompt had opened the block of calls already, that opening is included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledTurn {
    /// Whether the header was `<think>`, and so the turn begins with reasoning.
    pub reasons: bool,
    /// The tokens.
    pub tokens: Sampled,
}

/// Who may use an entry: one client's text is never shown to another, and one model's is not put
/// into another's mouth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayScope {
    /// The API key, or a hash of it; empty if the server has none.
    pub client: String,
    /// The model's name or fingerprint.
    pub model: String,
    /// The rendering profile.
    pub profile: Profile,
}

/// One turn with tool calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayEntry {
    /// Who may use it.
    pub scope: ReplayScope,
    /// Its calls, in order. Ids must be unguessable.
    pub calls: Vec<SampledCall>,
    /// The reasoning the client was sent.
    pub reasoning: String,
    /// The text the client was sent.
    pub content: String,
    /// See [`Replay::block`].
    pub block: Prompt,
    /// The turn, if its tokens are known.
    pub turn: Option<SampledTurn>,
}

/// A call as the client was sent it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledCall {
    /// Its id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments.
    pub arguments: Value,
}

/// How much a [`ReplayStore`] holds before it forgets what was not used for longest.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// Calls.
    pub ids: usize,
    /// Bytes of text and tokens.
    pub bytes: usize,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self { ids: 100_000, bytes: 512 << 20 }
    }
}

/// Sampled turns by the ids of their calls.
#[derive(Debug, Default)]
pub struct ReplayStore {
    limits: ReplayLimits,
    /// By the time of their last use.
    entries: BTreeMap<u64, ReplayEntry>,
    used_at: HashMap<String, u64>,
    now: u64,
    bytes: usize,
}

impl ReplayStore {
    /// An empty store.
    pub fn new(limits: ReplayLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps a turn. An older entry with one of its ids is forgotten.
    pub fn insert(&mut self, entry: ReplayEntry) {
        if entry.calls.is_empty() {
            return;
        }
        for call in &entry.calls {
            if let Some(&at) = self.used_at.get(&call.id) {
                self.forget(at);
            }
        }
        self.bytes += size(&entry);
        self.put(entry);
        while self.bytes > self.limits.bytes || self.used_at.len() > self.limits.ids {
            let Some((&oldest, _)) = self.entries.first_key_value() else { break };
            self.forget(oldest);
        }
    }

    /// Gives every assistant message in `messages` what was sampled for it, if that is known and the
    /// message still has exactly these calls: ids, order, names, and arguments by value. Reasoning
    /// that the client left out is restored where the text is unchanged.
    ///
    /// Returns how many messages were found.
    pub fn attach(&mut self, scope: &ReplayScope, messages: &mut [Message]) -> usize {
        let mut found = 0;
        for message in messages {
            let Message::Assistant(message) = message else { continue };
            let Some(entry) = self.find(scope, &message.tool_calls) else { continue };
            found += 1;
            attach(entry, message);
        }
        found
    }

    /// The entry of a message with these calls; counts as a use.
    fn find(&mut self, scope: &ReplayScope, calls: &[ToolCall]) -> Option<&ReplayEntry> {
        let at = *self.used_at.get(calls.first()?.id.as_ref()?)?;
        let entry = self.entries.get(&at)?;
        let same_calls = entry.calls.len() == calls.len()
            && entry.calls.iter().zip(calls).all(|(sampled, call)| sampled.is(call));
        if entry.scope != *scope || !same_calls {
            return None;
        }
        let entry = self.entries.remove(&at)?;
        Some(self.put(entry))
    }

    /// Puts an entry at the front.
    fn put(&mut self, entry: ReplayEntry) -> &ReplayEntry {
        self.now += 1;
        for call in &entry.calls {
            self.used_at.insert(call.id.clone(), self.now);
        }
        self.entries.entry(self.now).or_insert(entry)
    }

    fn forget(&mut self, at: u64) {
        if let Some(entry) = self.entries.remove(&at) {
            self.bytes -= size(&entry);
            for call in &entry.calls {
                self.used_at.remove(&call.id);
            }
        }
    }

    /// The entries, longest unused first: inserted in this order they make the same store.
    pub fn entries(&self) -> impl Iterator<Item = &ReplayEntry> {
        self.entries.values()
    }

    /// How many calls are known.
    pub fn ids(&self) -> usize {
        self.used_at.len()
    }

    /// How many bytes of text and tokens are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl ReplayEntry {
    /// The entry of a reply whose calls were given `ids`, in order. `turn` is all that was sampled.
    ///
    /// `None` if the reply has no calls or they cannot be told apart from its content; such a turn
    /// is rendered from what the client sends.
    pub fn new(scope: ReplayScope, reply: &Reply, ids: &[String], turn: Option<SampledTurn>) -> Option<Self> {
        assert_eq!(ids.len(), reply.tool_calls.len(), "one id per call");
        let block = reply.block.clone()?;
        let calls = ids.iter().zip(&reply.tool_calls).map(|(id, call)| {
            let arguments = serde_json::from_str(&call.arguments).ok()?;
            Some(SampledCall { id: id.clone(), name: call.name.clone(), arguments })
        });
        let calls = calls.collect::<Option<Vec<_>>>()?;
        let (reasoning, content) = (reply.reasoning_content.clone(), reply.content.clone());
        Some(Self { scope, calls, reasoning, content, block, turn })
    }
}

impl SampledCall {
    fn is(&self, call: &ToolCall) -> bool {
        let same_arguments = || {
            serde_json::from_str(&call.arguments)
                .is_ok_and(|arguments| same_value(&self.arguments, &arguments))
        };
        call.id.as_ref() == Some(&self.id) && call.name == self.name && same_arguments()
    }
}

fn attach(entry: &ReplayEntry, message: &mut AssistantMessage) {
    let same_text = message.content == entry.content
        && (message.reasoning_content.is_empty() || message.reasoning_content == entry.reasoning);
    if same_text {
        message.reasoning_content.clone_from(&entry.reasoning);
    }
    message.replay =
        Some(Replay { turn: entry.turn.clone().filter(|_| same_text), block: entry.block.clone() });
}

/// Bytes of everything in an entry that can be long.
fn size(entry: &ReplayEntry) -> usize {
    let calls =
        entry.calls.iter().map(|call| call.id.len() + call.name.len() + to_json(&call.arguments).len());
    let block = entry.block.segments().iter().map(|segment| match segment {
        Segment::Text(text) => text.len(),
        Segment::Marker(_) => size_of::<Segment>(),
        Segment::Sampled(sampled) => sampled_size(sampled),
    });
    let turn = entry.turn.as_ref().map_or(0, |turn| sampled_size(&turn.tokens));
    size_of::<ReplayEntry>()
        + entry.scope.client.len()
        + entry.scope.model.len()
        + entry.reasoning.len()
        + entry.content.len()
        + calls.sum::<usize>()
        + block.sum::<usize>()
        + turn
}

fn sampled_size(sampled: &Sampled) -> usize {
    size_of_val(&*sampled.ids) + sampled.text.len()
}
