//! What clients write at the start of a system prompt for their provider, and what the model need not see.
//!
//! Claude Code puts a line there that holds a number which is another one in every request: with it, nothing of a prompt
//! would ever be found in the cache.

use text::chat::request::{Content, RequestMessage, RequestRole};

/// Takes such lines out of system messages, wherever these are. One that has nothing else is no message.
pub fn strip(messages: &mut Vec<RequestMessage>) {
    messages.retain_mut(|message| {
        if message.role != RequestRole::System {
            return true;
        }
        let text = match &mut message.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => match parts.first_mut().and_then(|part| part.text.as_mut()) {
                Some(text) => text,
                None => return true,
            },
            None => return true,
        };
        let rest = without_client_headers(text);
        if rest.len() == text.len() {
            return true;
        }
        *text = rest.to_owned();
        match &mut message.content {
            Some(Content::Parts(parts)) if parts[0].text.as_deref() == Some("") => {
                parts.remove(0);
                !parts.is_empty()
            }
            Some(Content::Text(text)) => !text.is_empty(),
            _ => true,
        }
    });
}

/// Text without the lines `x-anthropic-…: …` at its start. They hold a number that changes with every request, and
/// the prompt would never be found in the cache. Mostly a line of its own; sometimes the prompt follows on the
/// same line, after the number.
fn without_client_headers(text: &str) -> &str {
    let mut rest = text;
    while rest.starts_with("x-anthropic-") {
        let line = rest.find('\n').map_or(rest.len(), |end| end);
        let number_end = rest[..line].find("cch=").and_then(|at| Some(at + rest[at..line].find(';')? + 1));
        match number_end {
            Some(end) if end < line => return rest[end..].trim_start_matches([' ', '\n']),
            _ => rest = rest[line..].trim_start_matches('\n'),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_change_are_left_out() {
        let check = |text: &str, want: &str| assert_eq!(without_client_headers(text), want);
        check("x-anthropic-billing-header: cc_version=2; cch=ab12;", "");
        check("x-anthropic-billing-header: cc_version=2; cch=ab12;\nYou are", "You are");
        check("x-anthropic-billing-header: cc_version=2; cch=ab12; You are", "You are");
        check("x-anthropic-billing-header: cc_version=2; cch=ab12;You are", "You are");
        check("x-anthropic-a: b\nx-anthropic-c: d\n\nYou are", "You are");
        check("You are x-anthropic-a: b", "You are x-anthropic-a: b");
    }

    #[test]
    fn any_system_message_may_have_them() {
        let number = "x-anthropic-billing-header: cc_version=2; cch=ab12;";
        let parts = |texts: &[&str]| {
            texts.iter().map(|text| json!({ "type": "text", "text": text })).collect::<serde_json::Value>()
        };
        let read = |messages: serde_json::Value| {
            let mut messages: Vec<RequestMessage> = serde_json::from_value(messages).unwrap();
            strip(&mut messages);
            messages.iter().map(|message| format!("{:?}", message.content)).collect::<Vec<_>>()
        };
        let system = |content| json!({ "role": "system", "content": content });
        let user = json!({ "role": "user", "content": number });
        let got = read(json!([
            system(parts(&[number, "You are"])),
            user,
            system(json!(number)),
            system(parts(&[number]))
        ]));
        assert_eq!(got, read(json!([system(parts(&["You are"])), user])));
        assert_eq!(got.len(), 2);
    }
}
