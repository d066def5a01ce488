//! A session in the words of others: Markdown for people, a request of the OpenAI API for programs.

use super::{Name, Record};
use crate::run::turn::{Answer, Turn};
use crate::units::ago;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::SystemTime;

/// A few lines about a session.
pub fn about(name: &Name, record: &Record) -> String {
    let (count, used) = (record.turns.len(), ago(record.updated, SystemTime::now()));
    let (model, kv) = (&record.model, &record.kv);
    format!("{name}: {count} messages, {used}\nmodel: {} ({}), KV {kv}\n\n", model.name, model.how_to_run())
}

/// What was said, with a heading for each speaker.
pub fn markdown(record: &Record) -> String {
    let mut out = String::new();
    if !record.system.is_empty() {
        section(&mut out, "System", &record.system);
    }
    for turn in &record.turns {
        match turn {
            Turn::User(text) => section(&mut out, "User", text),
            Turn::ToolResult { call_id, content } => {
                section(&mut out, &format!("Result of {call_id}"), &fenced("", content));
            }
            Turn::Assistant(answer) => section(&mut out, "Assistant", &said(answer)),
        }
    }
    out
}

fn section(out: &mut String, who: &str, text: &str) {
    let gap = if out.is_empty() { "" } else { "\n" };
    writeln!(out, "{gap}## {who}\n\n{}", text.trim_matches('\n')).expect("a string takes everything");
}

fn said(answer: &Answer) -> String {
    let mut parts = Vec::new();
    if !answer.reasoning.is_empty() {
        let quoted: Vec<_> = answer.reasoning.trim_matches('\n').lines().map(|l| format!("> {l}")).collect();
        parts.push(quoted.join("\n"));
    }
    if !answer.content.is_empty() {
        parts.push(answer.content.trim_matches('\n').to_owned());
    }
    for call in &answer.calls {
        parts.push(format!("Calls `{}` ({}):\n\n{}", call.name, call.id, fenced("json", &call.arguments)));
    }
    parts.join("\n\n")
}

/// Text between fences that it does not contain.
fn fenced(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}", text.trim_end_matches('\n'))
}

/// What was said as a request that would go on with it.
pub fn request(record: &Record) -> Value {
    let mut messages = Vec::new();
    if !record.system.is_empty() {
        messages.push(json!({ "role": "system", "content": record.system }));
    }
    for turn in &record.turns {
        messages.push(match turn {
            Turn::User(text) => json!({ "role": "user", "content": text }),
            Turn::ToolResult { call_id, content } => {
                json!({ "role": "tool", "tool_call_id": call_id, "content": content })
            }
            Turn::Assistant(answer) => {
                let mut message = json!({ "role": "assistant", "content": answer.content });
                if !answer.reasoning.is_empty() {
                    message["reasoning_content"] = answer.reasoning.clone().into();
                }
                if !answer.calls.is_empty() {
                    let calls = answer.calls.iter().map(|call| {
                        let function = json!({ "name": call.name, "arguments": call.arguments });
                        json!({ "id": call.id, "type": "function", "function": function })
                    });
                    message["tool_calls"] = calls.collect();
                }
                message
            }
        });
    }
    let mut request = json!({ "model": record.model.name, "messages": messages });
    if !record.tools.is_empty() {
        let tools = record.tools.iter().map(|function| json!({ "type": "function", "function": function }));
        request["tools"] = tools.collect();
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::turn::Call;
    use crate::sessions::ModelMark;
    use model::KvFormat;
    use text::chat::Message;
    use text::chat::request::{ChatRequest, Conversation, RequestDefaults};

    fn record() -> Record {
        let model = ModelMark { name: "m".into(), fingerprint: "00".into(), file: None };
        let mut record = Record::new(model, KvFormat::F16);
        record.system = "Be brief.".into();
        record.tools = vec![serde_json::from_value(json!({ "name": "sh", "parameters": {} })).unwrap()];
        let call = Call { id: "call_0_0".into(), name: "sh".into(), arguments: "{\"cmd\": \"ls\"}".into() };
        let (reasoning, content) = ("First\nlook.".into(), "Let me see.\n".into());
        record.turns = vec![
            Turn::User("What is there?".into()),
            Turn::Assistant(Answer { reasoning, content, calls: vec![call], sampled: None, block: None }),
            Turn::ToolResult { call_id: "call_0_0".into(), content: "a ``` b\n".into() },
        ];
        record
    }

    #[test]
    fn markdown_is_for_people() {
        let want = "## System\n\nBe brief.\n\n## User\n\nWhat is there?\n\n## Assistant\n\n> First\n> look.\n\n\
                    Let me see.\n\nCalls `sh` (call_0_0):\n\n```json\n{\"cmd\": \"ls\"}\n```\n\n\
                    ## Result of call_0_0\n\n````\na ``` b\n````\n";
        assert_eq!(markdown(&record()), want);
    }

    #[test]
    fn json_is_a_request_that_the_server_understands() {
        let request: ChatRequest = serde_json::from_value(request(&record())).unwrap();
        let conversation = Conversation::new(request, &RequestDefaults::default()).unwrap();
        let Some(Message::Assistant(answer)) =
            conversation.messages.iter().find(|message| matches!(message, Message::Assistant(_)))
        else {
            panic!("{conversation:?}")
        };
        assert_eq!((&*answer.reasoning_content, &*answer.tool_calls[0].name), ("First\nlook.", "sh"));
        assert_eq!(conversation.declared_tools, ["sh"]);
    }
}
