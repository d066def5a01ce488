//! `--gpu-plan`: what a step asks of the GPU, before anybody asks how fast that is.
//!
//! A [`Tap`](model::Tap) learns after each operation what was launched for it, so everything here is what really
//! happens, on any device, software included; nothing is known of single kernels but where they read weights more
//! than once ([`Meter::passes`]).

use super::cost::{Batch, Cost, Op};
use super::report::ModelFacts;
use super::stats::median;
use super::workload::{Runner, token_at};
use gpu::{Gpu, Holds, Launch};
use indicatif::BinaryBytes;
use model::tap::{Place, Seen};
use model::{Config, Entry, NoTap, Ops, Ratio, Timeline, Wanted, forward};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::time::Instant;

/// Steps of which the host's time is the median.
const STEPS: usize = 9;

/// What was found.
#[derive(Debug, Serialize)]
pub struct GpuPlan {
    device: String,
    model: ModelFacts,
    kv: &'static str,
    steps: Vec<Step>,
}

/// One pass: a token, or a chunk of a prompt.
#[derive(Debug, Serialize)]
struct Step {
    /// Rows of the batch.
    tokens: usize,
    /// Tokens before it.
    depth: usize,
    /// What the host needs to ask for it, until everything was handed to the device; milliseconds.
    host_ms: f64,
    /// By kind of layer, with what is before the first and after the last.
    layers: Vec<Layers>,
    /// By kernel, most bytes first.
    kernels: Vec<Kernel>,
    all: Sum,
    /// Weights and cached rows, each once, that the model needs whatever the kernels are.
    needed_bytes: u64,
}

/// All layers of a kind.
#[derive(Debug, Serialize)]
struct Layers {
    kind: &'static str,
    count: usize,
    #[serde(flatten)]
    sum: Sum,
}

/// All launches of a kernel.
#[derive(Debug, Serialize)]
struct Kernel {
    kernel: String,
    #[serde(flatten)]
    sum: Sum,
}

/// What some launches are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Sum {
    launches: u64,
    /// Launches that wait for one before them.
    barriers: u64,
    /// Bytes of weights, each once.
    weights: u64,
    /// Bytes of weights that are read again, for other rows of the batch: of memory, if no cache has them.
    again: u64,
    /// Bytes of cached rows that are read.
    cached: u64,
    /// Bytes of rows and tables that go in and out.
    rows: u64,
}

impl Sum {
    /// Bytes if all is read once.
    fn least(&self) -> u64 {
        self.weights + self.cached + self.rows
    }

    /// Bytes if nothing stays in a cache between two passes over weights.
    fn most(&self) -> u64 {
        self.least() + self.again
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, b: Sum) {
        self.launches += b.launches;
        self.barriers += b.barriers;
        self.weights += b.weights;
        self.again += b.again;
        self.cached += b.cached;
        self.rows += b.rows;
    }
}

/// Makes the plan of a chunk of `chunk` tokens, if there are any, and of one token, both after `depth` tokens.
pub fn plan(
    runner: &Runner<'_, Gpu>,
    cost: &Cost,
    model: ModelFacts,
    depth: usize,
    chunk: usize,
) -> anyhow::Result<GpuPlan> {
    let mut context = runner.start();
    runner.fill(&mut context, depth, &mut |_| ())?;
    let mut steps = Vec::new();
    if chunk > 0 {
        steps.push(step(runner, cost, &context, chunk.min(context.room()))?);
    }
    steps.push(step(runner, cost, &context, 1)?);
    let kv = runner.kv.name();
    Ok(GpuPlan { device: runner.ops.device().name.clone(), model, kv, steps })
}

fn step(
    runner: &Runner<'_, Gpu>,
    cost: &Cost,
    context: &Timeline<Gpu>,
    tokens: usize,
) -> anyhow::Result<Step> {
    let (gpu, config) = (runner.ops, &runner.model.config);
    let positions = context.len()..context.len() + tokens;
    let ids: Vec<u32> = positions.clone().map(|p| token_at(p, config.vocab)).collect();
    // One pass compiles kernels and makes buffers; the last one is watched.
    let (mut host, mut meter) = (Vec::new(), Meter::new(config, cost, positions));
    let repeats = if tokens == 1 { STEPS } else { 2 };
    for i in 0..=repeats {
        let mut timeline = context.fork();
        let mut batch = [Entry { timeline: &mut timeline, tokens: &ids, wanted: Wanted::Last }];
        gpu.wait()?;
        gpu.watch(i == repeats);
        let start = Instant::now();
        let output = match i == repeats {
            true => {
                let mut tap = |gpu: &Gpu, place: Place, _: Seen<'_, Gpu>| meter.take(place, &gpu.launched());
                forward(runner.model, gpu, &mut batch, &mut tap)?
            }
            false => forward(runner.model, gpu, &mut batch, &mut NoTap)?,
        };
        gpu.begin();
        if (1..repeats).contains(&i) {
            host.push(1e3 * start.elapsed().as_secs_f64());
        }
        gpu.watch(false);
        gpu.read(&output.logits.expect("wanted"))?;
    }
    Ok(meter.step(median(&host)))
}

/// Adds launches up.
struct Meter<'a> {
    config: &'a Config,
    cost: &'a Cost,
    batch: Batch,
    /// Different experts that the rows go to, on average.
    distinct: usize,
    layers: BTreeMap<usize, Sum>,
    kernels: BTreeMap<String, Sum>,
}

impl<'a> Meter<'a> {
    fn new(config: &'a Config, cost: &'a Cost, positions: std::ops::Range<usize>) -> Self {
        let distinct = cost.expected_experts(positions.len()).max(1);
        let batch = Batch { positions, wanted: 1 };
        Meter { config, cost, batch, distinct, layers: BTreeMap::new(), kernels: BTreeMap::new() }
    }

    /// Launches for the value at a place.
    fn take(&mut self, place: Place, launches: &[Launch]) {
        // The first layer is entered with the embedding, ahead of all layers.
        let layer = place.layer.filter(|_| place.name != "attn_x");
        for launch in launches {
            let sum = self.one(layer, launch);
            let kind = layer.map_or(ENDS, |layer| kind(self.config.ratios[layer]));
            *self.layers.entry(kind).or_default() += sum;
            *self.kernels.entry(launch.label.clone()).or_default() += sum;
        }
    }

    fn one(&self, layer: Option<usize>, launch: &Launch) -> Sum {
        let mut sum = Sum { launches: 1, barriers: launch.barrier.into(), ..Sum::default() };
        for bound in &launch.bound {
            match &bound.holds {
                Holds::Weights(tensor) => {
                    let once = self.needed(launch, tensor, bound.bytes);
                    sum.weights += once;
                    sum.again += once * (self.passes(launch, tensor) - 1);
                }
                // Of a store only what attention and the indexer look at; what is appended is among the rows.
                Holds::CachedRows => {
                    let op = match launch.kernel {
                        "index_scores" => Op::Pick,
                        kernel if kernel.starts_with("attend") => Op::Attend,
                        _ => continue,
                    };
                    sum.cached += self.cost.work(op, layer, &self.batch, self.distinct).cached;
                }
                Holds::Activations | Holds::HostData => sum.rows += bound.bytes,
            }
        }
        sum
    }

    /// What this batch needs of the bytes of a tensor that a launch may use.
    fn needed(&self, launch: &Launch, tensor: &str, bytes: u64) -> u64 {
        let part = |some: usize, all: usize| bytes * some.min(all) as u64 / all as u64;
        if tensor.contains("_exps.") {
            part(self.distinct, self.config.experts)
        } else if launch.kernel == "embed" {
            part(self.batch.positions.len(), self.config.vocab)
        } else {
            bytes
        }
    }

    /// How often a launch goes over its weights.
    fn passes(&self, launch: &Launch, tensor: &str) -> u64 {
        let n = self.batch.positions.len();
        let pairs = (n * self.config.experts_used) as u64;
        let routed = tensor.contains("_exps.");
        match launch.kernel {
            // Each pair of a row and an expert for itself.
            "gate_up" | "down" if routed => pairs.div_ceil(self.distinct as u64),
            "gate_up" | "down" => n as u64,
            // Tiles of so many pairs.
            kernel if kernel.starts_with("linear") && routed => {
                pairs.div_ceil(self.distinct as u64).div_ceil(gpu::TILE as u64)
            }
            kernel if kernel.starts_with("linear") => launch.groups[1].into(),
            _ => 1,
        }
    }

    fn step(self, host_ms: f64) -> Step {
        let ratios = &self.config.ratios;
        let layers = self.layers.iter().map(|(&at, &sum)| Layers {
            kind: KINDS[at],
            count: ratios.iter().filter(|&&ratio| kind(ratio) == at && at != ENDS).count(),
            sum,
        });
        let layers: Vec<_> = layers.collect();
        let mut all = Sum::default();
        layers.iter().for_each(|layers| all += layers.sum);
        let mut kernels: Vec<_> =
            self.kernels.into_iter().map(|(kernel, sum)| Kernel { kernel, sum }).collect();
        kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.sum.most()));
        Step {
            tokens: self.batch.positions.len(),
            depth: self.batch.positions.start,
            host_ms,
            layers,
            kernels,
            all,
            needed_bytes: self.cost.pass(&self.batch).bytes(),
        }
    }
}

const KINDS: [&str; 4] = ["window", "ratio 4", "ratio 128", "both ends"];
const ENDS: usize = 3;

fn kind(ratio: Ratio) -> usize {
    match ratio {
        Ratio::None => 0,
        Ratio::Csa => 1,
        Ratio::Hca => 2,
    }
}

impl GpuPlan {
    /// Tables for people.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}, {}, KV cache {}", self.device, self.model.name, self.kv)?;
        self.steps.iter().try_for_each(|step| step.print(out))
    }
}

impl Step {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let what = match self.tokens {
            1 => "one token".to_owned(),
            n => format!("a chunk of {n} tokens"),
        };
        writeln!(out, "\n{what} after {}; the host needs {:.2} ms to ask for it", self.depth, self.host_ms)?;
        writeln!(
            out,
            "{:<34} {:>8} {:>8} {:>11} {:>11} {:>11} {:>11}",
            "a layer", "launches", "barriers", "weights", "read again", "cached rows", "rows"
        )?;
        for Layers { kind, count, sum } in &self.layers {
            let name = if *count > 0 { format!("{kind}, {count} layers") } else { (*kind).to_owned() };
            line(out, &name, sum, (*count).max(1), 1)?;
        }
        writeln!(
            out,
            "{:<34} {:>8} {:>8} {:>11} {:>11} {:>11} {:>11}",
            "a kernel, all its launches",
            "launches",
            "barriers",
            "weights",
            "read again",
            "cached rows",
            "rows"
        )?;
        let all = ("all", &self.all);
        let kernels = self.kernels.iter().map(|kernel| (kernel.kernel.as_str(), &kernel.sum));
        for (name, sum) in kernels.chain([all]) {
            line(out, name, sum, 1, 0)?;
        }
        writeln!(
            out,
            "moved: {} if all is read once, {} if no cache helps; the model needs {}",
            BinaryBytes(self.all.least()),
            BinaryBytes(self.all.most()),
            BinaryBytes(self.needed_bytes)
        )
    }
}

/// A line of a table: the sum of so many of a kind, each; launches with so many decimals.
fn line(out: &mut dyn Write, name: &str, sum: &Sum, count: usize, decimals: usize) -> io::Result<()> {
    let each = |x: u64| x as f64 / count as f64;
    let bytes = |x: u64| BinaryBytes(each(x) as u64).to_string();
    writeln!(
        out,
        "{name:<34} {:>8.decimals$} {:>8.decimals$} {:>11} {:>11} {:>11} {:>11}",
        each(sum.launches),
        each(sum.barriers),
        bytes(sum.weights),
        bytes(sum.again),
        bytes(sum.cached),
        bytes(sum.rows)
    )
}
