//! Products with weights: launches `linear_vec.wgsl` for few rows, and goes by tiles for many.

use crate::array::Array;
use crate::buffers::{Pooled, Slice};
use crate::gpu::{Counted, Inner};
use crate::kernels::norm::{Norm, norm};
use crate::kernels::tiles::{Kind, Rows, Tiled, on_matrix_units, tiled, whole_rows};
use crate::kernels::{Mixture, large_threads, teams};
use crate::matrix::{Matrix, Part};
use crate::recorder::{Binding, Recorder};
use crate::shader::{Variant, needs_sums};
use quants::Format;
use std::sync::Arc;

/// The most rows that go the way of few.
pub(crate) const FEW: usize = 8;

/// The most rows that meet float weights the way of few, where tiles would be on matrix units: those take as long for a
/// few as for all of a tile, and the matrices that have floats are small ones, with work for a few cores only.
const FEW_OF_FLOATS: usize = 32;

/// The most rows that meet other weights in 8 bits the way of few: a tile takes as long as four times four of these.
const FEW_OF_BYTES: usize = 16;

/// A product and what surrounds it.
pub(crate) struct Linear<'a> {
    pub(crate) w: &'a Matrix,
    /// x is divided by its RMS and multiplied by a weight first; eps.
    pub(crate) norm: Option<(&'a Array, f32)>,
    /// Multiplies the result.
    pub(crate) scale: f32,
    /// Rows `[.., outputs]` of which each row of x gets one added.
    pub(crate) bias: Option<(&'a Array, &'a [u32])>,
    /// Parts of x that groups of outputs read; 1 if all read all of it.
    pub(crate) groups: usize,
}

impl<'a> Linear<'a> {
    /// The plain product.
    pub(crate) fn new(w: &'a Matrix) -> Linear<'a> {
        Linear { w, norm: None, scale: 1.0, bias: None, groups: 1 }
    }
}

/// Where a product goes: columns of y from `offset` on.
pub(crate) struct Output<'a> {
    pub(crate) what: Linear<'a>,
    pub(crate) y: &'a Array,
    pub(crate) offset: usize,
}

/// `[n, outputs]`, in an array of its own.
pub(crate) fn linear(gpu: &Inner, r: &mut Recorder, what: &Linear<'_>, x: &Array) -> Array {
    let y = Array::empty(gpu, x.n, what.w.rows);
    linear_into(gpu, r, what, x, &y, 0);
    y
}

/// The product, to columns of y from `offset` on.
pub(crate) fn linear_into(
    gpu: &Inner,
    r: &mut Recorder,
    what: &Linear<'_>,
    x: &Array,
    y: &Array,
    offset: usize,
) {
    linears(gpu, r, x, &[Output { what: Linear { ..*what }, y, offset }]);
}

/// The product, to be launched beside something that does not read it: see [`Recorder::beside`].
pub(crate) fn linear_beside(gpu: &Inner, r: &mut Recorder, what: &Linear<'_>, x: &Array, y: &Array) {
    match &what.w.parts[..] {
        [part] if x.n <= FEW => {
            let output = Output { what: Linear { ..*what }, y, offset: 0 };
            let launch = of_few(gpu, r, x, &[Segment { output: &output, part }]);
            r.launch_beside(gpu); // another thread's
            r.beside = Some(Beside { launch, _keeps: [x, y].map(|array| array.buffer.clone()) });
        }
        _ => linear_into(gpu, r, what, x, y, 0),
    }
}

/// A product that is held back.
pub(crate) struct Beside {
    launch: Launch,
    /// Buffers that nobody else is to get until it is launched.
    _keeps: [Arc<Pooled>; 2],
}

impl Beside {
    pub(crate) fn go(self, gpu: &Inner, r: &mut Recorder) {
        self.launch.go(gpu, r);
    }
}

/// Products with the same input. All that are normed have the same norm, and all biases name the same rows.
pub(crate) fn linears(gpu: &Inner, r: &mut Recorder, x: &Array, outputs: &[Output<'_>]) {
    for Output { what, .. } in outputs {
        assert_eq!(x.width, what.w.cols * what.groups, "{}: input", what.w.name);
    }
    if x.n > FEW {
        return many(gpu, r, x, outputs);
    }
    // x, y, and a norm or the rows of biases; what goes along with the first launch.
    let others = 3 + r.mixture.as_ref().map_or(0, |_| Mixture::BINDINGS);
    let mut batch = Vec::new();
    for output in outputs {
        for part in &output.what.w.parts {
            batch.push(Segment { output, part });
            let [segments, bindings] =
                [batch.len(), others + batch.iter().map(Segment::bindings).sum::<usize>()];
            if segments > 1 && (segments > SEGMENTS || bindings > gpu.most_bindings() || !alike(&batch)) {
                let last = batch.pop().expect("just put there");
                few(gpu, r, x, &batch);
                batch = vec![last];
            }
        }
    }
    few(gpu, r, x, &batch);
}

/// The most matrices of one launch.
const SEGMENTS: usize = 8;

/// Names of constants and prefixes of segments.
macro_rules! numbered {
    ($name:literal) => {
        [
            concat!($name, "0"),
            concat!($name, "1"),
            concat!($name, "2"),
            concat!($name, "3"),
            concat!($name, "4"),
            concat!($name, "5"),
            concat!($name, "6"),
            concat!($name, "7"),
        ]
    };
}
const PREFIX: [&str; SEGMENTS] = numbered!("m");
const START: [&str; SEGMENTS] = numbered!("START");
const END: [&str; SEGMENTS] = numbered!("END");
const OUT: [&str; SEGMENTS] = numbered!("OUT");
const STRIDE: [&str; SEGMENTS] = numbered!("STRIDE");
const FACTOR: [&str; SEGMENTS] = numbered!("FACTOR");
const UNROLL: [&str; SEGMENTS] = numbered!("UNROLL");
const FLOATS: [&str; SEGMENTS] = numbered!("FLOATS");
const BITS: [&str; SEGMENTS] = numbered!("BITS");
const SCALES: [&str; SEGMENTS] = numbered!("SCALES");
const BIAS: [&str; SEGMENTS] = numbered!("BIAS");
const BIAS_WIDTH: [&str; SEGMENTS] = numbered!("BIAS_WIDTH");
const BIAS_FIRST: [&str; SEGMENTS] = numbered!("BIAS_FIRST");

/// A part of a matrix, as one of several in a launch.
struct Segment<'a> {
    output: &'a Output<'a>,
    part: &'a Part,
}

impl Segment<'_> {
    fn bindings(&self) -> usize {
        1 + usize::from(self.part.has_scales()) + usize::from(self.output.what.bias.is_some())
    }

    /// Outputs of a group, and groups.
    fn outputs(&self) -> (usize, usize) {
        let what = &self.output.what;
        match what.groups {
            1 => (self.part.rows, 1),
            groups => (what.w.rows / groups, self.part.rows / (what.w.rows / groups)),
        }
    }
}

/// Whether the last of these can share a launch with those before it.
fn alike(batch: &[Segment<'_>]) -> bool {
    let [.., one, two] = batch else { return true };
    let (a, b) = (&one.output.what, &two.output.what);
    let mut biases = batch.iter().filter_map(|s| s.output.what.bias.map(|(_, rows)| rows));
    let first = biases.next();
    if biases.any(|rows| Some(rows) != first) {
        return false;
    }
    a.groups == 1
        && b.groups == 1
        && a.norm.is_some() == b.norm.is_some()
        && one.output.y.buffer.buffer().id == two.output.y.buffer.buffer().id
}

fn few(gpu: &Inner, r: &mut Recorder, x: &Array, batch: &[Segment<'_>]) {
    of_few(gpu, r, x, batch).go(gpu, r);
}

fn of_few(gpu: &Inner, r: &mut Recorder, x: &Array, batch: &[Segment<'_>]) -> Launch {
    in_pieces(gpu, r, x, batch).unwrap_or_else(|| in_floats(gpu, r, x, batch, [1, 1, 2, 4, 4][x.n.min(4)]))
}

/// What goes on with a router's outputs, in the last workgroup of the product: see `route.wgsl`.
pub(crate) struct Choice {
    /// `ids`, `shares` and `given`.
    pub(crate) bindings: [Binding; 3],
    pub(crate) used: usize,
    pub(crate) scale: f32,
    /// Whether experts are given.
    pub(crate) table: bool,
}

/// The product of few rows with a router, and its choice of experts, in one launch; says whether that can be done.
pub(crate) fn routed(gpu: &Inner, r: &mut Recorder, x: &Array, gate: &Matrix, choice: &Choice) -> bool {
    let [part] = &gate.parts[..] else { return false };
    if !gpu.abilities.merges || x.n > FEW {
        return false;
    }
    let y = Array::empty(gpu, x.n, gate.rows);
    let output = Output { what: Linear::new(gate), y: &y, offset: 0 };
    // A router has outputs for a few cores only, so each row has workgroups of its own.
    let mut launch = in_floats(gpu, r, x, &[Segment { output: &output, part }], 1);
    launch.variant = launch
        .variant
        .with("ROUTE", launch.bindings.len())
        .with("EXPERTS", gate.rows)
        .with("USED", choice.used)
        .when("TABLE", choice.table);
    launch.bindings.push(Binding::Write(gpu.counters(Counted::Route)));
    launch.bindings.extend(choice.bindings.clone());
    launch.params.push(choice.scale.to_bits());
    launch.go(gpu, r);
    true
}

/// A launch of a product that is not asked for yet.
struct Launch {
    variant: Variant,
    bindings: Vec<Binding>,
    params: Vec<u32>,
    grid: [u32; 3],
}

impl Launch {
    /// Launches it, and a mixture that waits for company with it.
    fn go(mut self, gpu: &Inner, r: &mut Recorder) {
        let room = self.grid[2] == 1 && self.bindings.len() + Mixture::BINDINGS <= gpu.most_bindings();
        let mixture = r.mixture.take_if(|_| room);
        if let Some(mixture) = &mixture {
            self.variant = mixture.join(self.variant, &mut self.bindings, &mut self.params);
            self.grid[0] += 1;
        }
        r.launch(gpu, self.variant, &self.bindings, &self.params, self.grid);
    }
}

/// By `linear_vec`, so many rows at a time.
fn in_floats(gpu: &Inner, r: &mut Recorder, x: &Array, batch: &[Segment<'_>], columns: usize) -> Launch {
    let first = &batch[0].output.what;
    let units = first.w.units();
    let lanes = gpu.abilities.lanes as usize;
    let chunk = (128 / columns).min(units);
    let total: usize = batch.iter().map(|s| s.part.rows).sum();
    let (rows, passes) = match chunk == units && units <= SHORT {
        true => (2, passes(total, 256 / lanes * 2)),
        false => (team_rows(total) as usize, 1),
    };
    let Steps { unroll, exact } = steps(units, chunk, lanes, if columns == 1 { 2 } else { 1 });
    let variant = teams(gpu, "linear_vec", 256)
        .with("COLUMNS", columns)
        .with("CHUNK", chunk)
        .when("WHOLE", passes > 1)
        .when("EXACT", exact);
    launch_of_few(gpu, r, x, batch, variant, Shape { teams: 256 / lanes, columns, rows, passes }, |_| unroll)
}

/// How outputs are dealt out.
struct Shape {
    /// Teams of a workgroup.
    teams: usize,
    /// Rows of x at a time.
    columns: usize,
    /// Outputs of a team at a time.
    rows: usize,
    /// How often a team takes further outputs.
    passes: usize,
}

/// A launch of `linear_vec` or `linear_dot`: of `variant` all that the two have in common is still missing.
///
/// - `unroll`: steps of a team under way at a time, for a segment
fn launch_of_few(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    batch: &[Segment<'_>],
    variant: Variant,
    Shape { teams, columns, rows, passes }: Shape,
    unroll: impl Fn(usize) -> usize,
) -> Launch {
    let first = &batch[0].output.what;
    let biased = batch.iter().any(|s| s.output.what.bias.is_some());
    let mut variant = variant
        .with("SEGMENTS", batch.len())
        .with("ROWS", rows)
        .with("UNITS", first.w.units())
        .with("PASSES", passes)
        .when("NORM", first.norm.is_some())
        .when("BIASED", biased)
        .when("GROUPED", first.groups > 1);
    let y = batch[0].output.y;
    let mut bindings = vec![x.read(), Binding::Write(Slice::all(y.buffer.buffer()))];
    bindings.extend(first.norm.map(|(weight, _)| weight.read()));
    let slots = batch.iter().find_map(|s| s.output.what.bias).map(|(_, rows)| r.put(gpu, rows));
    bindings.extend(slots.map(Binding::Read));
    let rows_a_group = first.w.rows / first.groups;
    let mut params = vec![
        x.n as u32,
        (x.width / 4) as u32,
        rows_a_group as u32,
        (first.w.cols / 4) as u32,
        (batch[0].part.first / rows_a_group) as u32,
        first.norm.map_or(0.0, |(_, eps)| eps).to_bits(),
    ];
    let mut groups = 0;
    for (i, segment) in batch.iter().enumerate() {
        let Output { what, y, offset } = segment.output;
        let (outputs, _) = segment.outputs();
        let [bits, scales] = segment.part.bind();
        let mut bind = |binding| {
            bindings.push(binding);
            bindings.len() - 1
        };
        variant = variant.format(PREFIX[i], what.w.format).with(BITS[i], bind(bits));
        let scales = if segment.part.has_scales() { bind(scales) } else { 0 };
        let bias = what.bias.map_or(0, |(bias, _)| bind(bias.read()));
        variant = variant
            .with(SCALES[i], scales)
            .with(BIAS[i], bias)
            .with(BIAS_WIDTH[i], what.w.rows)
            .with(BIAS_FIRST[i], segment.part.first)
            .with(START[i], groups)
            .with(END[i], groups + outputs.div_ceil(teams * rows * passes))
            .with(OUT[i], outputs)
            .with(STRIDE[i], y.width)
            .with(UNROLL[i], unroll(i))
            .with(FACTOR[i], what.scale.to_bits());
        groups += outputs.div_ceil(teams * rows * passes);
        params.push((y.offset / 4) as u32 + (offset + segment.part.first) as u32);
    }
    let grid = [groups as u32, x.n.div_ceil(columns) as u32, batch[0].outputs().1 as u32];
    Launch { variant, bindings, params, grid }
}

/// Pieces of a format's rows, as kernels `.._dot` take them.
#[derive(Clone, Copy)]
pub(crate) struct Pieces {
    /// Weights of one.
    values: usize,
    /// How many a lane has under way at most.
    most: usize,
}

impl Pieces {
    /// Of a format whose rows can meet x in 8 bits, if the device should do that.
    pub(crate) fn of(gpu: &Inner, format: Format) -> Option<Pieces> {
        let (values, most) = match format {
            Format::Q8_0 => (16, 4),
            Format::Q4K | Format::Mxfp4 => (32, 2),
            Format::Q2K | Format::Iq2Xxs => (64, 2),
            _ => return None,
        };
        gpu.abilities.bytes.then_some(Pieces { values, most })
    }

    /// Of a format whose rows meet x as it is, on such a device.
    fn of_floats(gpu: &Inner, format: Format) -> Option<Pieces> {
        let floats = matches!(format, Format::F16 | Format::BF16);
        (floats && gpu.abilities.bytes).then_some(Pieces { values: 8, most: 8 })
    }

    /// The same with so many times fewer under way.
    pub(crate) fn fewer(self, times: usize) -> Pieces {
        Pieces { most: (self.most / times).max(1), ..self }
    }

    /// How many a lane has under way at a time, in a row of so many units: most where that comes out even.
    pub(crate) fn steps(self, gpu: &Inner, units: usize) -> usize {
        let (pieces, lanes) = (32 * units / self.values, gpu.abilities.lanes as usize);
        (1..=self.most).rev().find(|&unroll| pieces.is_multiple_of(unroll * lanes)).unwrap_or(1)
    }
}

/// Bytes that so many units in 8 bits take with their scales, and with their sums if a format needs those.
pub(crate) fn bytes_in_8_bits(units: usize, sums: bool) -> usize {
    units * if sums { 48 } else { 40 }
}

/// Whether so many bytes have room in a workgroup's memory beside what else is there.
pub(crate) fn fits(gpu: &Inner, bytes: usize) -> bool {
    bytes + (4 << 10) <= gpu.abilities.workgroup_memory as usize
}

/// By `linear_dot`, if all formats allow it: with x in 8 bits, and as it is where one or two rows meet floats.
fn in_pieces(gpu: &Inner, r: &mut Recorder, x: &Array, batch: &[Segment<'_>]) -> Option<Launch> {
    let units = batch[0].output.what.w.units();
    let in_8_bits = |s: &Segment<'_>| Pieces::of(gpu, s.output.what.w.format);
    let floats = |s: &Segment<'_>| Pieces::of_floats(gpu, s.output.what.w.format).filter(|_| x.n <= 2);
    let pieces = batch.iter().map(|s| in_8_bits(s).or_else(|| floats(s))).collect::<Option<Vec<_>>>()?;
    let any_floats = batch.iter().any(|s| floats(s).is_some());
    let sums = batch.iter().any(|s| needs_sums(s.output.what.w.format));
    let row = bytes_in_8_bits(units, sums) + if any_floats { 128 * units } else { 0 };
    let columns = [4, 2, 1].into_iter().find(|&c| c < 2 * x.n && fits(gpu, c * row))?;
    let threads = large_threads(gpu);
    let mut variant = teams(gpu, "linear_dot", threads).with("COLUMNS", columns).when("FLOATS", any_floats);
    for (i, segment) in batch.iter().enumerate() {
        variant = variant.when(FLOATS[i], floats(segment).is_some());
    }
    let teams = (threads / gpu.abilities.lanes) as usize;
    let outputs = batch.iter().map(|s| s.part.rows).sum::<usize>() * x.n.div_ceil(columns);
    let rows = match columns {
        1 | 2 if units <= SHORT => 2,
        1 | 2 => 1,
        _ => [4, 2].into_iter().find(|rows| outputs >= teams * rows * ALL_CORES).unwrap_or(1),
    };
    // Registers are for outputs then, or for floats, and not for further steps.
    let fewer = if columns > 2 { rows } else { 1 + usize::from(any_floats) };
    let unroll = |s: usize| pieces[s].fewer(fewer).steps(gpu, units);
    let shape = Shape { teams, columns, rows, passes: 1 };
    Some(launch_of_few(gpu, r, x, batch, variant, shape, unroll))
}

/// How a team goes over a chunk of units.
pub(crate) struct Steps {
    /// Units of a lane at a time.
    pub(crate) unroll: usize,
    /// Whether that comes out even, so that no lane has to ask.
    pub(crate) exact: bool,
}

/// Steps of at most `most` units a lane.
pub(crate) fn steps(units: usize, chunk: usize, lanes: usize, most: usize) -> Steps {
    let even = |unroll: usize| units.is_multiple_of(chunk) && chunk.is_multiple_of(unroll * lanes);
    match (1..=most).rev().find(|&unroll| even(unroll)) {
        Some(unroll) => Steps { unroll, exact: true },
        None => Steps { unroll: 1, exact: false },
    }
}

/// Outputs of a team at a time, that share what is read of x, as long as there are workgroups enough for all
/// cores.
pub(crate) fn team_rows(rows: usize) -> u32 {
    match rows {
        16384.. => 4,
        4096.. => 2,
        _ => 1,
    }
}

/// Units of a row that is so short that fetching x takes as long as multiplying it.
const SHORT: usize = 32;

/// Workgroups of 512 threads with which each core of a large device has one. As long as there are so many, some outputs
/// of a team share what it reads of x: of several rows that takes longer than the weights.
pub(crate) const ALL_CORES: usize = 128;

/// Workgroups that a large device runs at a time.
const AT_A_TIME: usize = 512;

/// How often a team of a workgroup of so many outputs takes further ones, so that x is fetched once for all of them.
fn passes(outputs: usize, of_a_group: usize) -> usize {
    outputs.div_ceil(of_a_group * AT_A_TIME)
}

/// Of many rows: first those without a norm, then those with it.
fn many(gpu: &Inner, r: &mut Recorder, x: &Array, outputs: &[Output<'_>]) {
    let (normed, plain): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.what.norm.is_some());
    by_tiles(gpu, r, x, &plain);
    let Some((weight, eps)) = normed.first().and_then(|output| output.what.norm) else { return };
    let y = Array::empty(gpu, x.n, x.width);
    let rms = Norm { width: x.width, eps: Some(eps), weight: Some(weight), rotate: None, repeat: 1 };
    norm(gpu, r, &rms, x, &y, [x.width, 0]);
    by_tiles(gpu, r, &y, &normed);
}

fn by_tiles(gpu: &Inner, r: &mut Recorder, x: &Array, outputs: &[&Output<'_>]) {
    let few_will_do = |w: &Matrix| {
        let floats = on_matrix_units(gpu, w.format) && whole_rows(w.format);
        let bytes = Pieces::of(gpu, w.format).is_some();
        floats && x.n <= FEW_OF_FLOATS || bytes && x.n <= FEW_OF_BYTES
    };
    let (small, outputs): (Vec<&Output<'_>>, Vec<_>) =
        outputs.iter().partition(|output| few_will_do(output.what.w));
    for Output { what, y, offset } in small {
        let output = Output { what: Linear { norm: None, ..*what }, y, offset: *offset };
        for part in &what.w.parts {
            few(gpu, r, x, &[Segment { output: &output, part }]);
        }
    }
    if outputs.is_empty() {
        return;
    }
    let rows = Rows::new(gpu, r, x, outputs.iter().map(|output| output.what.w.format));
    for Output { what, y, offset } in outputs {
        let bias = what.bias.map(|(bias, rows)| [bias.read(), Binding::Read(r.put(gpu, rows))]);
        for part in &what.w.parts {
            let (outputs, kind) = match what.groups {
                1 => (part.rows, Kind::Plain { bias: bias.clone() }),
                groups => (what.w.rows / groups, Kind::Groups),
            };
            let (w, scale, offset) = (what.w, what.scale, *offset);
            tiled(gpu, r, &rows, &Tiled { w, part, outputs, y, offset, scale, kind, gate: None });
        }
    }
}
