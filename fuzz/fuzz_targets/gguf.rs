//! Any bytes at all, given to the GGUF reader: an error or sound contents, never a panic.
//!
//! `cargo +nightly fuzz run gguf crates/gguf/tests/corpus`. The same body runs over that corpus and
//! over damaged copies of it in `crates/gguf/tests/damage.rs`, with an ordinary compiler.

#![no_main]

#[path = "../../crates/gguf/tests/read_all/mod.rs"]
mod read_all;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_all::read_all(bytes);
});
