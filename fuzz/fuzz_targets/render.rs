//! Any JSON at all, rendered as a conversation: a prompt or an error, never a panic.
//!
//! `cargo +nightly fuzz run render`. The same body runs over damaged copies of the render vectors in
//! `crates/text/tests/damage.rs`, with an ordinary compiler.

#![no_main]

#[path = "../../crates/text/tests/any_bytes/mod.rs"]
mod any_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| any_bytes::render_json(bytes));
