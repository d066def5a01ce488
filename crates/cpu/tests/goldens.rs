//! Whole models against logits that other implementations computed; see tests/goldens/README.md.

mod common;

use common::{Golden, feed};
use cpu::Reference;
use model::{KvFormat, Timeline, load};

/// Largest difference in each row.
fn worst_by_row(got: &[f32], want: &[f32], vocab: usize) -> Vec<f32> {
    assert_eq!(got.len(), want.len());
    let row = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    got.chunks_exact(vocab).zip(want.chunks_exact(vocab)).map(row).collect()
}

/// The limits of exact arithmetic: f32 activations and an f32 cache.
fn assert_float_class(name: &str, got: &[f32], want: &[f32], vocab: usize) {
    let mut rows = worst_by_row(got, want, vocab);
    rows.sort_by(f32::total_cmp);
    let (median, worst) = (rows[rows.len() / 2], rows[rows.len() - 1]);
    println!("{name}: median row {median:.2e}, worst row {worst:.2e}");
    assert!(worst <= 3e-4 && median <= 5e-5, "{name}: median row {median:.2e}, worst row {worst:.2e}");
}

#[test]
fn the_reference_gives_the_golden_logits() {
    for name in ["mini-bf16.short", "mini-bf16.mid", "mini-mxfp4.mid"] {
        let golden = Golden::load(name);
        let model = load(&Reference, &golden.gguf()).unwrap();
        let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
        let logits = feed(&model, &Reference, &mut timeline, &golden.tokens, 97);
        let vocab = model.config.vocab;
        let stored: Vec<f32> =
            golden.positions.iter().flat_map(|&p| &logits[p * vocab..(p + 1) * vocab]).copied().collect();
        assert_float_class(name, &stored, &golden.logits, vocab);
    }
}
