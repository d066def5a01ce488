//! A chat completion as it is written.

use super::reply::{CLOSE, OPEN, finish_reason, logprobs};
use super::request::Style;
use crate::options::ReasoningField;
use crate::responses::input_text::InputText;
use crate::responses::tools::Kind;
use crate::stream::{Codec, Frames};
use crate::usage::{Timings, Usage};
use crate::voice::{Outcome, Told};
use crate::{App, app, ids};
use engine::logprobs::Logprob;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Instant;

/// Writes chunks.
pub(super) struct ChatStream {
    style: Style,
    app: App,
    id: String,
    created: u64,
    fingerprint: String,
    n: usize,
    begun: Instant,
    cached: usize,
    /// Whether reasoning that is a part of the content is open, by choice.
    thinking: Vec<bool>,
    /// The call that each choice is at, if that takes plain text.
    inputs: Vec<Option<InputText>>,
    usages: Vec<Usage>,
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_progress: Option<Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<FunctionDelta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom: Option<CustomDelta<'a>>,
}

#[derive(Serialize)]
struct CustomDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    input: &'a str,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl ChatStream {
    pub fn new(style: Style, app: &App, n: usize) -> ChatStream {
        ChatStream {
            style,
            app: app.clone(),
            id: ids::fresh("chatcmpl-"),
            created: app::unix_time(),
            fingerprint: app.fingerprint(),
            n,
            begun: Instant::now(),
            cached: 0,
            thinking: vec![false; n],
            inputs: std::iter::repeat_with(|| None).take(n).collect(),
            usages: Vec::new(),
            timings: None,
        }
    }

    fn chunk<'a>(&'a self, choices: &'a [ChunkChoice<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.style.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: None,
            timings: None,
            prompt_progress: None,
            warnings: &[],
        }
    }

    fn delta(&self, index: usize, delta: Delta<'_>, logprobs: Option<Value>, out: &mut Frames) {
        out.data(&self.chunk(&[ChunkChoice { index, delta, logprobs, finish_reason: None }]));
    }

    fn call(&self, choice: usize, call: CallDelta<'_>, out: &mut Frames) {
        self.delta(choice, Delta { tool_calls: Some([call]), ..Delta::default() }, None, out);
    }

    fn logprobs(&self, content: &[Logprob], reasoning: &[Logprob]) -> Option<Value> {
        let speaker = self.app.loaded().ok()?;
        self.style.logprobs.then(|| logprobs(content, reasoning, speaker.tokenizer()))
    }

    /// Ends reasoning that is a part of the content.
    fn close_reasoning(&mut self, index: usize, out: &mut Frames) {
        if std::mem::replace(&mut self.thinking[index], false) {
            let delta = Delta { content: Some(CLOSE), ..Delta::default() };
            self.delta(index, delta, None, out);
        }
    }

    fn finish(&mut self, index: usize, outcome: &Outcome, out: &mut Frames) {
        self.close_reasoning(index, out);
        // The usage of all choices comes in a chunk of its own, but the timings of one go with its end.
        let choice = ChunkChoice {
            index,
            delta: Delta::default(),
            logprobs: None,
            finish_reason: Some(finish_reason(outcome.end)),
        };
        out.data(&Chunk { timings: Some(outcome.timings), ..self.chunk(&[choice]) });
        self.usages.push(outcome.usage);
        self.timings = Some(outcome.timings);
    }
}

impl Codec for ChatStream {
    fn open(&mut self, out: &mut Frames) {
        for index in 0..self.n {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None };
            let warnings = if index == 0 { &*self.style.warnings } else { &[] };
            out.data(&Chunk { warnings, ..self.chunk(&[choice]) });
        }
    }

    fn tell(&mut self, index: usize, told: Told, out: &mut Frames) {
        match told {
            Told::Started { cached } => self.cached = cached,
            Told::Progress { done, total } => {
                if self.style.progress {
                    let choice =
                        ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason: None };
                    let progress = json!({
                        "total": total, "cache": self.cached, "processed": done, "time_ms": app::ms(self.begun),
                    });
                    out.data(&Chunk { prompt_progress: Some(progress), ..self.chunk(&[choice]) });
                }
            }
            Told::Reasoning(text, entries) if self.app.options.reasoning_field == ReasoningField::Inline => {
                let begins = !std::mem::replace(&mut self.thinking[index], true);
                let text = if begins { format!("{OPEN}{text}") } else { text };
                let delta = Delta { content: Some(&text), ..Delta::default() };
                self.delta(index, delta, self.logprobs(&[], &entries), out);
            }
            Told::Reasoning(text, entries) => {
                let both = self.app.options.reasoning_field == ReasoningField::Both;
                let delta = Delta {
                    reasoning_content: Some(&text),
                    reasoning: both.then_some(&*text),
                    ..Delta::default()
                };
                self.delta(index, delta, self.logprobs(&[], &entries), out);
            }
            Told::Content(text, entries) => {
                self.close_reasoning(index, out);
                let delta = Delta { content: Some(&text), ..Delta::default() };
                self.delta(index, delta, self.logprobs(&entries, &[]), out);
            }
            Told::CallStart { index: call, id, name } => {
                self.close_reasoning(index, out);
                let is_custom = self.style.toolbox.kind(&name) == Kind::Custom;
                self.inputs[index] = is_custom.then(InputText::default);
                let name = Some(&*name);
                let delta = CallDelta {
                    index: call,
                    id: Some(&id),
                    kind: Some(if is_custom { "custom" } else { "function" }),
                    function: (!is_custom).then_some(FunctionDelta { name, arguments: "" }),
                    custom: is_custom.then_some(CustomDelta { name, input: "" }),
                };
                self.call(index, delta, out);
            }
            Told::Arguments { index: call, delta } => {
                let text = self.inputs[index].as_mut().map(|input| input.push(&delta));
                if text.as_deref() == Some("") {
                    return; // around the text
                }
                let custom = text.as_deref().map(|input| CustomDelta { name: None, input });
                let function = custom.is_none().then_some(FunctionDelta { name: None, arguments: &delta });
                self.call(index, CallDelta { index: call, id: None, kind: None, function, custom }, out);
            }
            Told::CallEnd { .. } | Told::CallDropped { .. } => {}
            Told::Finished(outcome) => self.finish(index, &outcome, out),
            Told::Failed(error) => out.data(&json!({ "error": error.openai() })),
        }
    }

    fn keep_alive(&mut self, out: &mut Frames) {
        if self.app.options.keep_alive_as_data {
            let choice =
                ChunkChoice { index: 0, delta: Delta::default(), logprobs: None, finish_reason: None };
            out.data(&self.chunk(&[choice]));
        } else {
            out.raw(b": keep-alive\n\n");
        }
    }

    fn close(&mut self, out: &mut Frames) {
        if self.style.include_usage {
            let usage = Usage::sum(&self.usages).chat();
            out.data(&Chunk { usage: Some(usage), timings: self.timings, ..self.chunk(&[]) });
        }
        out.raw(b"data: [DONE]\n\n");
    }
}
