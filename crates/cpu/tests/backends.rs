//! The fast backend against the reference, intermediate by intermediate.

mod common;

use common::{Golden, feed};
use cpu::{Cpu, Reference};
use model::tap::{Place, Seen};
use model::{Entry, KvFormat, Ops, Timeline, Wanted, forward, load};

/// All arrays of a pass by place, after a start of `before` tokens.
fn observed<B: Ops>(ops: &B, golden: &Golden, before: usize, tokens: usize) -> Vec<(Place, Vec<f32>)> {
    let model = load(ops, &golden.gguf()).unwrap();
    let mut timeline = Timeline::new(ops, &model.config, KvFormat::F32);
    feed(&model, ops, &mut timeline, &golden.tokens[..before], 64);
    let mut seen = Vec::new();
    let mut tap = |ops: &B, place: Place, value: Seen<'_, B>| {
        if let Seen::Array(array) = value {
            seen.push((place, ops.read(array).unwrap()));
        }
    };
    let tokens = &golden.tokens[before..before + tokens];
    let mut batch = [Entry { timeline: &mut timeline, tokens, wanted: Wanted::All }];
    forward(&model, ops, &mut batch, &mut tap).unwrap();
    seen
}

/// `|a - b| / |b|`
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// With float weights nothing is rounded to 8 bits, so every intermediate agrees to f32's noise.
#[test]
fn with_float_weights_every_intermediate_agrees() {
    for (before, tokens) in [(0, 40), (129, 1), (300, 77)] {
        let golden = Golden::load("mini-bf16.mid");
        let want = observed(&Reference, &golden, before, tokens);
        let got = observed(&Cpu::new(Some(2)), &golden, before, tokens);
        assert_eq!(got.len(), want.len());
        for ((place, got), (also, want)) in got.iter().zip(&want) {
            assert_eq!(place, also);
            let distance = distance(got, want);
            assert!(distance < 1e-4, "{place:?}, {before}+{tokens} tokens: {distance:e}");
        }
    }
}
