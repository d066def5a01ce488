//! Messages to prompt, byte for byte as the reference encoder does it.
//!
//! Source: `encoding_dsv4.py` of the V4 checkpoints. What looks odd is kept, because the model was
//! trained on it and the prefix cache compares bytes:
//!
//! - nothing is trimmed, and no newline is added that is not written here;
//! - of two assistant turns in a row, the second has no header;
//! - a system turn after a user turn is glued to it and suppresses the header (requests never get
//!   there, see [`request`](super::request));
//! - a reminder after a user turn comes after the header.
//!
//! Start at [`render`]; it reads like the steps of the encoder.

use std::collections::HashMap;

use serde::Deserialize;

use super::message::{AssistantMessage, Instructions, Message, Task};
use super::profile::{Effort, Profile};
use super::replay::Replay;
use super::tools;
use crate::json::to_json;
use crate::{Marker, Prompt};

/// How to render.
#[derive(Clone, Debug, Deserialize)]
pub struct RenderOptions {
    /// Whether the model thinks before it answers.
    #[serde(rename = "thinking_mode")]
    pub mode: ThinkingMode,
    /// Whether reasoning from before the last user turn is left out. Declared tools overrule this:
    /// with them all reasoning stays.
    #[serde(default = "yes")]
    pub drop_thinking: bool,
    /// Whether the prompt begins with BOS.
    #[serde(default = "yes")]
    pub add_bos: bool,
    /// How hard to think.
    #[serde(rename = "reasoning_effort", default)]
    pub effort: Option<Effort>,
    /// Which checkpoint's words to use.
    #[serde(default)]
    pub profile: Profile,
}

fn yes() -> bool {
    true
}

impl RenderOptions {
    /// A whole prompt in this mode, reasoning dropped where the model expects that.
    pub fn new(mode: ThinkingMode, effort: Option<Effort>, profile: Profile) -> Self {
        Self { mode, drop_thinking: true, add_bos: true, effort, profile }
    }
}

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingMode {
    /// Answer at once.
    Chat,
    /// Reason first.
    Thinking,
}

/// Why messages could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// A developer message takes the place of a user's and needs text.
    #[error("a developer message is empty")]
    EmptyDeveloper,
    /// Arguments are JSON, but not an object.
    #[error("the arguments of a call of {tool:?} are not a JSON object")]
    Arguments {
        /// The tool called.
        tool: String,
    },
    /// The checkpoint has no text for this effort.
    #[error("this checkpoint ({profile:?}) does not know the effort {effort:?}")]
    Effort {
        /// The effort asked for.
        effort: Effort,
        /// The checkpoint.
        profile: Profile,
    },
}

/// Renders a conversation, ready for the model to go on.
///
/// With a `context`, messages whose text is already in the cache, only what comes after it is
/// returned, and BOS is not repeated.
///
/// # Errors
///
/// If a message cannot be expressed; see [`RenderError`].
pub fn render(
    messages: &[Message],
    context: &[Message],
    options: &RenderOptions,
) -> Result<Prompt, RenderError> {
    let mut turns = fold(context, false);
    turns.extend(fold(messages, true));
    order_results(&mut turns);

    let keep_reasoning = !options.drop_thinking || turns.iter().any(|turn| turn.body.declares_tools());
    if options.mode == ThinkingMode::Thinking && !keep_reasoning {
        drop_developers(&mut turns);
    }
    let last_user = turns.iter().rposition(|turn| turn.body.is_user());
    let mut prompt = Prompt::new();
    if options.add_bos && context.is_empty() {
        prompt.marker(Marker::Bos);
    }
    Renderer { turns: &turns, options, keep_reasoning, last_user, prompt }.run()
}

/// A message, or several that the model sees as one.
struct Turn<'m> {
    body: Body<'m>,
    task: Option<Task>,
    /// Whether it comes after the context.
    fresh: bool,
}

enum Body<'m> {
    System(&'m Instructions),
    Developer(&'m Instructions),
    User(Vec<Part<'m>>),
    Assistant(&'m AssistantMessage),
    Reminder(&'m str),
}

enum Part<'m> {
    Text { text: &'m str, url: Option<&'m str> },
    Result(ToolResult<'m>),
}

#[derive(Clone, Copy)]
struct ToolResult<'m> {
    call_id: Option<&'m str>,
    content: &'m str,
}

impl Body<'_> {
    fn is_user(&self) -> bool {
        matches!(self, Body::User(_) | Body::Developer(_))
    }

    fn declares_tools(&self) -> bool {
        matches!(self, Body::System(it) | Body::Developer(it) if !it.tools.is_empty())
    }
}

/// Makes turns of messages: user messages and tool results in a row are one user turn.
fn fold(messages: &[Message], fresh: bool) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages {
        let (body, task) = match message {
            Message::System(it) => (Body::System(it), it.task),
            Message::Developer(it) => (Body::Developer(it), it.task),
            Message::Assistant(it) => (Body::Assistant(it), it.task),
            Message::LatestReminder(it) => (Body::Reminder(&it.content), None),
            Message::User(it) => {
                let part = Part::Text { text: &it.content, url: it.extracted_url.as_deref() };
                match turns.last_mut() {
                    Some(Turn { body: Body::User(parts), task: None, .. }) => {
                        parts.push(part);
                        continue;
                    }
                    _ => (Body::User(vec![part]), it.task),
                }
            }
            Message::Tool(it) => {
                let call_id = it.tool_call_id.as_deref();
                let part = Part::Result(ToolResult { call_id, content: &it.content });
                match turns.last_mut() {
                    Some(Turn { body: Body::User(parts), .. }) => {
                        parts.push(part);
                        continue;
                    }
                    _ => (Body::User(vec![part]), None),
                }
            }
        };
        turns.push(Turn { body, task, fresh });
    }
    turns
}

/// Puts the results of a turn into the order of the calls they answer. Text keeps its place; an
/// unknown id counts as the first call.
fn order_results(turns: &mut [Turn<'_>]) {
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    for turn in turns {
        match &mut turn.body {
            Body::Assistant(message) if !message.tool_calls.is_empty() => {
                let ids = message.tool_calls.iter().map(|call| call.id.as_deref());
                place_of = (0..).zip(ids).filter_map(|(place, id)| Some((id?, place))).collect();
            }
            Body::User(parts) if !place_of.is_empty() => sort_results(parts, &place_of),
            _ => {}
        }
    }
}

fn sort_results(parts: &mut [Part<'_>], place_of: &HashMap<&str, usize>) {
    let mut results: Vec<ToolResult<'_>> = Vec::new();
    results.extend(parts.iter().filter_map(|part| match part {
        Part::Result(result) => Some(*result),
        Part::Text { .. } => None,
    }));
    results.sort_by_key(|result| result.call_id.and_then(|id| place_of.get(id)).copied().unwrap_or(0));
    let slots = parts.iter_mut().filter_map(|part| match part {
        Part::Result(slot) => Some(slot),
        Part::Text { .. } => None,
    });
    for (slot, result) in slots.zip(results) {
        *slot = result;
    }
}

/// Where reasoning is dropped, developer turns before the last user turn go with it.
fn drop_developers(turns: &mut Vec<Turn<'_>>) {
    let last_user = turns.iter().rposition(|turn| turn.body.is_user());
    let mut places = 0..;
    turns.retain(|turn| places.next() == last_user || !matches!(turn.body, Body::Developer(_)));
}

/// The walk over the turns.
struct Renderer<'m> {
    turns: &'m [Turn<'m>],
    options: &'m RenderOptions,
    /// Whether all reasoning stays.
    keep_reasoning: bool,
    /// The last turn of a user or developer.
    last_user: Option<usize>,
    prompt: Prompt,
}

impl Renderer<'_> {
    fn run(mut self) -> Result<Prompt, RenderError> {
        for (at, turn) in self.turns.iter().enumerate().filter(|(_, turn)| turn.fresh) {
            if at == 0 {
                self.effort()?;
            }
            self.body(at, turn)?;
            self.transition(at, turn);
        }
        Ok(self.prompt)
    }

    fn thinking(&self) -> bool {
        self.options.mode == ThinkingMode::Thinking
    }

    fn effort(&mut self) -> Result<(), RenderError> {
        if let Some(effort) = self.options.effort.filter(|_| self.thinking()) {
            let profile = self.options.profile;
            let text = effort.text(profile).ok_or(RenderError::Effort { effort, profile })?;
            self.prompt.text(text);
        }
        Ok(())
    }

    fn body(&mut self, at: usize, turn: &Turn<'_>) -> Result<(), RenderError> {
        match &turn.body {
            Body::System(it) => self.instructions(it),
            Body::Developer(it) if it.content.is_empty() => return Err(RenderError::EmptyDeveloper),
            Body::Developer(it) => {
                self.prompt.marker(Marker::User);
                self.instructions(it);
            }
            Body::User(parts) => self.user(parts),
            Body::Assistant(it) => self.assistant(at, it)?,
            Body::Reminder(text) => {
                self.prompt.marker(Marker::LatestReminder);
                self.prompt.text(text);
            }
        }
        Ok(())
    }

    fn instructions(&mut self, it: &Instructions) {
        self.prompt.text(&it.content);
        if !it.tools.is_empty() {
            self.prompt.text("\n\n");
            tools::define(&it.tools, &mut self.prompt);
        }
        if let Some(format) = &it.response_format {
            self.prompt.text("\n\n## Response Format:\n\n");
            self.prompt.text("You MUST strictly adhere to the following schema to reply:\n");
            self.prompt.text(&to_json(format));
        }
    }

    fn user(&mut self, parts: &[Part<'_>]) {
        self.prompt.marker(Marker::User);
        for (at, part) in parts.iter().enumerate() {
            self.prompt.text(if at > 0 { "\n\n" } else { "" });
            match part {
                Part::Text { text, url } => {
                    self.prompt.text(text);
                    if let Some(url) = url {
                        self.prompt.marker(Marker::ExtractedUrl);
                        self.prompt.text(url);
                    }
                }
                Part::Result(result) => {
                    self.prompt.text("<tool_result>");
                    self.prompt.text(result.content);
                    self.prompt.text("</tool_result>");
                }
            }
        }
    }

    fn assistant(&mut self, at: usize, it: &AssistantMessage) -> Result<(), RenderError> {
        let after_task = at > 0 && self.turns[at - 1].task.is_some();
        let reasons = self.thinking()
            && !after_task
            && (self.keep_reasoning || self.last_user.is_none_or(|last| at > last));
        match &it.replay {
            Some(Replay { turn: Some(turn), .. }) if turn.reasons == reasons => {
                self.prompt.sampled(turn.tokens.clone());
            }
            replay => {
                if reasons {
                    self.prompt.text(&it.reasoning_content);
                    self.prompt.marker(Marker::ThinkClose);
                }
                self.prompt.text(&it.content);
                match replay {
                    Some(Replay { block, .. }) => self.prompt.extend(block),
                    None if it.tool_calls.is_empty() => {}
                    None => tools::call(&it.tool_calls, &mut self.prompt)?,
                }
            }
        }
        if !it.wo_eos {
            self.prompt.marker(Marker::Eos);
        }
        Ok(())
    }

    /// What comes between a turn and the next: the header of an assistant's, or a task's token.
    fn transition(&mut self, at: usize, turn: &Turn<'_>) {
        let next = self.turns.get(at + 1).map(|next| &next.body);
        if !matches!(next, None | Some(Body::Assistant(_) | Body::Reminder(_))) {
            return;
        }
        match turn.task {
            Some(Task::Action) => {
                self.header(self.thinking());
                self.prompt.marker(Marker::Action);
            }
            Some(task) => self.prompt.marker(task.marker()),
            None if turn.body.is_user() => {
                let current = self.last_user.is_none_or(|last| at >= last);
                self.header(self.thinking() && (self.keep_reasoning || current));
            }
            None => {}
        }
    }

    fn header(&mut self, think: bool) {
        self.prompt.marker(Marker::Assistant);
        self.prompt.marker(if think { Marker::ThinkOpen } else { Marker::ThinkClose });
    }
}
