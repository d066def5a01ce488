//! Whole models against logits that other implementations computed; see tests/goldens/README.md.

mod common;

use common::{EXACT, Golden, assert_golden_draft, assert_near, feed, worst_by_row};
use cpu::{Cpu, Reference};
use model::tap::{Place, Seen};
use model::{Entry, KvFormat, Ops, Timeline, Wanted, forward, load};

#[test]
fn the_reference_gives_the_golden_logits() {
    for name in ["mini-bf16.short", "mini-bf16.mid", "mini-mxfp4.mid"] {
        let golden = Golden::load(name);
        let model = load(&Reference, &golden.gguf()).unwrap();
        let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
        let logits = feed(&model, &Reference, &mut timeline, &golden.tokens, 97);
        let vocab = model.config.vocab;
        assert_near(name, &golden.stored(&logits, vocab), &golden.logits, vocab, EXACT);
    }
}

#[test]
fn greedy_text_is_that_of_the_golden() {
    for name in ["mini-bf16.short", "mini-bf16.mid", "mini-mxfp4.mid"] {
        let golden = Golden::load(name);
        let model = load(&Reference, &golden.gguf()).unwrap();
        let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
        let mut row = feed(&model, &Reference, &mut timeline, &golden.tokens, 512)
            .split_off((golden.tokens.len() - 1) * 512);
        let want = golden.floats(golden.member("/greedy/logits_file").as_str().unwrap());
        for (i, (token, want)) in
            golden.member("/greedy/tokens").as_array().unwrap().iter().zip(want.chunks_exact(512)).enumerate()
        {
            assert_near(&format!("{name} greedy {i}"), &row, want, 512, EXACT);
            let best = (0..512u32).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
            assert_eq!(u64::from(best), token.as_u64().unwrap(), "{name} greedy {i}");
            row = feed(&model, &Reference, &mut timeline, &[best], 1);
        }
    }
}

#[test]
fn streams_after_each_layer_are_those_of_the_golden() {
    let golden = Golden::load("mini-bf16.short");
    let model = load(&Reference, &golden.gguf()).unwrap();
    let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
    let mut seen = Vec::new();
    let mut tap = |ops: &Reference, place: Place, value: Seen<'_, Reference>| {
        if let ("streams", Seen::Array(streams)) = (place.name, value) {
            seen.extend(ops.read(streams).unwrap());
        }
    };
    let mut batch = [Entry { timeline: &mut timeline, tokens: &golden.tokens, wanted: Wanted::Streams }];
    forward(&model, &Reference, &mut batch, &mut tap).unwrap();
    for (layer, (got, want)) in
        seen.chunks(48 * 512).zip(golden.floats("mini.short.streams.f32").chunks(48 * 512)).enumerate()
    {
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "layer {layer}: {worst}");
    }
    assert_eq!(seen.len(), 5 * 48 * 512);
}

#[test]
fn the_draft_block_gives_the_golden_logits() {
    for name in ["mini-bf16.short", "mini-bf16.mid"] {
        assert_golden_draft(&Reference, &Golden::load(name), name);
    }
}

/// 8-bit activations move logits, and flip a choice now and then: the limits are on the typical row.
#[test]
fn the_fast_backend_is_near_the_golden() {
    for (name, median_limit) in [("mini-bf16.short", 1e-3), ("mini-bf16.mid", 1e-3), ("mini-mxfp4.mid", 0.52)]
    {
        let golden = Golden::load(name);
        let cpu = Cpu::new(Some(2));
        let model = load(&cpu, &golden.gguf()).unwrap();
        let mut timeline = Timeline::new(&cpu, &model.config, KvFormat::F32);
        let logits = feed(&model, &cpu, &mut timeline, &golden.tokens, 97);
        let vocab = model.config.vocab;
        let rows = worst_by_row(&golden.stored(&logits, vocab), &golden.logits, vocab);
        let median = rows[rows.len() / 2];
        println!("{name}: median row {median:.2e}, worst {:.2e}", rows[rows.len() - 1]);
        assert!(median <= median_limit, "{name}: median row {median}");
    }
}
