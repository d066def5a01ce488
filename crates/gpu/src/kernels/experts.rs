//! Launches the experts: `gate_up.wgsl` and `down.wgsl` for few rows; for many rows, grouped by expert,
//! `group_experts.wgsl`, `linear_tile.wgsl` and `sum_slots.wgsl`.

use crate::array::{Array, Routes};
use crate::gpu::Inner;
use crate::kernels::linear::{FEW, TILE, team_rows};
use crate::kernels::{Linear, THREADS, linear, teams, threads};
use crate::matrix::Matrix;
use crate::ops::Weights;
use crate::recorder::Recorder;
use crate::shader::Variant;
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
    if gate.parts.len() != up.parts.len()
        || !aligned(gate, experts.stack.ff)
        || !aligned(&experts.stack.down, x.width)
    {
        gpu.fail(format!(
            "{} and its siblings are too large for one buffer of {} and cannot be split between experts: \
             use --backend cpu",
            gate.name, gpu.about.name
        ));
    }
    match x.n <= FEW {
        true => few(gpu, r, x, routes, experts, shared),
        false => many(gpu, r, x, routes, experts, shared),
    }
}

fn few(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    routes: &Routes,
    experts: &Experts<Weights>,
    shared: &Expert<Weights>,
) -> Array {
    let inner = gate_up(gpu, r, x, shared, None);
    let y = linear(gpu, r, &Linear::new(&shared.down), &inner);
    let stack = &experts.stack;
    let inner = gate_up(gpu, r, x, stack, Some(routes));
    let (down, used) = (&stack.down, routes.ids.width);
    for part in &down.parts {
        let rows = team_rows(x.width);
        let [bits, scales] = part.bind();
        r.launch(
            gpu,
            teams(gpu, "down", 256).format("w", down.format).with("ROWS", rows),
            &[inner.read(), bits, scales, y.write(), routes.ids.read()],
            &[x.width as u32, down.units() as u32, used as u32, part.first as u32, part.rows as u32],
            [(x.width as u32).div_ceil(256 / gpu.abilities.lanes * rows), x.n as u32, 1],
        );
    }
    y
}

/// Inner activations, `[n · experts of a row, ff]`.
fn gate_up(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    expert: &Expert<Weights>,
    routes: Option<&Routes>,
) -> Array {
    let used = routes.map_or(1, |routes| routes.ids.width);
    let inner = Array::empty(gpu, x.n * used, expert.ff);
    for (gate, up) in expert.gate.parts.iter().zip(&expert.up.parts) {
        let rows = if expert.ff * used >= 8192 { 2u32 } else { 1 };
        let variant = teams(gpu, "gate_up", 256)
            .format("gate", expert.gate.format)
            .format("up", expert.up.format)
            .with("ROWS", rows)
            .when("SHARED", routes.is_none());
        let [gate_bits, gate_scales] = gate.bind();
        let [up_bits, up_scales] = up.bind();
        let mut bindings = vec![x.read(), gate_bits, gate_scales, up_bits, up_scales, inner.write()];
        if let Some(routes) = routes {
            bindings.extend([routes.ids.read(), routes.shares.read()]);
        }
        r.launch(
            gpu,
            variant,
            &bindings,
            &[
                expert.ff as u32,
                expert.gate.units() as u32,
                (x.width / 4) as u32,
                used as u32,
                expert.clamp.to_bits(),
                gate.first as u32,
                gate.rows as u32,
            ],
            [(expert.ff as u32).div_ceil(256 / gpu.abilities.lanes * rows), (x.n * used) as u32, 1],
        );
    }
    inner
}

/// The pairs of a batch by expert.
struct Grouped {
    order: Array,
    tiles: Array,
    /// Tiles that there may be, `tiles.n`; those beyond the last are empty.
    most: usize,
}

fn group(gpu: &Inner, r: &mut Recorder, routes: &Routes, experts: usize) -> Grouped {
    let pairs = routes.ids.n * routes.ids.width;
    let most = pairs / TILE + experts.min(pairs);
    let (order, tiles) = (Array::empty(gpu, 1, pairs), Array::empty(gpu, most, 4));
    r.launch(
        gpu,
        threads("group_experts").with("EXPERTS", experts).with("TILE", TILE),
        &[routes.ids.read(), order.write(), tiles.write()],
        &[pairs as u32, experts as u32, most as u32],
        [1, 1, 1],
    );
    Grouped { order, tiles, most }
}

fn many(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    routes: &Routes,
    experts: &Experts<Weights>,
    shared: &Expert<Weights>,
) -> Array {
    let grouped = group(gpu, r, routes, experts.count);
    let inner = inner_tiles(gpu, r, x, shared, None);
    let y = linear(gpu, r, &Linear::new(&shared.down), &inner);
    let stack = &experts.stack;
    let inner = inner_tiles(gpu, r, x, stack, Some((routes, &grouped)));
    let (n, used, d) = (x.n, routes.ids.width, x.width);
    let z = Array::empty(gpu, n * used, d);
    tiles(gpu, r, &stack.down, d, &inner, &z, &Tiles { routes, grouped: &grouped, pairs: true, gate: None });
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

/// Inner activations of many rows.
fn inner_tiles(
    gpu: &Inner,
    r: &mut Recorder,
    x: &Array,
    expert: &Expert<Weights>,
    routed: Option<(&Routes, &Grouped)>,
) -> Array {
    let ff = expert.ff;
    let Some((routes, grouped)) = routed else {
        let gate = linear(gpu, r, &Linear::new(&expert.gate), x);
        let inner = Array::empty(gpu, x.n, ff);
        let up = &expert.up;
        for part in &up.parts {
            let [bits, scales] = part.bind();
            r.launch(
                gpu,
                Variant::of("linear_tile").format("w", up.format).with("SWIGLU", 1u32),
                // Bindings 4 and 5 are those of other variants.
                &[x.read(), bits, scales, inner.write(), gate.read(), gate.read(), gate.read()],
                &[
                    part.rows as u32,
                    up.units() as u32,
                    x.n as u32,
                    (x.width / 4) as u32,
                    ff as u32,
                    0,
                    0,
                    0,
                    1f32.to_bits(),
                    expert.clamp.to_bits(),
                    part.first as u32,
                    1,
                ],
                [part.rows.div_ceil(TILE) as u32, x.n.div_ceil(TILE) as u32, 1],
            );
        }
        return inner;
    };
    let pairs = x.n * routes.ids.width;
    let (gate, inner) = (Array::empty(gpu, pairs, ff), Array::empty(gpu, pairs, ff));
    let plain = Tiles { routes, grouped, pairs: false, gate: None };
    tiles(gpu, r, &expert.gate, ff, x, &gate, &plain);
    let gated = Tiles { gate: Some((&gate, expert.clamp)), ..plain };
    tiles(gpu, r, &expert.up, ff, x, &inner, &gated);
    inner
}

/// What a product by tiles of experts needs besides its matrices.
struct Tiles<'a> {
    routes: &'a Routes,
    grouped: &'a Grouped,
    /// Whether x has a row for each pair.
    pairs: bool,
    /// The gate that the result is combined with, and the limit.
    gate: Option<(&'a Array, f32)>,
}

fn tiles(gpu: &Inner, r: &mut Recorder, w: &Matrix, rows: usize, x: &Array, y: &Array, what: &Tiles<'_>) {
    for part in &w.parts {
        let [bits, scales] = part.bind();
        let grouped = what.grouped;
        let mut bindings =
            vec![x.read(), bits, scales, y.write(), grouped.tiles.read(), grouped.order.read()];
        if let Some((gate, _)) = what.gate {
            bindings.extend([gate.read(), what.routes.shares.read()]);
        }
        r.launch(
            gpu,
            Variant::of("linear_tile")
                .format("w", w.format)
                .with("EXPERTS", 1u32)
                .when("PAIRS", what.pairs)
                .when("SWIGLU", what.gate.is_some()),
            &bindings,
            &[
                rows as u32,
                w.units() as u32,
                x.n as u32,
                (x.width / 4) as u32,
                y.width as u32,
                0,
                part.rows as u32,
                0,
                1f32.to_bits(),
                what.gate.map_or(0.0, |(_, limit)| limit).to_bits(),
                part.first as u32,
                what.routes.ids.width as u32,
            ],
            [rows.div_ceil(TILE) as u32, grouped.most as u32, 1],
        );
    }
}
