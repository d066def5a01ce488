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
use model::{Config, Entry, KvFormat, NoTap, Ops, PAGE, Timeline, Wanted, forward, load};
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

/// A long batch is lent the experts of each layer in turn; what is left of the prompt, and another one, is not.
#[test]
fn lent_experts_give_what_they_give_on_the_cpu() {
    for (seed, recipe) in (1..).zip([Recipe::Q2, Recipe::Q4, Recipe::Mxfp4]) {
        let gguf = Gguf::from_vec(Synthetic::tiny(recipe, seed).to_vec().unwrap()).unwrap();
        let layers = config(&gguf).layers();
        let tokens = prompt(300 + 30);
        let by_300 = |split: Split| {
            let ops = Hybrid::new(device(), Reference, split, &config(&gguf)).unwrap();
            let model = load(&ops, &gguf).unwrap();
            assert_eq!(ops.lends_from().is_some(), split.lends());
            assert!(
                ops.lends_from().is_none_or(|least| (31..=300).contains(&least)),
                "{:?}",
                ops.lends_from()
            );
            assert_eq!(ops.worthwhile_rows(), if split.lends() { PAGE } else { 1 });
            let logits = || {
                let mut timeline = Timeline::new(&ops, &model.config, KvFormat::F32);
                feed(&model, &ops, &mut timeline, &tokens, 300)
            };
            let first = logits();
            assert_eq!(logits(), first, "{}: what was lent before makes no difference", recipe.name());
            (first, ops.crossings())
        };
        let all = Split::new(layers, layers, true).unwrap();
        let (lent, crossed) = by_300(all);
        let (kept, crossed_too) = by_300(all.without_lending());
        // The streams once a batch; weights there, or rows there and back.
        assert_eq!(crossed, 2 * (2 + 3 * layers as u64));
        assert_eq!(crossed_too, 2 * (2 + 4 * layers as u64));
        let worst = worst_by_row(&lent, &kept, 512).pop().unwrap();
        assert!(worst > 0.0 && worst < 1e-3, "{}: {worst:e}", recipe.name());
    }
}

/// What was rehearsed is not compiled when somebody waits for it, and is computed as ever.
#[test]
fn usual_batches_need_no_kernel_that_was_not_rehearsed() {
    let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
    let config = config(&gguf);
    let split = Split::new(config.layers(), config.layers(), true).unwrap();
    let logits = |rehearse: bool| {
        let ops = Hybrid::new(gpu.clone(), Cpu::new(Some(2)), split, &config).unwrap();
        let model = load(&ops, &gguf).unwrap();
        if rehearse {
            let before = (gpu.kernels(), gpu.launches());
            ops.compile(&mut || model::rehearsal(&model, &ops, KvFormat::F16, 1));
            assert!(gpu.kernels() > before.0 + 20, "{} kernels", gpu.kernels());
            assert_eq!(gpu.launches(), before.1, "nothing is computed");
        }
        let kernels = gpu.kernels();
        let mut timeline = Timeline::new(&ops, &config, KvFormat::F16);
        let mut logits = Vec::new();
        for rows in [512, 16, 1, 1, 1, 1, 1] {
            let tokens = prompt(rows);
            let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::Last }];
            let output = forward(&model, &ops, &mut batch, &mut NoTap).unwrap();
            logits.extend(ops.read(&output.logits.unwrap()).unwrap());
        }
        assert_eq!(gpu.kernels(), kernels, "kernels were compiled while somebody waited");
        logits
    };
    let rehearsed = logits(true);
    assert!(logits(false) == rehearsed, "as without a rehearsal");
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
    let total = plan(0, layers, false).gpu.total();
    assert!(refusal.contains(&gpu::megabytes(total)), "the numbers: {refusal}");
    assert!(plan(0, 1, false).check(|split| plan(0, split.on_gpu(), split.cpu_moe())).is_err());
}

/// Where there is no room to lend experts, the plan does without, and is no mend for one that does not fit for
/// another reason.
#[test]
fn a_plan_lends_experts_where_there_is_room() {
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
    let config = config(&gguf);
    let layers = config.layers();
    let split = Split::new(layers, layers, true).unwrap();
    let plan = |memory, split| {
        let at = |split| Plan::new(&with_memory(memory), &gguf, &config, split, |layers| layers.len() as u64);
        at(split).or_without_lending(at)
    };
    let ample = plan(u64::MAX, split);
    assert!(ample.split.lends());
    let largest = |part: &str| {
        gguf.tensors().filter(|tensor| tensor.name.contains(part)).map(|tensor| tensor.bytes).max().unwrap()
    };
    let parts = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(largest).iter().sum::<u64>();
    // Beside the weights, two tables of the code book.
    assert_eq!(ample.gpu.lent, parts + 2 * 512);
    assert!(ample.to_string().contains(" of room for experts that are lent to it, "), "{ample}");
    let least = plan(0, split).gpu.total();
    assert!(least < ample.gpu.total(), "with smaller batches");
    assert!(plan(least, split).split.lends());
    let without = plan(least - 1, split);
    assert!(!without.split.lends());
    assert!(without.gpu.lent == 0 && without.gpu.total() < least);
    assert!(without.to_string().contains(", of which none are lent to it,"), "{without}");
    assert!(plan(0, split).split.lends(), "it does not fit in either way");
    assert_eq!(plan(u64::MAX, split.without_lending()).gpu.lent, 0);
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
