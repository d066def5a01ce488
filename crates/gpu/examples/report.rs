//! What a device makes of a model: `cargo run --release -p gpu --example report -- MODEL.gguf [CONTEXT] [CHUNK]
//! [CONVERSATIONS]`, and with `plain` behind them what it makes of it without matrix units. A token is one of each
//! conversation, all in one batch.
//!
//! Prints one JSON object and a table: bandwidth of a copy, reading and writing speed, launches and host time
//! of a token, the time of each kernel by the device's own clock, and what the device can do at most.

use gguf::Gguf;
use gpu::{Choice, Clocked, Gpu, LaunchSeconds, Options};
use model::ops::LeadersAsk;
use model::{Entry, KvFormat, Model, NoTap, Ops, Timeline, Wanted, foresee, forward, go_on, load};
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("a model");
    let mut number = |usual: usize| args.next().map_or(usual, |n| n.parse().expect("a number"));
    let (context, chunk, conversations) = (number(1024), number(1024), number(1));
    let gguf = Gguf::open(path.as_ref()).expect("a GGUF file");
    let matrices = args.next().as_deref() != Some("plain");
    let plain = run(&gguf, [context, chunk, conversations], Options { matrices, ..Options::default() });
    let watched = run(
        &gguf,
        [context, chunk, conversations],
        Options { matrices, profile: true, ..Options::default() },
    );
    for (what, kernels) in ["prefill", "decode"].iter().zip(&watched.kernels) {
        println!("\n{what:<40} launches    µs each     ms    share");
        let total: f64 = kernels.iter().map(|k| k.2).sum();
        for (name, launches, ns) in kernels.iter().take(24) {
            let each = ns / 1e3 / *launches as f64;
            println!("{name:<40} {launches:>8} {each:>10.1} {:>6.2} {:>7.1}%", ns / 1e6, 100.0 * ns / total);
        }
        println!("{:<40} {:>27.2}", "all", total / 1e6);
    }
    let weights = weights_a_token(&gguf, plain.used);
    let flops = 2.0 * products_a_token(&gguf, plain.used);
    let device = plain.clocked;
    let launch_share =
        device.zip(plain.launch.device).map(|(times, launch)| launch * plain.waiting as f64 / times.busy);
    println!(
        "\n{{\"device\": {:?}, \"context\": {context}, \"chunk\": {chunk}, \"conversations\": {conversations}, \
         \"weights_gb\": {:.3}, \
         \"decode_share\": {:.3}, \"copy_gb_s\": {:.0}, \"matrix_units\": {}, \"prefill_t_s\": {:.0}, \"decode_t_s\": {:.1}, \
         \"decode_ms\": {:.3}, \"leaders_ms\": {:.3}, \"host_ms\": {:.3}, \"launches\": {}, \"waiting\": {}, \"prefill_tflop_s\": {:.2}, \
         \"peak_tflop_s\": {:.2}, \"launch_us\": {:.2}, \"launch_device_us\": {}, \
         \"device_ms\": {}, \"busy_ms\": {}, \"launch_share\": {}}}",
        plain.device,
        weights / 1e9,
        weights / plain.decode_ms * 1e3 / plain.copy / 1e9,
        plain.copy,
        plain.matrices,
        plain.prefill,
        1e3 / plain.decode_ms,
        plain.decode_ms,
        plain.leaders_ms,
        plain.host_ms,
        plain.launches,
        plain.waiting,
        plain.prefill * flops / 1e12,
        plain.peak / 1e12,
        1e6 * plain.launch.recorded,
        or_null(plain.launch.device.map(|seconds| 1e6 * seconds)),
        or_null(device.map(|times| 1e3 * times.span)),
        or_null(device.map(|times| 1e3 * times.busy)),
        or_null(launch_share),
    );
}

/// A number in JSON, if it is known.
fn or_null(number: Option<f64>) -> String {
    number.map_or("null".to_owned(), |number| format!("{number:.3}"))
}

/// Products with weights that a token of a prompt needs: of all matrices but the embedding and the head, and of the
/// experts those that it uses. Those of attention are left out.
fn products_a_token(gguf: &Gguf, used: usize) -> f64 {
    let products = |tensor: &gguf::TensorInfo| {
        let share = match () {
            () if tensor.dims.len() < 2 || tensor.name.starts_with("token_embd") => 0.0,
            () if tensor.name == "output.weight" || tensor.name.contains("tid2eid") => 0.0,
            () if tensor.name.contains("_exps") => used as f64 / *tensor.dims.last().expect("experts") as f64,
            () => 1.0,
        };
        share * tensor.dims.iter().map(|&n| n as f64).product::<f64>()
    };
    gguf.tensors().map(products).sum()
}

/// Bytes of weights that a token needs: all but the embedding, and of the experts those that it uses.
fn weights_a_token(gguf: &Gguf, used: usize) -> f64 {
    // No token needs the block that guesses further ones.
    let mtp = gguf.tensors().find_map(|tensor| tensor.name.split_once("nextn.").map(|(block, _)| block));
    let bytes = |tensor: &gguf::TensorInfo| {
        let share = match () {
            () if tensor.name.starts_with("token_embd") => 0.0,
            () if mtp.is_some_and(|block| tensor.name.starts_with(block)) => 0.0,
            () if tensor.name.contains("_exps") => used as f64 / *tensor.dims.last().expect("experts") as f64,
            () => 1.0,
        };
        share * gguf.data(tensor).len() as f64
    };
    gguf.tensors().map(bytes).sum()
}

struct Report {
    device: String,
    /// Experts of a token.
    used: usize,
    copy: f64,
    /// Operations on f32 a second at most.
    peak: f64,
    launch: LaunchSeconds,
    /// Of a token, by the device's clock.
    clocked: Option<Clocked>,
    /// Whether prompts go through matrix units.
    matrices: bool,
    prefill: f64,
    decode_ms: f64,
    /// The same where only the largest logits are read.
    leaders_ms: f64,
    host_ms: f64,
    launches: u64,
    /// Those of them that wait for one before.
    waiting: usize,
    /// Of prefill and of decode: name, launches, nanoseconds.
    kernels: [Vec<(String, u64, f64)>; 2],
}

const TOKENS: usize = 32;

const LEADERS: LeadersAsk = LeadersAsk { margin: 4.0, temperature: 1.0 };

fn run(gguf: &Gguf, [context, chunk, conversations]: [usize; 3], options: Options) -> Report {
    let gpu = Gpu::open(Options { device: Choice::First, ..options }).expect("a device");
    let model = load(&gpu, gguf).expect("a model");
    let kv = KvFormat::usual(&model.config);
    let mut prefill = 0.0;
    let mut kernels = [Vec::new(), Vec::new()];
    let mut timeline = Timeline::new(&gpu, &model.config, kv);
    for repeat in 0..2 {
        timeline = Timeline::new(&gpu, &model.config, kv);
        reset(&gpu);
        let start = Instant::now();
        feed(&model, &gpu, &mut timeline, context, chunk);
        gpu.wait().expect("an answer");
        if repeat == 1 {
            prefill = context as f64 / start.elapsed().as_secs_f64();
        }
    }
    kernels[0] = take(&gpu);
    let mut talks = vec![timeline];
    talks.extend((1..conversations).map(|_| talks[0].fork()).collect::<Vec<_>>());
    for token in 0..8 {
        logits(&model, &gpu, &mut talks, token);
    }
    gpu.wait().expect("an answer");
    reset(&gpu);
    let launches = gpu.launches();
    // The host's time, all with the logits read, and with the largest of them.
    let [mut host, mut all, mut leading] = [const { Vec::new() }; 3];
    // As a reply is written: the next token's step is asked for while the device is busy with this one.
    let mut next = logits(&model, &gpu, &mut talks, 0);
    for token in 0..2 * TOKENS {
        let before = Instant::now();
        let ahead = foresee(&model, &gpu, &mut talks.iter_mut().collect::<Vec<_>>());
        host.push(1e3 * before.elapsed().as_secs_f64());
        match token % 2 {
            0 => drop(gpu.read(&next).expect("logits")),
            _ => drop(gpu.read_leaders(&next, &vec![LEADERS; conversations]).expect("leaders")),
        }
        next = match ahead.and_then(|output| output.logits) {
            Some(logits) => {
                let tokens = vec![Some(token as u32 % 97); conversations];
                go_on(&gpu, &mut talks.iter_mut().collect::<Vec<_>>(), &tokens);
                logits
            }
            None => logits(&model, &gpu, &mut talks, token),
        };
        [&mut all, &mut leading][token % 2].push(1e3 * before.elapsed().as_secs_f64());
    }
    gpu.wait().expect("an answer");
    [&mut host, &mut all, &mut leading].into_iter().for_each(|times| times.sort_by(f64::total_cmp));
    let decode_ms = all[TOKENS / 2];
    kernels[1] = take(&gpu);
    let launches = (gpu.launches() - launches) / (2 * TOKENS as u64);
    let waiting = waiting(&model, &gpu, &mut talks);
    Report {
        device: gpu.device().name.clone(),
        used: model.config.experts_used,
        matrices: gpu.abilities().matrices.is_some(),
        copy: gpu.copy_bandwidth().expect("a copy") / 1e9,
        peak: gpu.arithmetic_peak().expect("arithmetic"),
        launch: gpu.launch_seconds().expect("launches"),
        clocked: clocked_token(&model, &gpu, &mut talks),
        prefill,
        decode_ms,
        leaders_ms: leading[TOKENS / 2],
        host_ms: host[TOKENS],
        launches,
        waiting,
        kernels,
    }
}

/// Asks for one token more of each conversation, and for its logits.
fn logits(model: &Model<Gpu>, gpu: &Gpu, talks: &mut [Timeline<Gpu>], token: usize) -> <Gpu as Ops>::Array {
    let tokens = [token as u32 % 97];
    let entry = |timeline| Entry { timeline, tokens: &tokens, wanted: Wanted::Last };
    let mut batch: Vec<_> = talks.iter_mut().map(entry).collect();
    forward(model, gpu, &mut batch, &mut NoTap).expect("a batch").logits.expect("wanted")
}

/// Launches of a token that wait for one before them, on average.
fn waiting(model: &Model<Gpu>, gpu: &Gpu, talks: &mut [Timeline<Gpu>]) -> usize {
    gpu.watch(true);
    for token in 0..TOKENS {
        logits(model, gpu, talks, token);
        gpu.wait().expect("an answer");
    }
    let waiting = gpu.launched().iter().filter(|launch| launch.barrier).count();
    gpu.watch(false);
    waiting / TOKENS
}

/// What a token takes by the device's clock: the median of some.
fn clocked_token(model: &Model<Gpu>, gpu: &Gpu, talks: &mut [Timeline<Gpu>]) -> Option<Clocked> {
    let token = |token| gpu.clocked(|| logits(model, gpu, talks, token)).expect("an answer").1;
    let mut times: Vec<Clocked> = (0..TOKENS).map(token).collect::<Option<_>>()?;
    let mut median = |what: fn(&Clocked) -> f64| {
        times.sort_by(|a, b| what(a).total_cmp(&what(b)));
        what(&times[TOKENS / 2])
    };
    Some(Clocked { span: median(|times| times.span), busy: median(|times| times.busy) })
}

fn reset(gpu: &Gpu) {
    if let Some(profile) = gpu.profile() {
        profile.reset();
    }
}

fn take(gpu: &Gpu) -> Vec<(String, u64, f64)> {
    let times = gpu.profile().map(|profile| profile.times()).unwrap_or_default();
    let mut kernels: Vec<_> = times.into_iter().map(|(name, t)| (name, t.launches, t.nanoseconds)).collect();
    kernels.sort_by(|a, b| b.2.total_cmp(&a.2));
    kernels
}

fn feed(model: &Model<Gpu>, gpu: &Gpu, timeline: &mut Timeline<Gpu>, count: usize, chunk: usize) {
    let mut left = count;
    while left > 0 {
        let len = left.min(chunk);
        let tokens: Vec<u32> = (0..len as u32).map(|i| i * 7 % 100).collect();
        let mut batch = [Entry { timeline, tokens: &tokens, wanted: Wanted::None }];
        forward(model, gpu, &mut batch, &mut NoTap).expect("a batch");
        left -= len;
    }
}
