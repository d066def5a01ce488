//! `--gpu-plan`: what a step asks of the GPU, before anybody asks how fast that is.
//!
//! A [`Tap`](model::Tap) learns after each operation what was launched for it, so everything here is what really
//! happens, on any device, software included; nothing is known of single kernels but which look at cached rows, and
//! which read weights more than once ([`Meter::passes`]).

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
        steps.push(step(runner, cost, &context, chunk)?);
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
    layers: BTreeMap<usize, Sum>,
    kernels: BTreeMap<String, Sum>,
}

impl<'a> Meter<'a> {
    fn new(config: &'a Config, cost: &'a Cost, positions: std::ops::Range<usize>) -> Self {
        let batch = Batch { positions, wanted: 1 };
        Meter { config, cost, batch, layers: BTreeMap::new(), kernels: BTreeMap::new() }
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
                    let once = self.needed(layer, launch, tensor, bound.bytes);
                    sum.weights += once;
                    sum.again += once * (self.passes(layer, launch, tensor) - 1);
                }
                // Of a store only what attention and the indexer look at; what is appended is among the rows.
                Holds::CachedRows => {
                    let op = match launch.kernel {
                        "index_scores" | "index_matrix" => Op::Pick,
                        kernel if kernel.starts_with("attend") => Op::Attend,
                        _ => continue,
                    };
                    sum.cached += self.cost.work(op, layer, &self.batch, 0).cached;
                }
                Holds::Activations | Holds::HostData => sum.rows += bound.bytes,
            }
        }
        sum
    }

    /// What this batch needs of the bytes of a tensor that a launch may use.
    fn needed(&self, layer: Option<usize>, launch: &Launch, tensor: &str, bytes: u64) -> u64 {
        let part = |some: usize, all: usize| bytes * some.min(all) as u64 / all as u64;
        if tensor.contains("_exps.") {
            part(self.distinct(self.rows_of_experts(layer)), self.config.experts)
        } else if launch.kernel == "embed" {
            part(self.batch.positions.len(), self.config.vocab)
        } else {
            bytes
        }
    }

    /// How often a launch of a layer goes over its weights; over those of experts, if each has as many rows.
    fn passes(&self, layer: Option<usize>, launch: &Launch, tensor: &str) -> u64 {
        let n = self.rows_of_experts(layer);
        let of_expert = (n * self.config.experts_used).div_ceil(self.distinct(n)) as u64;
        let routed = tensor.contains("_exps.");
        match launch.kernel {
            // Each row for itself, and each pair of a row and an expert.
            "gate_up" | "gate_up_dot" | "down" | "down_dot" if routed => of_expert,
            "gate_up" | "gate_up_dot" | "down" | "down_dot" => n as u64,
            kernel if !kernel.starts_with("linear") => 1,
            _ if routed => launch.tile.map_or(1, |rows| of_expert.div_ceil(rows.into())),
            _ => launch.groups[1].into(),
        }
    }

    /// Rows that go to experts: of the last layer only those of which something is wanted.
    fn rows_of_experts(&self, layer: Option<usize>) -> usize {
        match layer {
            Some(layer) if layer + 1 == self.config.layers() => self.batch.wanted,
            _ => self.batch.positions.len(),
        }
    }

    /// Different experts that so many rows go to, on average.
    fn distinct(&self, rows: usize) -> usize {
        self.cost.expected_experts(rows).max(1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use forge::synth::{Recipe, Synthetic};
    use gguf::Gguf;
    use gpu::Bound;
    use model::KvFormat;

    /// Bytes that a launch for a chunk of `n` tokens reads again of a matrix, in readings of all of it that the chunk
    /// needs.
    fn again(
        n: usize,
        layer: usize,
        tensor: &str,
        kernel: &'static str,
        tile: Option<u32>,
        rows: u32,
    ) -> u64 {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
        let config = model::load::check(&gguf).unwrap().config;
        let cost = Cost::new(&gguf, &config, KvFormat::F16);
        let bound = Bound { holds: Holds::Weights(tensor.to_owned()), bytes: 1 << 20, written: false };
        let launch = Launch {
            kernel,
            label: String::new(),
            groups: [1, rows, 1],
            tile,
            barrier: false,
            bound: vec![bound],
        };
        let sum = Meter::new(&config, &cost, 0..n).one(Some(layer), &launch);
        assert_eq!(sum.again % sum.weights, 0, "{sum:?}");
        sum.again / sum.weights
    }

    #[test]
    fn weights_are_read_again_for_the_next_tile() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
        let config = model::load::check(&gguf).unwrap().config;
        // All experts are in use, so each has as many rows.
        let of_expert = (960 * config.experts_used / config.experts) as u64;
        let (experts, shared) = ("blk.0.ffn_up_exps.weight", "blk.0.ffn_up_shexp.weight");
        for (kernel, tile) in [("linear_tile", 64), ("linear_matrix", 32), ("linear_matrix", 128)] {
            let most = 1000; // tiles launched, of which some are empty
            assert_eq!(again(960, 0, experts, kernel, Some(tile), most), of_expert.div_ceil(tile.into()) - 1);
            assert_eq!(again(960, 0, shared, kernel, Some(tile), 8), 7, "{kernel}");
        }
        assert_eq!(again(960, 0, experts, "group_experts", None, 1), 0);
    }

    #[test]
    fn few_rows_read_their_experts_one_by_one() {
        for kernel in ["gate_up", "gate_up_dot", "down", "down_dot"] {
            assert_eq!(again(1, 0, "blk.0.ffn_up_exps.weight", kernel, None, 9), 0, "{kernel}");
            assert_eq!(again(4, 0, "blk.0.ffn_up_shexp.weight", kernel, None, 9), 3, "{kernel}");
        }
        assert_eq!(again(4, 0, "blk.0.attn_kv.weight", "linear_dot", None, 1), 0);
    }

    /// Nothing but the last token goes to the experts of the last layer.
    #[test]
    fn the_last_layer_reads_for_one_row() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
        let last = model::load::check(&gguf).unwrap().config.layers() - 1;
        assert_eq!(again(960, last, "blk.9.ffn_up_shexp.weight", "gate_up", None, 9), 0);
        assert_eq!(again(960, last, "blk.9.ffn_up_exps.weight", "gate_up", None, 9), 0);
    }
}
