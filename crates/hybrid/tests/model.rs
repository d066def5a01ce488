//! Whole models on both sides: against logits that other implementations computed, and against the reference. A
//! software device will do.

#[path = "../../cpu/tests/common/mod.rs"]
mod common;

use common::{EXACT, Golden, assert_golden_draft, assert_near, feed, worst_by_row};
use cpu::{Cpu, Reference};
use forge::synth::{Recipe, Synthetic};
use gguf::Gguf;
use gpu::{Choice, Device, Gpu, Options};
use hybrid::{Host, Hybrid, Plan, Split};
use model::{Config, KvFormat, Ops, PAGE, Timeline, load};
use std::sync::OnceLock;

/// One device for all tests of this process.
fn device() -> Gpu {
    static DEVICE: OnceLock<Gpu> = OnceLock::new();
    let open = || {
        Gpu::open(Options {
            device: Choice::First,
            checks: true,
            matrices: false,
            bytes: Some(false),
            ..Options::default()
        })
    };
    DEVICE
        .get_or_init(|| open().expect("a Vulkan driver; `cargo xtask setup` installs a software one"))
        .clone()
}

fn config(gguf: &Gguf) -> Config {
    model::load::check(gguf).unwrap().config
}

fn hybrid<H: Host>(host: H, gguf: &Gguf, on_gpu: usize, cpu_moe: bool) -> Hybrid<H> {
    let config = config(gguf);
    let split = Split::new(config.layers(), on_gpu, cpu_moe).unwrap();
    Hybrid::new(device(), host, split, &config).unwrap()
}

/// Arbitrary tokens.
fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i + 5 * i + 3) % 512).collect()
}

fn assert_golden<H: Host>(host: H, golden: &Golden, on_gpu: usize, cpu_moe: bool, chunk: usize) {
    let ops = hybrid(host, &golden.gguf(), on_gpu, cpu_moe);
    let model = load(&ops, &golden.gguf()).unwrap();
    let mut timeline = Timeline::new(&ops, &model.config, KvFormat::F32);
    let logits = feed(&model, &ops, &mut timeline, &golden.tokens, chunk);
    let vocab = model.config.vocab;
    let stored = golden.stored(&logits, vocab);
    let what = format!("{on_gpu} layers on the GPU, cpu_moe {cpu_moe}, by {chunk}");
    assert_near(&what, &stored, &golden.logits, vocab, EXACT);
}

#[test]
fn every_split_gives_the_golden_logits() {
    let golden = Golden::load("mini-bf16.short");
    let layers = config(&golden.gguf()).layers();
    for on_gpu in 0..=layers {
        assert_golden(Reference, &golden, on_gpu, false, 97);
    }
    for on_gpu in [1, layers] {
        assert_golden(Reference, &golden, on_gpu, true, 97);
        assert_golden(Reference, &golden, on_gpu, true, 5);
    }
}

/// The fast operations of the CPU, which take float weights as exactly, and experts in another format.
#[test]
fn the_fast_operations_are_one_half_as_well() {
    let golden = Golden::load("mini-bf16.short");
    let layers = config(&golden.gguf()).layers();
    assert_golden(Cpu::new(Some(2)), &golden, 2, false, 50);
    assert_golden(Cpu::new(Some(2)), &golden, layers, true, 50);
    let golden = Golden::load("mini-mxfp4.mid");
    assert_golden(Reference, &golden, layers, true, 97);
}

/// Block formats of experts, with selected compressed rows on both sides of the border.
#[test]
fn models_of_other_recipes_agree_with_the_reference() {
    for (seed, recipe) in (1..).zip([Recipe::Q2, Recipe::Q4]) {
        let mut description = Synthetic::tiny(recipe, seed);
        (description.sizes.heads, description.sizes.out_groups) = (6, 3);
        let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
        let logits = |tokens: &[u32], on_gpu, cpu_moe| {
            let ops = hybrid(Reference, &gguf, on_gpu, cpu_moe);
            let model = load(&ops, &gguf).unwrap();
            let mut timeline = Timeline::new(&ops, &model.config, KvFormat::F32);
            feed(&model, &ops, &mut timeline, tokens, 70)
        };
        let tokens = prompt(141);
        let want = logits(&tokens, 0, false);
        for (on_gpu, cpu_moe) in [(3, false), (3, true)] {
            let worst = worst_by_row(&logits(&tokens, on_gpu, cpu_moe), &want, 512).pop().unwrap();
            assert!(worst < 1e-3, "{}: {on_gpu} {cpu_moe}: {worst:e}", recipe.name());
        }
    }
}

#[test]
fn the_draft_block_gives_the_golden_logits() {
    let golden = Golden::load("mini-bf16.short");
    for (on_gpu, cpu_moe) in [(1, false), (2, true)] {
        let ops = hybrid(Reference, &golden.gguf(), on_gpu, cpu_moe);
        assert_golden_draft(&ops, &golden, &format!("{on_gpu} layers on the GPU, cpu_moe {cpu_moe}"));
    }
}

/// A conversation goes from one split to the next, and to the CPU alone, over the end of a page.
#[test]
fn pages_travel_between_splits() {
    let golden = Golden::load("mini-mxfp4.mid");
    let gguf = golden.gguf();
    let layers = config(&gguf).layers();
    let tokens = prompt(PAGE as u32 + 20);
    let next = [7, 8, 9];
    let first = hybrid(Reference, &gguf, 2, false);
    let model = load(&first, &gguf).unwrap();
    let mut stayed = Timeline::new(&first, &model.config, KvFormat::F16);
    feed(&model, &first, &mut stayed, &tokens, 256);
    let bytes = stayed.to_bytes(&model.fingerprint);
    let want = feed(&model, &first, &mut stayed, &next, 3);

    fn goes_on<B: Ops>(ops: &B, gguf: &Gguf, bytes: &[u8], next: &[u32]) -> Vec<f32> {
        let model = load(ops, gguf).unwrap();
        let print = &model.fingerprint;
        let mut timeline = Timeline::from_bytes(ops, &model.config, KvFormat::F16, print, bytes).unwrap();
        assert!(timeline.to_bytes(print) == bytes, "the same bytes");
        feed(&model, ops, &mut timeline, next, 3)
    }
    assert!(goes_on(&first, &gguf, &bytes, &next) == want, "as if it had never left");
    for got in [
        goes_on(&Reference, &gguf, &bytes, &next),
        goes_on(&hybrid(Reference, &gguf, layers - 1, true), &gguf, &bytes, &next),
    ] {
        let worst = worst_by_row(&got, &want, 512).pop().unwrap();
        assert!(worst < 2e-2, "{worst}");
    }
}

/// A crossing costs a wait for the device, so their number is fixed: the streams once, and with experts on the
/// CPU there and back in each of their layers.
#[test]
fn only_the_streams_and_the_experts_cross() {
    let golden = Golden::load("mini-bf16.short");
    let layers = config(&golden.gguf()).layers() as u64;
    let check = |on_gpu: u64, cpu_moe, want| {
        let ops = hybrid(Reference, &golden.gguf(), on_gpu as usize, cpu_moe);
        let model = load(&ops, &golden.gguf()).unwrap();
        let mut timeline = Timeline::new(&ops, &model.config, KvFormat::F16);
        feed(&model, &ops, &mut timeline, &golden.tokens[..9], 9);
        assert_eq!(ops.crossings(), want, "{on_gpu} layers, cpu_moe {cpu_moe}");
        feed(&model, &ops, &mut timeline, &golden.tokens[9..10], 1);
        assert_eq!(ops.crossings(), 2 * want, "{on_gpu} layers, cpu_moe {cpu_moe}");
    };
    check(0, false, 0);
    check(2, false, 1);
    check(layers, false, 1);
    check(2, true, 1 + 2 * 2);
    check(layers, true, 1 + 2 * layers);
}

fn with_memory(memory: u64) -> Device {
    Device { memory: Some(memory), ..device().device().clone() }
}

/// A plan that does not fit names a split that does, and one more layer would not.
#[test]
fn a_plan_that_does_not_fit_is_refused_with_the_mend() {
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
    let config = config(&gguf);
    let layers = config.layers();
    let plan = |memory, on_gpu, cpu_moe| {
        let split = Split::new(layers, on_gpu, cpu_moe).unwrap();
        Plan::new(&with_memory(memory), &gguf, &config, split, |layers| layers.len() as u64 * 1000)
    };
    let all = plan(u64::MAX, layers, false);
    assert!(all.check(|_| unreachable!("it fits")).is_ok());
    let room = plan(0, 2, false).gpu.total();
    let check = |on_gpu, cpu_moe| {
        let at = |split: Split| plan(room, split.on_gpu(), split.cpu_moe());
        plan(room, on_gpu, cpu_moe).check(at).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(check(2, false), Ok(()));
    let refusal = check(layers, false).unwrap_err();
    assert!(refusal.contains("--gpu-layers 2 would fit"), "{refusal}");
    assert!(refusal.contains(&gpu::megabytes(all.gpu.total())), "the numbers: {refusal}");
    assert!(plan(0, 1, false).check(|split| plan(0, split.on_gpu(), split.cpu_moe())).is_err());
}

/// Every matrix is planned for on exactly one side.
#[test]
fn a_plan_counts_every_matrix_once() {
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
    let config = config(&gguf);
    let layers = config.layers();
    let plan = |on_gpu, cpu_moe| {
        let split = Split::new(layers, on_gpu, cpu_moe).unwrap();
        Plan::new(device().device(), &gguf, &config, split, |layers| layers.len() as u64)
    };
    for (on_gpu, cpu_moe) in [(0, false), (1, false), (layers, false), (layers, true)] {
        let plan = plan(on_gpu, cpu_moe);
        let there: u64 = gguf.tensors().filter(|t| plan.split.has_tensor(&t.name)).map(|t| t.bytes).sum();
        assert_eq!(there + plan.host_weights, gguf.tensors().map(|t| t.bytes).sum::<u64>());
        assert_eq!(plan.gpu.cache + plan.host_cache, layers as u64);
        assert!(plan.gpu.weights >= there);
    }
    let text = plan(layers, true).to_string();
    assert!(
        text.starts_with(&format!("{layers} of {layers} layers without their experts on the GPU: ")),
        "{text}"
    );
}
