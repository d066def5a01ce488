//! The response object.

use super::flight::Flight;
use super::items;
use super::request::{Style, choice_word};
use super::store::Kept;
use crate::error::{ApiError, Fault};
use crate::guard::Client;
use crate::voice::{End, Outcome};
use crate::{App, app, ids};
use engine::logprobs::Logprob;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// What is known of a response before there is a reply.
pub(super) struct Answer {
    pub app: App,
    pub id: String,
    pub style: Style,
    client: Client,
    created: u64,
    model: String,
    flight: Option<Flight>,
}

impl Answer {
    pub fn new(app: &App, client: Client, style: Style) -> Answer {
        let asked = style.body["model"].as_str().unwrap_or_default();
        let model = app.answer_name(asked);
        let id = ids::fresh("resp_");
        Answer { app: app.clone(), id, created: app::unix_time(), client, model, style, flight: None }
    }

    /// Lets the client look at the response by its id as long as it is written. What is given back hears when it takes
    /// the response back. (Of one that is not streamed nobody knows the id before it is complete.)
    pub fn take_off(&mut self) -> oneshot::Receiver<()> {
        let response = self.object("in_progress", &[]);
        let (flight, stopped) = Flight::begin(&self.app, &self.client, &self.id, response);
        self.flight = Some(flight);
        stopped
    }

    /// The response in this state.
    pub fn object(&self, status: &str, output: &[Value]) -> Value {
        let body = &self.style.body;
        let given = |field: &str| body.get(field).cloned().unwrap_or(Value::Null);
        let or = |field: &str, usual: Value| match given(field) {
            Value::Null => usual,
            value => value,
        };
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": (status == "completed").then(app::unix_time),
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": given("instructions"),
            "max_output_tokens": given("max_output_tokens"),
            "max_tool_calls": null,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
            "previous_response_id": given("previous_response_id"),
            "reasoning": {
                "effort": body["reasoning"]["effort"], "summary": body["reasoning"]["summary"],
            },
            "service_tier": "default",
            "store": self.style.store,
            "temperature": or("temperature", json!(self.app.options.sampling.temperature)),
            "text": or("text", json!({ "format": { "type": "text" } })),
            "tool_choice": choice_word(body.get("tool_choice")),
            "tools": or("tools", json!([])),
            "top_logprobs": or("top_logprobs", json!(0)),
            "top_p": or("top_p", json!(self.app.options.sampling.top_p)),
            "truncation": "disabled",
            "usage": null,
            "user": given("user"),
            "metadata": or("metadata", json!({})),
        });
        if !self.style.warnings.is_empty() {
            response["warnings"] = json!(self.style.warnings);
        }
        response
    }

    /// The items of a complete reply.
    ///
    /// - `called`: whether a call was begun: then the text before it is complete, even if the call is not
    pub fn output(&self, outcome: &Outcome, logprobs: &[Logprob], called: bool) -> Vec<Value> {
        let said = &outcome.message;
        let mut output = Vec::new();
        if !said.reasoning_content.is_empty() {
            output.push(items::reasoning(&ids::fresh("rs_"), &said.reasoning_content, self.style.summary));
        }
        if !said.content.is_empty() || said.tool_calls.is_empty() {
            let logprobs = self.logprobs(logprobs);
            let status = match called && !said.content.is_empty() {
                true => "completed",
                false => text_status(outcome.end),
            };
            output.push(items::message(&ids::fresh("msg_"), &said.content, logprobs, status));
        }
        let toolbox = &self.style.toolbox;
        for (call, id) in said.tool_calls.iter().zip(&outcome.call_ids) {
            output.push(toolbox.item(&call.name, id, &toolbox.item_id(&call.name), Some(&call.arguments)));
        }
        output
    }

    /// Probabilities, if they were asked for.
    pub fn logprobs(&self, entries: &[Logprob]) -> Value {
        match self.app.loaded() {
            Ok(speaker) if self.style.logprobs => items::logprobs(entries, speaker.tokenizer()),
            _ => json!([]),
        }
    }

    /// The response with its reply.
    pub fn finished(&self, output: Vec<Value>, outcome: &Outcome) -> Value {
        let cut = is_cut(outcome.end);
        let mut response = self.object(if cut { "incomplete" } else { "completed" }, &output);
        if cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["usage"] = outcome.usage.responses();
        response["timings"] = json!(outcome.timings);
        response
    }

    /// The response without one.
    pub fn failed(&self, output: Vec<Value>, error: &ApiError) -> Value {
        let status = if error.fault == Fault::Cancelled { "cancelled" } else { "failed" };
        let mut response = self.object(status, &output);
        let code = match error.fault {
            Fault::Context { .. } => "context_length_exceeded",
            Fault::Busy => "rate_limit_exceeded",
            Fault::Invalid | Fault::Missing | Fault::Unsupported | Fault::Schema => "invalid_prompt",
            _ => "server_error",
        };
        response["error"] = json!({ "code": code, "message": error.message });
        response
    }

    /// The response is complete: it is stored, if it is to be.
    pub fn keep(&mut self, response: &Value) {
        if !self.style.store {
            self.flight = None;
            return;
        }
        let mut items = self.style.items.clone();
        items.extend(response["output"].as_array().into_iter().flatten().cloned());
        let kept = Kept { client: self.client.clone(), response: response.clone(), items };
        self.app.responses().insert(self.id.clone(), kept);
        self.flight = None;
    }
}

/// Whether a reply was cut off.
pub(super) fn is_cut(end: End) -> bool {
    matches!(end, End::MaxTokens | End::ContextFull)
}

/// The status of a message in a reply that ended like this.
pub(super) fn text_status(end: End) -> &'static str {
    if is_cut(end) { "incomplete" } else { "completed" }
}
