//! What clients call their conversations. It decides in which slot a conversation is worked on, if that is a tie, and
//! nothing else.

use axum::http::HeaderMap;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Headers with a name in them; the first one that is there counts.
const HEADERS: [&str; 6] = [
    "x-session-affinity",
    "x-session-id",
    "session_id",
    "session-id",
    "conversation_id",
    "x-client-request-id",
];

/// A hash of what the client calls the conversation, as soon as the request's body was seen.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    header: Option<u64>,
    body: Arc<OnceLock<Option<u64>>>,
}

impl Affinity {
    /// What the headers say.
    pub fn of_headers(headers: &HeaderMap) -> Affinity {
        let mut values = HEADERS.iter().filter_map(|name| headers.get(*name));
        let header = values.find(|value| !value.is_empty()).map(|value| hash(value.as_bytes()));
        Affinity { header, body: Arc::default() }
    }

    /// Takes note of what the body says. Of one request; copies see it too.
    pub fn read(&self, body: &Value) {
        let text =
            |pointer: &str| body.pointer(pointer).and_then(Value::as_str).filter(|name| !name.is_empty());
        let first = text("/prompt_cache_key").map(|name| hash(name.as_bytes()));
        let last = || ["/metadata/user_id", "/metadata/session_id", "/user"].into_iter().find_map(text);
        let value = first.or(self.header).or_else(|| last().map(|name| hash(name.as_bytes())));
        let _ = self.body.set(value);
    }

    /// The hash, if the conversation has a name.
    pub fn get(&self) -> Option<u64> {
        self.body.get().copied().unwrap_or(self.header)
    }
}

/// Names may be people's, so they are not kept.
fn hash(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde_json::json;

    #[test]
    fn the_first_name_that_is_given_counts() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            Affinity::of_headers(&HeaderMap::from_iter(pairs))
        };
        let check = |affinity: Affinity, body: Value, want: Option<&str>| {
            affinity.read(&body);
            assert_eq!(affinity.clone().get(), want.map(|name| hash(name.as_bytes())), "{body}");
        };
        let both = || headers(&[("session_id", "b"), ("x-session-id", "a")]);
        check(headers(&[]), json!({}), None);
        check(headers(&[]), json!([1]), None);
        check(both(), json!({ "user": "u", "metadata": { "user_id": "m" } }), Some("a"));
        check(both(), json!({ "prompt_cache_key": "k" }), Some("k"));
        check(both(), json!({ "prompt_cache_key": 7 }), Some("a"));
        check(headers(&[]), json!({ "user": "u", "metadata": { "session_id": "s" } }), Some("s"));
        check(headers(&[("x-session-id", "")]), json!({ "user": "u" }), Some("u"));
    }
}
