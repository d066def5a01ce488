//! A damaged model is refused with a message, or loads: nothing in its head makes the engine panic.

use cpu::Reference;
use forge::synth::{Recipe, Sizes, Synthetic, byte_vocab};
use gguf::Gguf;

/// A small model with a layer of each kind, and where its tensor data starts.
fn small() -> (Vec<u8>, usize) {
    let sizes =
        Sizes { ratios: vec![0, 4, 128], width: 32, q_lora: 32, experts: 4, mtp: true, ..Sizes::tiny() };
    let description = Synthetic { sizes, vocab: byte_vocab(272), ..Synthetic::tiny(Recipe::Q8, 1) };
    let bytes = description.to_vec().unwrap();
    let gguf = Gguf::from_vec(bytes.clone()).unwrap();
    let data_start = gguf.tensors().map(|tensor| tensor.offset).min().unwrap() as usize;
    (bytes, data_start)
}

#[test]
fn any_flipped_byte_in_the_head_is_survived() {
    let (bytes, data_start) = small();
    let (mut refused, mut loaded) = (0, 0);
    for i in 0..data_start {
        for flip in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[i] ^= flip;
            let Ok(gguf) = Gguf::from_vec(damaged) else {
                refused += 1;
                continue;
            };
            match model::load(&Reference, &gguf) {
                Ok(_) => loaded += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000 && loaded > 1000, "{refused} refused, {loaded} loaded");
}
