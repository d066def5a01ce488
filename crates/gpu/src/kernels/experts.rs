//! Launches the experts: `gate_up.wgsl` and `down.wgsl` for few rows; many rows are grouped by expert and go by tiles,
//! and `sum_slots.wgsl` adds up what comes of it.

use crate::array::{Array, Routes};
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::linear::{ALL_CORES, FEW, Pieces, bytes_in_8_bits, fits, steps, team_rows};
use crate::kernels::tiles::{Gate, Kind, Rows, Tiled, group, tiled};
use crate::kernels::{Linear, THREADS, large_threads, linear, teams, threads};
use crate::matrix::Matrix;
use crate::ops::Weights;
use crate::recorder::{Binding, Recorder};
use crate::shader::needs_sums;
use model::weights::{Expert, Experts};

/// Routed and shared experts of every row of x.
pub(crate) fn moe(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    routes: &Routes,
    experts: &Experts<Weights>,
    shared: &Expert<Weights>,
) -> Array {
    let (gate, up) = (&experts.stack.gate, &experts.stack.up);
    let aligned = |w: &Matrix, rows: usize| w.parts.iter().all(|part| part.first.is_multiple_of(rows));
    let whole = |w: &Matrix| w.parts.len() == 1;
    let split_badly = if gate.parts.len() != up.parts.len()
        || !aligned(gate, experts.stack.ff)
        || !aligned(&experts.stack.down, x.width)
    {
        Some(gate)
    } else {
        [&shared.gate, &shared.up, &shared.down].into_iter().find(|w| !whole(w))
    };
    if let Some(matrix) = split_badly {
        gpu.fail(format!(
            "{} and its siblings are too large for one buffer of {} and cannot be split between experts: \
             use --backend cpu",
            matrix.name, gpu.about.name
        ));
        // Nothing can be launched on these; whoever reads the result hears why.
        return Array::empty(gpu, x.n, x.width);
    }
    let moe = Moe { x, routes, experts, shared };
    if x.n <= FEW {
        few(gpu, r, &moe)
    } else if moe.goes_by_pairs(gpu) {
        some(gpu, r, &moe)
    } else {
        many(gpu, r, &moe)
    }
}

/// What [`moe`] is asked for.
struct Moe<'a> {
    x: &'a Array,
    routes: &'a Routes,
    experts: &'a Experts<Weights>,
    shared: &'a Expert<Weights>,
}

impl Moe<'_> {
    /// Whether pairs of a row and an expert are best computed each for itself: as long as few of them have an expert in
    /// common. A tile takes as long for one pair as for 32, and as four of these.
    fn goes_by_pairs(&self, gpu: &Inner) -> bool {
        let used = self.routes.ids.width;
        self.x.n * used <= 3 * self.experts.count && hands_over_bytes(gpu, used, &self.experts.stack, None)
    }
}

/// Inner activations, on their way from [`gate_up`] to [`down`].
struct Activations {
    /// `[n · used, ff]`; rounded ones as `dot/rounded.wgsl` has them.
    array: Array,
    /// Whether they are in 8 bits, as `down` would round them. Those of the shared expert never are: it has work for few cores,
    /// and for fewer still if a workgroup has all of each 32 outputs.
    rounded: bool,
}

impl Activations {
    /// Words of a row.
    fn width(ff: usize, rounded: bool) -> usize {
        if rounded { ff / 32 * 12 } else { ff }
    }
}

fn few(gpu: &Inner, r: &mut Recorder, &Moe { x, routes, experts, shared }: &Moe<'_>) -> Array {
    let (stack, used) = (&experts.stack, routes.ids.width);
    let rounded = hands_over_bytes(gpu, used, stack, Some(shared));
    let shapes = [(x.n * used, Activations::width(stack.ff, rounded)), (x.n, shared.ff)];
    let mut arrays = Array::several(gpu, &shapes).into_iter();
    let [inner, shared_inner] = [rounded, false]
        .map(|rounded| Activations { array: arrays.next().expect("as many as shapes"), rounded });
    // The shared one waits for nothing that the router makes, so the two run at the same time.
    let [ids, shares] = [0, 1f32.to_bits()].map(|word| Binding::Read(r.put(gpu, &vec![word; x.n])));
    gate_up(gpu, r, x, &Pairs { ids, shares, used: 1 }, shared, &shared_inner);
    gate_up(gpu, r, x, &Pairs::routed(routes), stack, &inner);
    let y = Array::empty(gpu, x.n, x.width);
    down(gpu, r, &inner, routes, stack, Some((shared, &shared_inner)), &y);
    y
}

/// Routed experts as those of few rows, the shared one as that of many.
fn some(gpu: &Inner, r: &mut Recorder, &Moe { x, routes, experts, shared }: &Moe<'_>) -> Array {
    let rows = Rows::new(gpu, r, x, [&shared.gate, &shared.up].map(|w| w.format).into_iter());
    let y = shared_of_many(gpu, r, &rows, shared);
    let (stack, used) = (&experts.stack, routes.ids.width);
    let array = Array::empty(gpu, x.n * used, Activations::width(stack.ff, true));
    let inner = Activations { array, rounded: true };
    gate_up(gpu, r, x, &Pairs::routed(routes), stack, &inner);
    down(gpu, r, &inner, routes, stack, None, &y);
    y
}

/// Whether inner activations of routed experts are rounded by who makes them: where both sides multiply bytes.
fn hands_over_bytes(
    gpu: &Inner,
    used: usize,
    stack: &Expert<Weights>,
    shared: Option<&Expert<Weights>>,
) -> bool {
    let both = gate_up_pieces(gpu, stack).is_some() && down_pieces(gpu, used, stack, shared).is_some();
    both && stack.ff.is_multiple_of(32)
}

/// Pieces of rows of gate and up, if these meet x in 8 bits.
fn gate_up_pieces(gpu: &Inner, expert: &Expert<Weights>) -> Option<Pieces> {
    let Expert { gate, up, .. } = expert;
    let fits = fits(gpu, bytes_in_8_bits(gate.units(), needs_sums(gate.format)));
    Pieces::of(gpu, gate.format).filter(|_| gate.format == up.format && fits)
}

/// Pieces of rows of the routed experts' down and of the shared one's, if these meet inner activations in 8 bits.
fn down_pieces(
    gpu: &Inner,
    used: usize,
    stack: &Expert<Weights>,
    shared: Option<&Expert<Weights>>,
) -> Option<[Pieces; 2]> {
    let pieces = Pieces::of(gpu, stack.down.format)?;
    let of_shared = shared.map_or(Some(pieces), |shared| Pieces::of(gpu, shared.down.format))?;
    let units = used * stack.down.units() + shared.map_or(0, |shared| shared.down.units());
    let sums = needs_sums(stack.down.format) || shared.is_some_and(|shared| needs_sums(shared.down.format));
    fits(gpu, bytes_in_8_bits(units, sums)).then_some([pieces, of_shared])
}

/// What the experts of each row give together, of their inner activations.
///
/// - `shared`: the shared expert, and its inner activations in the buffer of the others; without it y is added to
fn down(
    gpu: &Inner,
    r: &mut Recorder,
    inner: &Activations,
    routes: &Routes,
    stack: &Expert<Weights>,
    shared: Option<(&Expert<Weights>, &Activations)>,
    y: &Array,
) {
    let used = routes.ids.width;
    let units = [stack.down.units(), shared.map_or(0, |(shared, _)| shared.down.units())];
    let bytes = down_pieces(gpu, used, stack, shared.map(|(shared, _)| shared));
    let (kernel, threads) =
        if bytes.is_some() { ("down_dot", large_threads(gpu)) } else { ("down", THREADS) };
    let teams_of = threads / gpu.abilities.lanes;
    let rows = match bytes {
        // Each workgroup brings all that its row meets, so it has several outputs of a team while there are two for each core.
        Some(_) => [4, 2]
            .into_iter()
            .find(|rows| y.n * y.width >= teams_of as usize * rows * 2 * ALL_CORES)
            .unwrap_or(1),
        None => team_rows(y.width) as usize,
    };
    for (i, part) in stack.down.parts.iter().enumerate() {
        let [bits, scales] = part.bind();
        let mut variant = teams(gpu, kernel, threads)
            .format("w0", stack.down.format)
            .with("ROWS", rows)
            .with("UNITS0", units[0])
            .with("UNITS1", units[1]);
        if let Some([routed, one]) = bytes {
            variant = variant
                .with("USED", used)
                .with("UNROLL0", routed.fewer(rows).steps(gpu, used * units[0]))
                .with("UNROLL1", one.fewer(rows).steps(gpu, units[1]))
                .when("ROUNDED", inner.rounded);
        }
        let h = Binding::Read(Slice::all(inner.array.buffer.buffer()));
        let mut bindings = vec![h, y.write(), routes.ids.read(), bits, scales];
        if let Some((Expert { down, .. }, _)) = shared.filter(|_| i == 0) {
            assert_eq!(down.parts.len(), 1, "{}: small", down.name);
            variant = variant.with("SHARED", 1u32).format("w1", down.format);
            bindings.extend(down.parts[0].bind());
        }
        r.launch(
            gpu,
            variant,
            &bindings,
            &[
                y.width as u32,
                used as u32,
                part.first as u32,
                part.rows as u32,
                shared.map_or(0, |(_, inner)| inner.array.offset / 16) as u32,
            ],
            [y.width.div_ceil(teams_of as usize * rows) as u32, y.n as u32, 1],
        );
    }
}

/// Experts of each row: which, of those of a stack, and what they count for.
struct Pairs {
    /// `[n, used]`
    ids: Binding,
    /// `[n, used]`
    shares: Binding,
    used: usize,
}

impl Pairs {
    fn routed(routes: &Routes) -> Pairs {
        Pairs { ids: routes.ids.read(), shares: routes.shares.read(), used: routes.ids.width }
    }
}

/// Makes inner activations.
fn gate_up(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    pairs: &Pairs,
    stack: &Expert<Weights>,
    inner: &Activations,
) {
    let used = pairs.used;
    let lanes = gpu.abilities.lanes;
    let units = stack.gate.units();
    let bytes = gate_up_pieces(gpu, stack);
    let rows = match bytes {
        // A workgroup has all of each 32 that are rounded together.
        Some(_) if inner.rounded => (32 * lanes).div_ceil(large_threads(gpu)),
        // With x in 8 bits many small workgroups are best: some fetch while others multiply.
        Some(_) => 1,
        None if stack.ff * used >= 8192 => 2,
        None => 1,
    };
    let chunk = units.min(128);
    for (gate, up) in stack.gate.parts.iter().zip(&stack.up.parts) {
        let (kernel, threads) =
            if bytes.is_some() { ("gate_up_dot", large_threads(gpu)) } else { ("gate_up", THREADS) };
        let variant = teams(gpu, kernel, threads)
            .format("gate", stack.gate.format)
            .format("up", stack.up.format)
            .with("ROWS", rows)
            .with("FF", stack.ff)
            .with("UNITS", units);
        let variant = match bytes {
            Some(pieces) => variant
                .with("UNROLL", pieces.fewer(rows as usize).steps(gpu, units))
                .when("ROUNDS", inner.rounded),
            None => variant.with("CHUNK", chunk).when("EXACT", steps(units, chunk, lanes as usize, 1).exact),
        };
        let mut bindings = vec![x.read(), inner.array.write(), pairs.ids.clone(), pairs.shares.clone()];
        bindings.extend(gate.bind());
        bindings.extend(up.bind());
        let words = [x.width / 4, used, gate.first, gate.rows].map(|word| word as u32);
        let params: Vec<u32> = words.into_iter().chain([stack.clamp.to_bits()]).collect();
        let groups = (stack.ff as u32).div_ceil(threads / lanes * rows);
        r.launch(gpu, variant, &bindings, &params, [groups, (x.n * used) as u32, 1]);
    }
}

fn many(gpu: &Inner, r: &mut Recorder, &Moe { x, routes, experts, shared }: &Moe<'_>) -> Array {
    let stack = &experts.stack;
    let formats = [&stack.gate, &stack.up, &stack.down].map(|w| w.format);
    let grouped = group(gpu, r, routes, experts.count, &formats);
    let gated = [&stack.gate, &stack.up, &shared.gate, &shared.up].map(|w| w.format);
    let rows = Rows::new(gpu, r, x, gated.into_iter());
    let (n, used, d) = (x.n, routes.ids.width, x.width);
    let y = shared_of_many(gpu, r, &rows, shared);
    let inner = Array::empty(gpu, n * used, stack.ff);
    gate_up_tiles(gpu, r, &rows, stack, &inner, &Kind::Experts { grouped: &grouped, pairs: false });
    let rows = Rows::new(gpu, r, &inner, [stack.down.format].into_iter());
    let z = Array::empty(gpu, n * used, d);
    for part in &stack.down.parts {
        let kind = Kind::Experts { grouped: &grouped, pairs: true };
        let w = &stack.down;
        tiled(gpu, r, &rows, &Tiled { w, part, outputs: d, y: &z, offset: 0, scale: 1.0, kind, gate: None });
    }
    let vectors = (d / 4) as u32;
    r.launch(
        gpu,
        threads("sum_slots"),
        &[z.read(), y.write()],
        &[vectors, used as u32],
        [vectors.div_ceil(THREADS), n as u32, 1],
    );
    y
}

/// What the shared expert gives many rows.
fn shared_of_many(gpu: &Inner, r: &mut Recorder, x: &Rows<'_>, shared: &Expert<Weights>) -> Array {
    let inner = Array::empty(gpu, x.x.n, shared.ff);
    gate_up_tiles(gpu, r, x, shared, &inner, &Kind::Plain { bias: None });
    linear(gpu, r, &Linear::new(&shared.down), &inner)
}

/// Inner activations of many rows.
fn gate_up_tiles(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Rows<'_>,
    expert: &Expert<Weights>,
    inner: &Array,
    kind: &Kind<'_>,
) {
    for (part, gate) in expert.up.parts.iter().zip(&expert.gate.parts) {
        let what = Tiled {
            w: &expert.up,
            part,
            outputs: expert.ff,
            y: inner,
            offset: 0,
            scale: 1.0,
            kind: kind.clone(),
            gate: Some(Gate { w: &expert.gate, part: gate, limit: expert.clamp }),
        };
        tiled(gpu, r, x, &what);
    }
}
