//! The bodies of the fuzz targets `parser` and `render`, run over the vectors and damaged copies of them.

mod any_bytes;
mod common;

use serde::Deserialize;
use serde_json::Value;

/// Copies of `bytes`, each with one byte changed, left out or doubled, or cut short.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let step = (bytes.len() / 25).max(1);
    (0..bytes.len()).step_by(step).flat_map(move |at| {
        let (before, after) = (&bytes[..at], &bytes[at + 1..]);
        let byte = bytes[at];
        [&[byte ^ 0x01][..], &[byte ^ 0x80], &[], &[byte, byte], b"<", b"\"", b"\n"]
            .map(|instead| [before, instead, after].concat())
            .into_iter()
            .chain([before.to_vec()])
    })
}

#[test]
fn damaged_replies_can_be_read() {
    #[derive(Deserialize)]
    struct Vector {
        text: String,
    }
    for file in ["chat/parse_wellformed.json", "chat/parse_tolerant.json"] {
        for (choice, vector) in (0u8..).zip(common::vectors::<Vector>(file)) {
            // Every vector in its own way, and as a reply that begins with content.
            for choice in [choice.wrapping_mul(7), 1] {
                let bytes = [&[choice], vector.text.as_bytes()].concat();
                any_bytes::read_reply(&bytes);
                damaged(&bytes).for_each(|bytes| any_bytes::read_reply(&bytes));
            }
        }
    }
}

#[test]
fn damaged_requests_can_be_rendered() {
    #[derive(Deserialize)]
    struct Vector {
        #[serde(alias = "request")]
        messages: Value,
    }
    for file in ["chat/request.json", "chat/render_roles.json", "chat/render_tools.json"] {
        for vector in common::vectors::<Vector>(file) {
            let bytes = vector.messages.to_string().into_bytes();
            any_bytes::render_json(&bytes);
            damaged(&bytes).for_each(|bytes| any_bytes::render_json(&bytes));
        }
    }
}
