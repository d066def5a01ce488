//! Any bytes at all, read as a reply: the same message however they are cut, never a panic.
//!
//! `cargo +nightly fuzz run parser`. The same body runs over damaged copies of the parse vectors in
//! `crates/text/tests/damage.rs`, with an ordinary compiler.

#![no_main]

#[path = "../../crates/text/tests/any_bytes/mod.rs"]
mod any_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| any_bytes::read_reply(bytes));
