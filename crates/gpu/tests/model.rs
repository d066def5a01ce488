//! Whole models on the device: against logits that other implementations computed, and against the
//! reference, intermediate by intermediate. A software device will do.

#[path = "../../cpu/tests/common/mod.rs"]
mod common;

use common::{EXACT, Golden, assert_golden_draft, assert_near, feed, worst_by_row};
use cpu::Reference;
use forge::synth::{Recipe, Synthetic};
use gguf::Gguf;
use gpu::{Choice, Gpu, Options, Plan};
use model::tap::{Place, Seen};
use model::{Entry, KvFormat, NoTap, Ops, PAGE, Tap, Timeline, Wanted, foresee, forward, go_on, load};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

fn open(matrices: bool) -> Gpu {
    let exact = Options { matrices, bytes: Some(false), ..Options::default() };
    Gpu::open(Options { device: Choice::First, checks: true, ..exact })
        .expect("a Vulkan driver; `cargo xtask setup` installs a software one")
}

/// One device for all tests of this process, without its matrix units.
fn device() -> Gpu {
    static DEVICE: OnceLock<Gpu> = OnceLock::new();
    DEVICE.get_or_init(|| open(false)).clone()
}

/// The same with its matrix units, if it has some.
fn device_with_matrices() -> Option<Gpu> {
    static DEVICE: OnceLock<Gpu> = OnceLock::new();
    let gpu = DEVICE.get_or_init(|| open(true)).clone();
    if gpu.abilities().matrices.is_none() {
        println!("skipped: {} has no matrix units that are used", gpu.device().name);
        return None;
    }
    Some(gpu)
}

/// All arrays of a pass by place, after a start of `before` tokens.
fn observed<B: Ops>(
    ops: &B,
    gguf: &Gguf,
    kv: KvFormat,
    prompt: &[u32],
    before: usize,
) -> Vec<(Place, Vec<f32>)> {
    let model = load(ops, gguf).unwrap();
    let mut timeline = Timeline::new(ops, &model.config, kv);
    feed(&model, ops, &mut timeline, &prompt[..before], 64);
    let mut seen = Vec::new();
    let mut tap = |ops: &B, place: Place, value: Seen<'_, B>| {
        let values = match value {
            Seen::Done => return,
            Seen::Array(array) => ops.read(array).unwrap(),
            Seen::Picks(picks) => {
                ops.read_picks(picks).unwrap().concat().into_iter().map(|i| i as f32).collect()
            }
            Seen::Routes(routes) => {
                let routes = ops.read_routes(routes).unwrap().concat();
                routes.into_iter().flat_map(|(expert, share)| [expert as f32, share]).collect()
            }
        };
        seen.push((place, values));
    };
    let mut batch = [Entry { timeline: &mut timeline, tokens: &prompt[before..], wanted: Wanted::All }];
    forward(&model, ops, &mut batch, &mut tap).unwrap();
    seen
}

/// `|a - b| / |b|`
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(f32::MIN_POSITIVE)
}

/// Runs the same on the reference and on the device.
fn assert_alike(gguf: &Gguf, kv: KvFormat, prompt: &[u32], before: usize, limit: f32, what: &str) {
    let want = observed(&Reference, gguf, kv, prompt, before);
    let got = observed(&device(), gguf, kv, prompt, before);
    assert_eq!(got.len(), want.len());
    for ((place, got), (also, want)) in got.iter().zip(&want) {
        assert_eq!(place, also);
        assert_eq!(got.len(), want.len(), "{what}: {place:?}");
        let distance = distance(got, want);
        assert!(
            distance < limit,
            "{what}: {place:?}, {} tokens after {before}: {distance:e}",
            prompt.len() - before
        );
    }
}

#[test]
fn every_intermediate_agrees_with_the_reference() {
    let golden = Golden::load("mini-bf16.mid");
    for (before, tokens) in [(0, 40), (129, 1), (300, 77), (200, 3)] {
        let prompt = &golden.tokens[..before + tokens];
        assert_alike(&golden.gguf(), KvFormat::F32, prompt, before, 1e-4, "mini-bf16");
    }
}

/// Arbitrary tokens.
fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i + 5 * i + 3) % 512).collect()
}

/// Formats that only some recipes have, models of other widths, and a random model for each seed.
#[test]
fn models_of_every_recipe_agree_with_the_reference() {
    for (seed, recipe) in (1..).zip(Recipe::ALL) {
        let mut description = Synthetic::tiny(recipe, seed);
        description.sizes.heads = 6;
        description.sizes.out_groups = 3;
        let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
        for (len, before) in [(150, 110), (141, 140)] {
            assert_alike(&gguf, KvFormat::F32, &prompt(len), before, 3e-4, recipe.name());
        }
    }
}

/// Whole models through matrix units. In the first layer nothing has been chosen yet but experts; after it a rounding can
/// turn a choice of keys, and what follows from that is in all that comes later.
#[test]
fn matrix_units_agree_with_the_reference_in_models_of_every_recipe() {
    let Some(gpu) = device_with_matrices() else { return };
    // With 32 heads and cached rows in f16, attention goes through matrix units, too.
    let with_attention = |(seed, recipe)| (seed, recipe, 32, KvFormat::F16);
    let exact = (1..).zip(Recipe::ALL).map(|(seed, recipe)| (seed, recipe, 4, KvFormat::F32));
    for (seed, recipe, heads, kv) in exact.chain((1..).zip(Recipe::ALL).map(with_attention)) {
        let mut description = Synthetic::tiny(recipe, seed);
        description.sizes.heads = heads;
        let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
        let want = observed(&Reference, &gguf, kv, &prompt(160), 20);
        let got = observed(&gpu, &gguf, kv, &prompt(160), 20);
        let mut worst = [0f32; 2];
        for ((place, got), (_, want)) in got.iter().zip(&want) {
            let (far, first) = (distance(got, want), place.layer == Some(0));
            let limit = match recipe {
                Recipe::F32 | Recipe::Bf16 if kv == KvFormat::F32 => 3e-4,
                Recipe::F32 | Recipe::Bf16 => 2e-3,
                _ if first => 2e-3,
                _ => 0.25,
            };
            assert!(far < limit, "{}, {heads} heads: {place:?}: {far:e}", recipe.name());
            let worst = &mut worst[usize::from(!first)];
            *worst = worst.max(far);
        }
        let [first, all] = worst;
        println!("{}, {heads} heads: {first:.1e} in the first layer, {all:.1e} after it", recipe.name());
    }
}

/// Where rows are rounded, a difference in the last bit can become one of a whole step; the picks, which
/// such a step can turn, stay the same for these prompts.
#[test]
fn rounded_caches_agree_with_the_reference() {
    let description = Synthetic::tiny(Recipe::F32, 3);
    let mut sizes = description.sizes.clone();
    (sizes.head_dim, sizes.rope_dim) = (192, 64);
    let gguf = Gguf::from_vec(Synthetic { sizes, ..description }.to_vec().unwrap()).unwrap();
    for (kv, limit) in [(KvFormat::F16, 2e-3), (KvFormat::F8, 4e-2)] {
        for (len, before) in [(90, 60), (131, 130)] {
            assert_alike(&gguf, kv, &prompt(len), before, limit, kv.name());
        }
    }
}

#[test]
fn the_device_gives_the_golden_logits() {
    golden_logits(&device(), EXACT, EXACT);
}

/// Through matrix units, where weights are f16 or bf16 nothing is lost either. Where they are fewer bits, both factors
/// of a product are rounded to f16; a rounding can turn the choice of an expert, and then a row is another one.
#[test]
fn matrix_units_give_the_golden_logits() {
    if let Some(gpu) = device_with_matrices() {
        golden_logits(&gpu, EXACT, [5.0, 3e-2]);
    }
}

/// Holds logits to limits for the worst row and the median, with weights of floats and of fewer bits.
fn golden_logits(gpu: &Gpu, floats: [f32; 2], bits: [f32; 2]) {
    for name in ["mini-bf16.short", "mini-bf16.mid", "mini-mxfp4.mid"] {
        let golden = Golden::load(name);
        let model = load(gpu, &golden.gguf()).unwrap();
        for chunk in [97, 5] {
            let mut timeline = Timeline::new(gpu, &model.config, KvFormat::F32);
            let logits = feed(&model, gpu, &mut timeline, &golden.tokens, chunk);
            let vocab = model.config.vocab;
            let stored = golden.stored(&logits, vocab);
            let limits = if name.contains("bf16") { floats } else { bits };
            assert_near(&format!("{name} by {chunk}"), &stored, &golden.logits, vocab, limits);
        }
    }
}

#[test]
fn the_draft_block_gives_the_golden_logits() {
    assert_golden_draft(&device(), &Golden::load("mini-bf16.short"), "device");
}

/// A conversation that one backend saved goes on at the other, over the end of a page; whether a batch had all of it or
/// only a part.
#[test]
fn pages_travel_between_the_device_and_the_cpu() {
    let golden = Golden::load("mini-mxfp4.mid");
    let (gpu, gguf) = (device(), golden.gguf());
    let (here, there) = (load(&gpu, &gguf).unwrap(), load(&Reference, &gguf).unwrap());
    let tokens: Vec<u32> = prompt(PAGE as u32 + 40);
    let next = [7, 8, 9];
    for chunk in [256, tokens.len()] {
        let mut on_device = Timeline::new(&gpu, &here.config, KvFormat::F16);
        feed(&here, &gpu, &mut on_device, &tokens, chunk);
        let bytes = on_device.to_bytes(&here.fingerprint);
        let mut on_cpu =
            Timeline::from_bytes(&Reference, &there.config, KvFormat::F16, &there.fingerprint, &bytes)
                .unwrap();
        assert!(on_cpu.to_bytes(&there.fingerprint) == bytes, "the same bytes on the CPU");
        let mut back =
            Timeline::from_bytes(&gpu, &here.config, KvFormat::F16, &here.fingerprint, &bytes).unwrap();
        assert!(back.to_bytes(&here.fingerprint) == bytes, "the same bytes on the way back");
        let want = feed(&there, &Reference, &mut on_cpu, &next, 3);
        let stayed = feed(&here, &gpu, &mut on_device, &next, 3);
        let returned = feed(&here, &gpu, &mut back, &next, 3);
        assert!(stayed == returned, "as if it had never left");
        let worst = worst_by_row(&stayed, &want, 512).pop().unwrap();
        assert!(worst < 2e-2, "{worst}");
    }
}

/// A launch costs microseconds whatever it does, most of all if it has to wait for one before it, so their number is part
/// of the speed. Ceilings by kind of layer, of launches and of those that wait: for most tokens, and for one that
/// completes a window to be compressed. Several conversations at once, and several tokens of one, take as few, but for such
/// windows, of which each conversation has its own. The host waits once, for what is wanted.
#[test]
fn a_token_takes_few_launches() {
    // A device of its own: other tests launch, too.
    let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
    for (conversations, tokens) in [(1, 1), (3, 1), (1, 2)] {
        for (ratio, ceilings) in [(0, [[12, 10]; 2]), (128, [[12, 10]; 2]), (4, [[16, 13], [19, 16]])] {
            let mut description = Synthetic::tiny(Recipe::Q8, 1);
            description.sizes.ratios = vec![0];
            let launches = |description: &Synthetic| {
                let model = load(&gpu, &Gguf::from_vec(description.to_vec().unwrap()).unwrap()).unwrap();
                let mut timelines: Vec<_> =
                    (0..conversations).map(|_| Timeline::new(&gpu, &model.config, KvFormat::F16)).collect();
                // Regions of cached rows grow at the first tokens after it; a window is complete at 172 and at 176.
                for timeline in &mut timelines {
                    feed(&model, &gpu, timeline, &prompt(170), 256);
                    feed(&model, &gpu, timeline, &[1, 1, 1, 1][tokens - 1..], 1);
                }
                let mut of_step = || {
                    let next = vec![1; tokens];
                    let entry = |timeline| Entry { timeline, tokens: &next, wanted: Wanted::All };
                    let waits = gpu.waits();
                    gpu.watch(true);
                    let mut batch: Vec<_> = timelines.iter_mut().map(entry).collect();
                    let output = forward(&model, &gpu, &mut batch, &mut NoTap).unwrap();
                    gpu.read(&output.logits.expect("wanted")).unwrap();
                    assert_eq!(gpu.waits() - waits, 1, "waits for a step");
                    let launches = gpu.launched();
                    [launches.len(), launches.iter().filter(|launch| launch.barrier).count()]
                };
                [of_step(), of_step()]
            };
            let one = launches(&description);
            assert!(one.iter().all(|&[all, _]| all <= 16), "{one:?} for one layer with both ends");
            description.sizes.ratios.push(ratio);
            let two = launches(&description);
            for step in 0..2 {
                let layer = [0, 1].map(|what| two[step][what] - one[step][what]);
                let of = format!("ratio {ratio}, {conversations} x {tokens}");
                println!("{of}: {layer:?} launches and waits of a layer, {:?} with both ends", one[step]);
                // Two of each further conversation's own, for its window.
                let own = 2 * (conversations - 1) * step;
                let holds = layer.iter().zip(ceilings[step]).all(|(&count, most)| count <= most + own);
                assert!(holds, "{of}: {layer:?} launches and waits of a layer");
            }
        }
    }
}

/// What was rehearsed need not be compiled when somebody waits for it, and is computed as ever.
#[test]
fn usual_batches_need_no_kernel_that_was_not_rehearsed() {
    let [gpu, other] =
        [0, 1].map(|_| Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap());
    let mut description = Synthetic::tiny(Recipe::Q2, 3);
    description.sizes.ratios = vec![0, 4, 128];
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let here = load(&gpu, &gguf).unwrap();
    // Opening a device with matrix units tries them.
    let before = gpu.launches();
    gpu.compile(&mut || model::rehearsal(&here, &gpu, KvFormat::F16, 4));
    let rehearsed = gpu.kernels();
    let launched = gpu.launches() - before;
    assert!(rehearsed > 20 && launched == 0, "{rehearsed} kernels, {launched} launches");
    let got = last_logits(&here, &gpu);
    assert_eq!(gpu.kernels(), rehearsed, "kernels were compiled while somebody waited");
    assert!(got == last_logits(&load(&other, &gguf).unwrap(), &other), "as without a rehearsal");
}

/// What is rehearsed may fail; the device computes again afterwards.
#[test]
fn a_rehearsal_that_fails_is_over() {
    let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
    let failing = std::panic::AssertUnwindSafe(|| gpu.compile(&mut || panic!("as planned")));
    std::panic::catch_unwind(failing).expect_err("a panic");
    assert!(!gpu.rehearses());
    let golden = Golden::load("mini-bf16.short");
    let model = load(&gpu, &golden.gguf()).unwrap();
    let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F32);
    let logits = feed(&model, &gpu, &mut timeline, &golden.tokens, 97);
    let vocab = model.config.vocab;
    assert_near("after a failure", &golden.stored(&logits, vocab), &golden.logits, vocab, EXACT);
}

/// The logits of the last token of each of some batches.
fn last_logits(model: &model::Model<Gpu>, gpu: &Gpu) -> Vec<f32> {
    let mut timelines = [0; 4].map(|_| Timeline::new(gpu, &model.config, KvFormat::F16));
    let mut logits = Vec::new();
    for (count, rows) in [(1, 100), (1, 1), (1, 4), (1, 300), (1, 3), (1, 1), (2, 1), (4, 1), (4, 1), (3, 1)]
    {
        let tokens = prompt(rows);
        let entry = |timeline| Entry { timeline, tokens: &tokens, wanted: Wanted::Last };
        let mut batch: Vec<_> = timelines[..count].iter_mut().map(entry).collect();
        let output = forward(model, gpu, &mut batch, &mut NoTap).unwrap();
        logits.extend(gpu.read(&output.logits.unwrap()).unwrap());
    }
    logits
}

/// The same batches of four rows, again and again.
#[test]
fn few_rows_give_the_same_every_time() {
    let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
    let mut description = Synthetic::tiny(Recipe::Q2, 3);
    description.sizes.ratios = vec![0, 4, 128];
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let model = load(&gpu, &gguf).unwrap();
    let run = || {
        let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
        (0..40).map(|_| feed(&model, &gpu, &mut timeline, &prompt(4), 4)).collect::<Vec<_>>()
    };
    let want = run();
    for _ in 0..4 {
        let got = run();
        let first = (0..want.len()).find(|&batch| got[batch] != want[batch]);
        assert_eq!(first, None, "the first batch that differs");
    }
}

/// Whoever reckons what is read has to know how many rows a tile has: it differs by device and batch.
#[test]
fn products_by_tiles_say_how_many_rows_share_weights() {
    let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
    let model = load(&gpu, &gguf).unwrap();
    let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
    gpu.watch(true);
    feed(&model, &gpu, &mut timeline, &prompt(100), 100);
    let launches = gpu.launched();
    for launch in &launches {
        let by_tiles = ["linear_tile", "linear_matrix"].contains(&launch.kernel);
        assert_eq!(launch.tile.is_some(), by_tiles, "{launch:?}");
        assert!(launch.tile.is_none_or(|rows| [32, 64, 128].contains(&rows)), "{launch:?}");
    }
    assert!(launches.iter().any(|launch| launch.tile.is_some()));
}

/// Tokens one after the other ask for the same again, but for what is in host data: nearly all of it is encoded before it is
/// asked for, and gives the same as what is not.
#[test]
fn launches_of_a_token_are_encoded_ahead() {
    let gguf = every_kind_of_layer();
    let decoded = |profile: bool| {
        let gpu = Gpu::open(Options { device: Choice::First, profile, ..Options::default() }).unwrap();
        let model = load(&gpu, &gguf).unwrap();
        let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
        feed(&model, &gpu, &mut timeline, &prompt(300), 300);
        let begin = gpu.encoded_ahead();
        let logits: Vec<f32> =
            (0..80).flat_map(|token| feed(&model, &gpu, &mut timeline, &[token], 1)).collect();
        let end = gpu.encoded_ahead();
        (logits, end.0 - begin.0, end.1 - begin.1)
    };
    let (logits, asked, ready) = decoded(false);
    println!("{ready} of {asked} encoded ahead");
    assert!(4 * ready > 3 * asked, "{ready} of {asked} encoded ahead");
    // Where kernels are timed, everything is encoded when it is asked for.
    let (want, _, none) = decoded(true);
    assert_eq!(none, 0, "encoded ahead under the clock");
    assert!(logits == want, "the same logits");
}

/// Steps that are asked for before their tokens are known give the same logits, whatever becomes of the steps: through
/// windows that fill, cached rows that move as they grow, and the ends of a page. A token that does not come leaves no
/// trace.
#[test]
fn steps_that_are_foreseen_are_the_same() {
    let gguf = every_kind_of_layer();
    let gpu = device();
    let model = load(&gpu, &gguf).unwrap();
    let start = || {
        let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
        feed(&model, &gpu, &mut timeline, &prompt(PAGE as u32 - 60), 300);
        timeline
    };
    let tokens: Vec<u32> = prompt(120);
    let mut plain = start();
    let want: Vec<Vec<f32>> =
        tokens.iter().map(|&token| feed(&model, &gpu, &mut plain, &[token], 1)).collect();
    let mut ahead = start();
    let (mut got, mut foreseen) = (Vec::new(), 0);
    for (i, &token) in tokens.iter().enumerate() {
        // Every third time no token comes, and at some of these somebody else asks for something in between.
        if i % 3 == 0 && foresee(&model, &gpu, &mut [&mut ahead]).is_some() {
            let rows = gpu.send(&[i as f32; 8], 4);
            assert_eq!(gpu.read(&rows).unwrap(), [i as f32; 8]);
            go_on(&gpu, &mut [&mut ahead], &[None]);
        }
        let before = ahead.len();
        match foresee(&model, &gpu, &mut [&mut ahead]) {
            Some(output) => {
                go_on(&gpu, &mut [&mut ahead], &[Some(token)]);
                got.push(gpu.read(&output.logits.unwrap()).unwrap());
                foreseen += 1;
            }
            None => {
                assert_eq!(ahead.room(), 1, "only the last token of a page has to be known");
                got.push(feed(&model, &gpu, &mut ahead, &[token], 1));
            }
        }
        assert_eq!((ahead.len(), ahead.tokens().last()), (before + 1, Some(&token)));
    }
    assert_eq!(foreseen, tokens.len() - 1);
    assert_eq!(ahead.tokens(), plain.tokens());
    let first = (0..want.len()).find(|&i| got[i] != want[i]);
    assert_eq!(first, None, "the first token whose logits differ");
}

/// Whoever else asks for something while a step is foreseen has to wait until it goes on.
#[test]
fn others_wait_for_a_step_that_is_foreseen() {
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 3).to_vec().unwrap()).unwrap();
    let gpu = device();
    let model = load(&gpu, &gguf).unwrap();
    let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
    let has_gone_on = AtomicBool::new(false);
    assert!(foresee(&model, &gpu, &mut [&mut timeline]).is_some());
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            gpu.send(&[1.0; 4], 4);
            has_gone_on.load(Ordering::SeqCst)
        });
        std::thread::sleep(Duration::from_millis(50));
        has_gone_on.store(true, Ordering::SeqCst);
        go_on(&gpu, &mut [&mut timeline], &[Some(3)]);
        assert!(other.join().unwrap(), "it had to wait");
    });
}

/// A step that panics while it is asked for is no step.
#[test]
fn a_step_that_fails_while_it_is_foreseen_leaves_nothing() {
    let gpu = device();
    let x = gpu.array(vec![1.0; 64], 64).unwrap();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        gpu.foresee(&mut || {
            let mut y = gpu.send(&[2.0; 64], 64);
            gpu.add(&mut y, &x);
            panic!("on purpose");
        })
    }));
    assert!(failed.is_err());
    let mut y = gpu.send(&[3.0; 64], 64);
    gpu.add(&mut y, &x);
    assert_eq!(gpu.read(&y).unwrap(), [4.0; 64]);
}

/// A device whose kernels may see little of a buffer: what is larger is split, and gives the same, up to the order in
/// which the parts of a sum are added.
#[test]
fn matrices_beyond_the_binding_limit_are_split() {
    let mut description = Synthetic::tiny(Recipe::F32, 5);
    description.sizes.ratios = vec![0, 4];
    // Experts of 2 MB, so that half of it is still room for the KV cache, which has the same limit.
    (description.sizes.experts, description.sizes.expert_width) = (16, 256);
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let largest = gguf.tensors().map(|tensor| tensor.bytes).max().unwrap();
    let limit = largest / 2 + 1024;
    let options = Options {
        device: Choice::First,
        checks: true,
        matrices: false,
        bytes: Some(false),
        ..Options::default()
    };
    let narrow = Gpu::open(Options { largest_binding: Some(limit), ..options }).unwrap();
    let logits = |gpu: &Gpu| {
        let model = load(gpu, &gguf).unwrap();
        let mut timeline = Timeline::new(gpu, &model.config, KvFormat::F16);
        feed(&model, gpu, &mut timeline, &prompt(30), 13)
    };
    let (parts, whole) = (logits(&narrow), logits(&device()));
    let far = parts.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let scale = whole.iter().map(|x| x.abs()).fold(0.0, f32::max);
    assert!(far <= 1e-5 * scale, "{far} of {scale}");
}

/// An expert has to be seen whole: one that cannot be is an error of the next read.
#[test]
fn experts_beyond_the_binding_limit_are_an_error_that_says_so() {
    let mut description = Synthetic::tiny(Recipe::F32, 5);
    description.sizes.ratios = vec![0];
    (description.sizes.experts, description.sizes.expert_width) = (4, 4096);
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let options = Options {
        device: Choice::First,
        checks: true,
        matrices: false,
        bytes: Some(false),
        ..Options::default()
    };
    let gpu = Gpu::open(Options { largest_binding: Some(1 << 20), ..options }).unwrap();
    let model = load(&gpu, &gguf).unwrap();
    for tokens in [prompt(1), prompt(30)] {
        let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
        let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::Last }];
        let logits = forward(&model, &gpu, &mut batch, &mut NoTap).unwrap().logits.unwrap();
        let error = gpu.read(&logits).unwrap_err().to_string();
        assert!(error.contains("too large for one buffer"), "{error}");
    }
}

/// Each layer's cached rows have a buffer of their own, so that together they can be more than a kernel may see of
/// one.
#[test]
fn a_cache_of_several_layers_may_be_larger_than_the_binding_limit() {
    let mut description = Synthetic::tiny(Recipe::Q8, 5);
    description.sizes.ratios = vec![0, 4, 128, 4];
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let options = Options {
        device: Choice::First,
        checks: true,
        matrices: false,
        bytes: Some(false),
        ..Options::default()
    };
    let limit = 4 << 20;
    let narrow = Gpu::open(Options { largest_binding: Some(limit), ..options }).unwrap();
    let run = |gpu: &Gpu, conversations: usize| {
        let model = load(gpu, &gguf).unwrap();
        let mut timelines: Vec<_> =
            (0..conversations).map(|_| Timeline::new(gpu, &model.config, KvFormat::F32)).collect();
        let logits: Vec<_> = timelines.iter_mut().map(|t| feed(&model, gpu, t, &prompt(150), 150)).collect();
        (logits, gpu.memory()[1])
    };
    let (got, bytes) = run(&narrow, 3);
    assert!(bytes > limit, "{bytes} bytes of cached rows are no more than the limit");
    let (want, _) = run(&device(), 1);
    assert!(got.iter().all(|logits| *logits == want[0]), "the same, wherever rows are");
}

/// Before anything is allocated it is known whether a context fits: a million tokens do where a kernel sees two
/// gigabytes, and what does not is refused with the numbers.
#[test]
fn a_context_beyond_what_a_layer_can_have_is_refused_beforehand() {
    let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 5).to_vec().unwrap()).unwrap();
    let config = model::load::check(&gguf).unwrap().config;
    let about = gpu::Device { largest_buffer: 2 << 30, memory: None, ..device().device().clone() };
    let check = |cache: &[u64]| Plan::new(&about, &gguf, &config, cache, |_| true).check();
    // A layer of ratio 4 of the published model in f8, with a million tokens and all ends of pages.
    assert!(check(&[300 << 20; 43]).is_ok(), "13 GB of it, but no layer too much");
    let refusal = check(&[300 << 20, 3 << 30]).unwrap_err().to_string();
    assert!(refusal.contains("a layer needs 3221 MB") && refusal.contains("can use 2147 MB"), "{refusal}");
}

/// Large batches are planned for only where there is known to be memory for them.
#[test]
fn a_plan_has_the_largest_batches_that_fit() {
    let gguf = Golden::load("mini-mxfp4.mid").gguf();
    let config = model::load::check(&gguf).unwrap().config;
    let plan = |memory| {
        let about = gpu::Device { memory, ..device().device().clone() };
        Plan::new(&about, &gguf, &config, &[1000; 3], |_| true)
    };
    let [ample, unknown] = [Some(u64::MAX), None].map(plan);
    assert_eq!((ample.rows(), unknown.rows()), (4096, PAGE));
    assert_eq!(ample.total() - unknown.total(), 3 * PAGE as u64 * ample.row);
    assert_eq!(plan(Some(ample.total())).rows(), 4096);
    assert_eq!(plan(Some(ample.total() - 1)).rows(), 2048);
    assert_eq!(plan(Some(unknown.total())).rows(), PAGE);
    assert!(plan(Some(unknown.total())).check().is_ok() && plan(Some(unknown.total() - 1)).check().is_err());
    let queries = 4 * (config.heads * config.head_dim) as u64;
    let narrow =
        gpu::Device { memory: Some(u64::MAX), largest_buffer: 4095 * queries, ..device().device().clone() };
    assert_eq!(Plan::new(&narrow, &gguf, &config, &[1000; 3], |_| true).rows(), 2048);
}

/// All cached rows of a layer are in one buffer, so there can be too many: then the next read says so.
#[test]
fn a_cache_beyond_the_binding_limit_is_an_error_that_says_so() {
    let mut description = Synthetic::tiny(Recipe::Q8, 5);
    description.sizes.ratios = vec![0, 4];
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    let options = Options {
        device: Choice::First,
        checks: true,
        matrices: false,
        bytes: Some(false),
        ..Options::default()
    };
    let gpu = Gpu::open(Options { largest_binding: Some(1 << 20), ..options }).unwrap();
    let model = load(&gpu, &gguf).unwrap();
    let tokens = prompt(150); // more than a window, so that rows are to be forgotten that had no room
    let mut timelines = Vec::new();
    let error = loop {
        assert!(timelines.len() < 100, "so many conversations cannot fit into a megabyte");
        let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F32);
        let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::Last }];
        let logits = forward(&model, &gpu, &mut batch, &mut NoTap).unwrap().logits.unwrap();
        timelines.push(timeline);
        if let Err(error) = gpu.read(&logits) {
            break error.to_string();
        }
    };
    assert!(error.contains("the KV cache is full: 1.05 MB"), "{error}");
    assert!(error.contains("use a smaller context, fewer sessions, or --kv f8"), "{error}");
}

/// A model with layers of every kind: without compressed rows, with those of windows of 4 and an indexer, and of 128.
fn every_kind_of_layer() -> Gguf {
    let mut description = Synthetic::tiny(Recipe::Q8, 3);
    description.sizes.ratios = vec![0, 4, 128, 4];
    Gguf::from_vec(description.to_vec().unwrap()).unwrap()
}

/// Two threads that take turns.
#[derive(Default)]
struct Turns {
    /// Whose turn it is, and who has finished.
    state: Mutex<(usize, [bool; 2])>,
    changed: Condvar,
}

impl Turns {
    fn wait(&self, me: usize) {
        let not_yet = |state: &mut (usize, [bool; 2])| state.0 != me && !state.1[1 - me];
        drop(self.changed.wait_while(self.state.lock().unwrap(), not_yet).unwrap());
    }

    fn give(&self, me: usize, finished: bool) {
        let mut state = self.state.lock().unwrap();
        state.0 = 1 - me;
        state.1[me] = finished;
        self.changed.notify_all();
    }
}

/// Two conversations on one device, of which two threads ask for steps at the same time: an operation of one, then one
/// of the other. What is held back for one must not get lost with the other.
#[test]
fn two_threads_may_ask_in_turns() {
    let gguf = every_kind_of_layer();
    let gpu = device();
    let model = load(&gpu, &gguf).unwrap();
    let starts: Vec<Timeline<Gpu>> = (0..2)
        .map(|nth: usize| {
            let mut timeline = Timeline::new(&gpu, &model.config, KvFormat::F16);
            feed(&model, &gpu, &mut timeline, &prompt(302)[nth..300 + nth], 100);
            timeline
        })
        .collect();
    for rows in [1, 5] {
        let tokens = prompt(rows);
        let step = |timeline: &mut Timeline<Gpu>, tap: &mut dyn Tap<Gpu>| {
            let mut batch = [Entry { timeline, tokens: &tokens, wanted: Wanted::All }];
            forward(&model, &gpu, &mut batch, tap).unwrap().logits.unwrap()
        };
        let alone = |nth: usize| gpu.read(&step(&mut starts[nth].fork(), &mut NoTap)).unwrap();
        let want = [alone(0), alone(1)];
        let turns = Turns::default();
        let in_turns = |me: usize| {
            let mut timeline = starts[me].fork();
            turns.wait(me);
            let mut next = |_: &Gpu, _: Place, _: Seen<'_, Gpu>| {
                turns.give(me, false);
                turns.wait(me);
            };
            let logits = step(&mut timeline, &mut next);
            turns.give(me, true);
            gpu.read(&logits).unwrap()
        };
        let got = std::thread::scope(|scope| {
            let threads = [0, 1].map(|me| scope.spawn(move || in_turns(me)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(got == want, "{rows} rows");
    }
}
