//! `--profile`: where the time of a pass goes.
//!
//! [`Stopwatch`] is a [`Tap`]: the forward pass shows it each value as soon as it is made, and the time since
//! the one before is that operation's. So it works on any backend, and costs nothing when it is not used. A
//! backend that only records what it is asked for is waited for at every step, so there the parts are right
//! and their sum is more than an undisturbed pass takes.

use super::cost::{Batch, Cost, Op, Work};
use super::stats::median;
use model::tap::{Place, Seen};
use model::{Ops, Ratio, Tap};
use serde::Serialize;
use std::collections::HashSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Which layers an operation was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Outside,
    Window,
    Csa,
    Hca,
}

const KINDS: [Kind; 4] = [Kind::Outside, Kind::Window, Kind::Csa, Kind::Hca];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Outside => "",
            Kind::Window => "window",
            Kind::Csa => "csa",
            Kind::Hca => "hca",
        }
    }
}

/// Time and work of an operation in the layers of one kind, over all steps.
#[derive(Clone, Debug, Default)]
struct Cell {
    calls: usize,
    /// Seconds in each step.
    seconds: Vec<f64>,
    work: Work,
}

/// Times the operations of forward passes.
pub struct Stopwatch<'a> {
    cost: &'a Cost,
    cells: Vec<Cell>,
    batch: Batch,
    last: Instant,
    /// Time spent on looking at values in this step, which is not the model's.
    aside: Duration,
    start: Instant,
    /// Seconds and tokens of each step.
    steps: Vec<(f64, usize)>,
    /// Experts that this layer's rows go to.
    distinct: usize,
    /// Operations of this step whose work is counted.
    counted: HashSet<(Op, Option<usize>)>,
    failed: bool,
}

impl<'a> Stopwatch<'a> {
    /// A watch that has seen nothing.
    pub fn new(cost: &'a Cost) -> Self {
        let now = Instant::now();
        Stopwatch {
            cost,
            cells: vec![Cell::default(); Op::ALL.len() * KINDS.len()],
            batch: Batch { positions: 0..0, wanted: 0 },
            last: now,
            aside: Duration::ZERO,
            start: now,
            steps: Vec::new(),
            distinct: 0,
            counted: HashSet::new(),
            failed: false,
        }
    }

    /// A pass over this batch begins.
    pub fn begin(&mut self, batch: Batch) {
        self.batch = batch;
        self.cells.iter_mut().for_each(|cell| cell.seconds.push(0.0));
        self.aside = Duration::ZERO;
        self.counted.clear();
        self.start = Instant::now();
        self.last = self.start;
    }

    /// The pass is over, its logits are on the host.
    pub fn end(&mut self) {
        let now = Instant::now();
        self.add(Op::Rest, None, now);
        self.steps.push(((now - self.start - self.aside).as_secs_f64(), self.batch.positions.len()));
    }

    /// The time since the last value was for this operation.
    fn add(&mut self, op: Op, layer: Option<usize>, now: Instant) {
        let kind = layer.map_or(Kind::Outside, |layer| match self.cost.ratio(layer) {
            Ratio::None => Kind::Window,
            Ratio::Csa => Kind::Csa,
            Ratio::Hca => Kind::Hca,
        });
        let cell = &mut self.cells[op as usize * KINDS.len() + kind as usize];
        *cell.seconds.last_mut().expect("a step has begun") += (now - self.last).as_secs_f64();
        // The last layer may do one in two parts.
        if self.counted.insert((op, layer)) {
            cell.calls += 1;
            cell.work += self.cost.work(op, layer, &self.batch, self.distinct);
        }
    }

    /// What was seen, an operation a line, with a sum over the layers of every kind.
    pub fn report(&self) -> Profile {
        let steps: Vec<f64> = self.steps.iter().map(|(seconds, _)| *seconds).collect();
        let total: f64 = steps.iter().sum();
        let mut lines = Vec::new();
        for op in Op::ALL {
            let cells = &self.cells[op as usize * KINDS.len()..][..KINDS.len()];
            let used: Vec<_> = KINDS.into_iter().zip(cells).filter(|(_, cell)| cell.calls > 0).collect();
            let sum = used.iter().fold(Cell::default(), |sum, (_, cell)| sum.plus(cell));
            if sum.calls == 0 {
                continue;
            }
            let parts =
                used.iter().filter(|_| used.len() > 1).map(|(kind, cell)| (kind.name(), (*cell).clone()));
            let all = [("", sum.clone())].into_iter().chain(parts);
            lines.extend(all.map(|(layers, cell)| Line::new(op.name(), layers, &cell, steps.len(), total)));
        }
        Profile { steps: steps.len(), step_ms: 1e3 * median(&steps), lines }
    }
}

impl Cell {
    fn plus(&self, b: &Cell) -> Cell {
        let mut seconds = b.seconds.clone();
        seconds.iter_mut().zip(&self.seconds).for_each(|(x, y)| *x += y);
        Cell { calls: self.calls + b.calls, seconds, work: self.work + b.work }
    }
}

impl<B: Ops> Tap<B> for Stopwatch<'_> {
    fn see(&mut self, ops: &B, place: Place, seen: Seen<'_, B>) {
        // A failure shows again, as an error, where the logits are read.
        self.failed |= ops.wait().is_err();
        let now = Instant::now();
        // What was made together with the value before it leaves its time to the next operation.
        if let Some(op) = made_by(place) {
            self.add(op, place.layer, now);
            self.last = now;
        }
        if let Seen::Routes(routes) = seen {
            let mut chosen: Vec<u32> =
                ops.read_routes(routes).unwrap_or_default().into_iter().flatten().map(|(e, _)| e).collect();
            chosen.sort_unstable();
            chosen.dedup();
            self.distinct = chosen.len();
        }
        let reading = now.elapsed();
        self.last += reading;
        self.aside += reading;
    }
}

/// The operation that made a value; `None` if it was made together with the one before.
fn made_by(place: Place) -> Option<Op> {
    match place.name {
        "attn_x" if place.layer == Some(0) => Some(Op::Embed),
        "kv" => Some(Op::Project),
        "cached" => Some(Op::Cache),
        "picks" => Some(Op::Pick),
        "attn_y" => Some(Op::Attend),
        "ffn_x" => Some(Op::ToExperts),
        "routes" => Some(Op::Route),
        "ffn_y" => Some(Op::Experts),
        "streams" => Some(Op::ToNext),
        "logits" => Some(Op::Head),
        _ => None,
    }
}

/// Where the time of some passes went.
#[derive(Debug, Serialize)]
pub struct Profile {
    /// Passes that were seen.
    pub steps: usize,
    /// Median of their durations.
    pub step_ms: f64,
    /// By operation, in the order of a pass.
    pub lines: Vec<Line>,
}

/// One operation, in all layers or in those of one kind.
#[derive(Debug, Serialize)]
pub struct Line {
    pub op: &'static str,
    /// Kind of layers, or empty for all.
    pub layers: &'static str,
    /// Calls in a step.
    pub calls: f64,
    /// Median over the steps.
    pub ms: f64,
    /// The best step.
    pub ms_min: f64,
    /// Share of all time.
    pub share: f64,
    /// Weights and cached rows, 1e9 bytes a second.
    pub gb_s: f64,
    /// Products of quantized weights, 1e9 a second.
    pub int8_gmac_s: f64,
    /// Other products, 1e9 a second.
    pub float_gmac_s: f64,
}

impl Line {
    fn new(op: &'static str, layers: &'static str, cell: &Cell, steps: usize, total: f64) -> Line {
        let seconds: f64 = cell.seconds.iter().sum();
        let rate = |amount: u64| amount as f64 / seconds.max(1e-9) / 1e9;
        Line {
            op,
            layers,
            calls: cell.calls as f64 / steps as f64,
            ms: 1e3 * median(&cell.seconds),
            ms_min: 1e3 * cell.seconds.iter().copied().fold(f64::INFINITY, f64::min),
            share: seconds / total,
            gb_s: rate(cell.work.bytes()),
            int8_gmac_s: rate(cell.work.int8),
            float_gmac_s: rate(cell.work.float),
        }
    }
}

impl Profile {
    /// A table for people.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<18} {:>6} {:>10} {:>10} {:>7} {:>8} {:>12} {:>12}",
            "operation", "calls", "ms a step", "best", "share", "GB/s", "int8 GMAC/s", "float GMAC/s"
        )?;
        for l in &self.lines {
            let name = if l.layers.is_empty() { l.op.to_owned() } else { format!("  {}", l.layers) };
            let rate = |x: f64| if x < 0.05 { String::new() } else { format!("{x:.1}") };
            writeln!(
                out,
                "{name:<18} {:>6.1} {:>10.3} {:>10.3} {:>6.1}% {:>8} {:>12} {:>12}",
                l.calls,
                l.ms,
                l.ms_min,
                100.0 * l.share,
                rate(l.gb_s),
                rate(l.int8_gmac_s),
                rate(l.float_gmac_s),
            )?;
        }
        writeln!(out, "{:<18} {:>6} {:>10.3}   (median of {} steps)", "step", "", self.step_ms, self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Runner;
    use super::*;
    use cpu::Reference;
    use engine::Cancel;
    use forge::synth::{Recipe, Synthetic};
    use gguf::Gguf;
    use model::KvFormat;

    /// Every part of a pass is somebody's, so the parts add up to the whole.
    #[test]
    fn the_parts_add_up_to_the_whole() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
        let model = model::load(&Reference, &gguf).unwrap();
        let cost = Cost::new(&gguf, &model.config, KvFormat::F16);
        let cancel = Cancel::new();
        let runner = Runner { ops: &Reference, model: &model, kv: KvFormat::F16, chunk: 64, cancel: &cancel };
        let mut watch = Stopwatch::new(&cost);
        runner.prefill(&mut runner.start(), 128, Some(&mut watch)).unwrap();
        let profile = watch.report();
        assert_eq!(profile.steps, 2);
        let whole: f64 = profile.lines.iter().filter(|l| l.layers.is_empty()).map(|l| l.share).sum();
        assert!((whole - 1.0).abs() < 1e-6, "{whole}");
        let calls = |op| profile.lines.iter().find(|l| l.op == op && l.layers.is_empty()).unwrap().calls;
        let layers = model.config.layers() as f64;
        assert_eq!(calls("project"), layers);
        // Of the first chunk nothing is wanted.
        assert_eq!(calls("to next layer"), layers - 0.5);
        assert_eq!(calls("head"), 0.5);
    }
}
