//! Responses that are kept for `previous_response_id`, in memory, within bounds.

use crate::guard::Client;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Responses by id; the one not used for longest goes first.
#[derive(Debug, Default)]
pub struct ResponseStore {
    limit: usize,
    bytes: usize,
    now: u64,
    by_id: HashMap<String, Stored>,
    by_use: BTreeMap<u64, String>,
    /// The response that each item was a part of.
    by_item: HashMap<String, String>,
}

/// A response and what led to it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Whose it is.
    pub client: Client,
    /// The response, as it was sent.
    pub response: Value,
    /// All items up to it: the input, that of earlier responses included, and its output.
    pub items: Vec<Value>,
}

#[derive(Debug)]
struct Stored {
    kept: Kept,
    size: usize,
    used: u64,
}

impl ResponseStore {
    /// A store of so many bytes; 0 keeps nothing.
    pub fn new(limit: usize) -> Self {
        ResponseStore { limit, ..Self::default() }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Keeps a response.
    pub fn insert(&mut self, id: String, kept: Kept) {
        let size = size(&kept.response) + kept.items.iter().map(size).sum::<usize>();
        if size > self.limit {
            return;
        }
        self.remove(&id, &kept.client);
        self.now += 1;
        self.bytes += size;
        self.by_use.insert(self.now, id.clone());
        for item in own_items(&kept.response) {
            self.by_item.insert(item.to_owned(), id.clone());
        }
        self.by_id.insert(id, Stored { kept, size, used: self.now });
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.forget(&oldest);
        }
    }

    /// A response of this client; counts as a use.
    pub fn get(&mut self, id: &str, client: &Client) -> Option<&Kept> {
        let stored = self.by_id.get_mut(id).filter(|stored| stored.kept.client == *client)?;
        self.by_use.remove(&stored.used);
        self.now += 1;
        stored.used = self.now;
        self.by_use.insert(self.now, id.to_owned());
        Some(&stored.kept)
    }

    /// An item of this client's that is stored with a response; counts as a use.
    pub fn item(&mut self, id: &str, client: &Client) -> Option<Value> {
        let response = self.by_item.get(id)?.clone();
        let kept = self.get(&response, client)?;
        kept.items.iter().find(|item| item["id"] == id).cloned()
    }

    /// Forgets a response of this client; whether there was one.
    pub fn remove(&mut self, id: &str, client: &Client) -> bool {
        if self.by_id.get(id).is_none_or(|stored| stored.kept.client != *client) {
            return false;
        }
        self.forget(id);
        true
    }

    fn forget(&mut self, id: &str) {
        let Some(gone) = self.by_id.remove(id) else { return };
        self.by_use.remove(&gone.used);
        for item in own_items(&gone.kept.response) {
            self.by_item.remove(item);
        }
        self.bytes -= gone.size;
    }
}

/// The ids of the items that a response brought.
fn own_items(response: &Value) -> impl Iterator<Item = &str> {
    response["output"].as_array().into_iter().flatten().filter_map(|item| item["id"].as_str())
}

/// About how many bytes a value takes in memory.
fn size(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(members) => members.iter().map(|(key, value)| 32 + key.len() + size(value)).sum(),
            Value::Number(number) => number.as_str().len(),
            Value::Null | Value::Bool(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(scope: &str, text: &str) -> Kept {
        Kept { client: Client { scope: scope.into() }, response: text.into(), items: Vec::new() }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mine = Client { scope: "a".into() };
        let one = size(&"x".repeat(100).into());
        let mut store = ResponseStore::new(2 * one);
        store.insert("1".into(), kept("a", &"x".repeat(100)));
        store.insert("2".into(), kept("a", &"x".repeat(100)));
        assert!(store.get("1", &mine).is_some());
        store.insert("3".into(), kept("a", &"x".repeat(100)));
        assert!(store.get("1", &mine).is_some() && store.get("2", &mine).is_none());
        store.insert("4".into(), kept("a", &"x".repeat(1000)));
        assert!(store.get("4", &mine).is_none() && store.get("3", &mine).is_some());
        assert_eq!(store.bytes, 2 * one);
    }

    #[test]
    fn one_client_does_not_see_what_another_stored() {
        let mut store = ResponseStore::new(1000);
        let item = json!({ "id": "msg_1", "text": "secret" });
        let response = json!({ "output": [item] });
        let mine = Client { scope: "a".into() };
        store.insert("1".into(), Kept { client: mine.clone(), response, items: vec![item.clone()] });
        let other = Client { scope: "b".into() };
        assert!(store.get("1", &other).is_none() && !store.remove("1", &other));
        assert_eq!((store.item("msg_1", &mine), store.item("msg_1", &other)), (Some(item), None));
        assert!(store.remove("1", &Client { scope: "a".into() }));
        assert_eq!((store.bytes, store.by_use.len(), store.by_item.len()), (0, 0, 0));
    }
}
