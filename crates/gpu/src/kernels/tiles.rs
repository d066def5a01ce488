//! Products of many rows, by tiles: `linear_matrix.wgsl` where the device has matrix units, `linear_tile.wgsl` where
//! not.

use crate::array::{Array, Routes};
use crate::gpu::Inner;
use crate::kernels::threads;
use crate::matrix::{Matrix, Part};
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;
use quants::Format;

/// Rows of a tile without matrix units.
const TILE: usize = 64;

/// What weights are multiplied by on their way to f16, so that small ones keep their bits: full precision from 2^-20
/// on, and nothing below 1023 is too large.
const STEEP: u32 = 64;

/// Tiles that a large device works on at a time: with fewer, cores have nothing to do.
const AT_A_TIME: usize = 256;

/// Whether products with weights of a format go through matrix units. Weights of f32 have more bits than those take.
pub(crate) fn on_matrix_units(gpu: &Inner, format: Format) -> bool {
    gpu.abilities.matrices.is_some() && format != Format::F32
}

/// The side of matrices that a device multiplies at once, which decides what a tile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 8 × 8: Apple's, whose workgroups have 32 KB of memory.
    Eight = 8,
    /// 16 × 16: those of most devices with Vulkan.
    Sixteen = 16,
}

impl Side {
    /// Threads of a workgroup for tiles of so many rows. It makes half as many outputs; of a gated product, a quarter.
    /// Of the smallest tiles, where bringing weights is nearly all there is to do, more workgroups fit a core and wait at
    /// different times.
    fn threads(self, rows: usize) -> usize {
        match self {
            Side::Sixteen if rows > 32 => 256,
            _ => 128,
        }
    }

    /// The most rows of a tile that workgroup memory has room for, on Metal for that of another workgroup, too.
    pub(crate) fn most_rows(self, split: bool) -> usize {
        match (self, split) {
            (Side::Eight, true) => 32,
            (Side::Eight, false) | (Side::Sixteen, true) => 64,
            (Side::Sixteen, false) => 128,
        }
    }

    /// Bytes of workgroup memory that the largest tile takes, the code book of IQ2_XXS included.
    pub(crate) fn memory(self) -> u32 {
        match self {
            Side::Eight => 23 << 10,
            Side::Sixteen => 47 << 10,
        }
    }
}

/// Whether rows go to matrix units as two halves each, so that nothing of them is lost: where the weights lose nothing
/// either.
pub(crate) fn whole_rows(format: Format) -> bool {
    matches!(format, Format::F16 | Format::BF16)
}

/// Rows of a product, in the forms in which kernels want them.
pub(crate) struct Rows<'a> {
    pub(crate) x: &'a Array,
    halves: Option<Array>,
}

impl<'a> Rows<'a> {
    /// For products with matrices of these formats.
    pub(crate) fn new(
        gpu: &Inner,
        r: &mut Recorder,
        x: &'a Array,
        mut formats: impl Iterator<Item = Format> + Clone,
    ) -> Rows<'a> {
        let wanted = formats.clone().any(|format| on_matrix_units(gpu, format));
        let halves = wanted.then(|| halve(gpu, r, x, formats.any(whole_rows)));
        Rows { x, halves }
    }
}

/// Vectors behind a row of halves: the first has the exponent, the others keep rows aligned.
pub(crate) const PAD: usize = 4;

fn halve(gpu: &Inner, r: &mut Recorder, x: &Array, split: bool) -> Array {
    let vectors = x.width / 4;
    let stride = vectors * if split { 2 } else { 1 } + PAD;
    let y = Array::empty(gpu, x.n, 2 * stride);
    let variant = threads("halve").with("PAD", PAD).when("SPLIT", split);
    let params = [vectors as u32, vectors as u32, stride as u32];
    r.launch(gpu, variant, &[x.read(), y.write()], &params, [x.n as u32, 1, 1]);
    y
}

/// A product with a part of a matrix.
pub(crate) struct Tiled<'a> {
    pub(crate) w: &'a Matrix,
    pub(crate) part: &'a Part,
    /// Outputs; of one group or one expert, if a part has several.
    pub(crate) outputs: usize,
    pub(crate) y: &'a Array,
    /// Columns of y ahead of the result.
    pub(crate) offset: usize,
    pub(crate) scale: f32,
    pub(crate) kind: Kind<'a>,
    /// What the result is combined with.
    pub(crate) gate: Option<Gate<'a>>,
}

/// Which rows of x meet which of a matrix.
#[derive(Clone)]
pub(crate) enum Kind<'a> {
    /// All meet all. Each result has a row of the first added, which one is in the second.
    Plain { bias: Option<[Binding; 2]> },
    /// Groups of outputs read parts of x.
    Groups,
    /// Each pair of a row and an expert has the expert's rows; `pairs` is whether each has a row of x, too.
    Experts { grouped: &'a Grouped<'a>, pairs: bool },
}

/// The matrix beside that of a gated product, of the same shape.
pub(crate) struct Gate<'a> {
    pub(crate) w: &'a Matrix,
    pub(crate) part: &'a Part,
    pub(crate) limit: f32,
}

/// The pairs of a batch by expert.
pub(crate) struct Grouped<'a> {
    routes: &'a Routes,
    order: Array,
    tiles: Array,
    /// Rows of a tile.
    rows: usize,
}

/// Sorts pairs by expert, for products with weights of these formats.
pub(crate) fn group<'a>(
    gpu: &Inner,
    r: &mut Recorder,
    routes: &'a Routes,
    experts: usize,
    formats: &[Format],
) -> Grouped<'a> {
    let pairs = routes.ids.n * routes.ids.width;
    // A tile takes little longer with more rows, so most experts get one or two.
    let side = gpu.abilities.matrices.filter(|_| formats.iter().all(|&format| on_matrix_units(gpu, format)));
    let rows = side.map_or(TILE, |side| {
        let most = side.most_rows(formats.iter().copied().any(whole_rows));
        match pairs / experts {
            0..=24 => 32,
            25..=56 => most.min(64),
            _ => most,
        }
    });
    let most = pairs / rows + experts.min(pairs);
    let (order, tiles) = (Array::empty(gpu, 1, pairs), Array::empty(gpu, most, 4));
    r.launch(
        gpu,
        threads("group_experts").with("EXPERTS", experts).with("TILE", rows),
        &[routes.ids.read(), order.write(), tiles.write()],
        &[pairs as u32, experts as u32, most as u32],
        [1, 1, 1],
    );
    Grouped { routes, order, tiles, rows }
}

/// Multiplies.
pub(crate) fn tiled(gpu: &Inner, r: &mut Recorder, x: &Rows<'_>, what: &Tiled<'_>) {
    let Tiled { w, part, outputs, y, offset, scale, ref kind, ref gate } = *what;
    let formats = [w.format, gate.as_ref().map_or(w.format, |gate| gate.w.format)];
    let halves = x.halves.as_ref().filter(|_| formats.iter().all(|&format| on_matrix_units(gpu, format)));
    let side = gpu.abilities.matrices.filter(|_| halves.is_some());
    let (n, rows_of_x) = (x.x.n, halves.unwrap_or(x.x));
    let across = |rows: usize| {
        outputs.div_ceil(side.map_or(64, |side| side.threads(rows) / if gate.is_some() { 4 } else { 2 }))
    };
    let groups = if matches!(kind, Kind::Groups) { part.rows / outputs } else { 1 };
    let split = formats.into_iter().any(whole_rows);
    let rows = match kind {
        Kind::Experts { grouped, .. } => grouped.rows,
        _ => side.map_or(TILE, |side| tile_rows(n, across(TILE) * groups, side.most_rows(split))),
    };
    let mut variant = match side {
        Some(side) => on_units(side, rows, split, formats.contains(&Format::F16)),
        None => on_threads(rows),
    };
    variant = variant.format("w", w.format);
    let [bits, scales] = part.bind();
    let mut bindings = vec![rows_of_x.read(), bits, scales, y.write()];
    let (mut tiles, mut used) = (n.div_ceil(rows), 1);
    let (group_rows, group_stride) = match kind {
        Kind::Plain { bias } => {
            variant = variant.when("BIAS", bias.is_some());
            bindings.extend(bias.iter().flatten().cloned());
            (w.rows, 0)
        }
        Kind::Groups => {
            variant = variant.with("GROUPED", 1u32);
            (outputs, w.cols / 4)
        }
        Kind::Experts { grouped, pairs } => {
            variant = variant.with("EXPERTS", 1u32).when("PAIRS", *pairs);
            bindings.extend([grouped.tiles.read(), grouped.order.read()]);
            (tiles, used) = (grouped.tiles.n, grouped.routes.ids.width);
            (part.rows, 0)
        }
    };
    if let Some(gate) = gate {
        variant = variant.with("GATED", 1u32).format("gate", gate.w.format);
        let filler = bindings[0].clone(); // for bindings that other variants have
        bindings.resize(6, filler);
        bindings.extend(gate.part.bind());
        if let Kind::Experts { grouped, .. } = kind {
            bindings.push(grouped.routes.shares.read());
        }
    }
    let params = [
        outputs as u32,
        w.units() as u32,
        n as u32,
        (rows_of_x.width / if halves.is_some() { 2 } else { 4 }) as u32,
        y.width as u32,
        offset as u32,
        group_rows as u32,
        group_stride as u32,
        scale.to_bits(),
        gate.as_ref().map_or(0.0, |gate| gate.limit).to_bits(),
        part.first as u32,
        used as u32,
    ];
    r.launch(gpu, variant, &bindings, &params, [across(rows) as u32, tiles as u32, groups as u32]);
}

/// Rows of a tile on matrix units, so that there is work for all cores: for so many rows of x, if a row of tiles has
/// this many, and `most` is all that a tile can have.
fn tile_rows(n: usize, across: usize, most: usize) -> usize {
    let enough = |rows: &usize| *rows <= most && across * n.div_ceil(*rows) >= AT_A_TIME;
    [128, 64].into_iter().find(enough).unwrap_or(32)
}

/// `linear_tile` with tiles of so many rows.
pub(crate) fn on_threads(rows: usize) -> Variant {
    threads("linear_tile").with("ROWS", rows)
}

/// `linear_matrix` with tiles of so many rows.
///
/// - `split`: rows of x are two halves each
/// - `exact`: weights have the range of f16, and are taken as they are
pub(crate) fn on_units(side: Side, rows: usize, split: bool, exact: bool) -> Variant {
    let (threads, size) = (side.threads(rows), side as usize);
    Variant::of("linear_matrix")
        .with("ROWS", rows)
        .with("THREADS", threads)
        .with("SIZE", size)
        .when("EIGHT", side == Side::Eight)
        .with("HALVES", 1u32)
        .with("PAD", PAD)
        .with("BETWEEN", threads / 16)
        .with("LOADS", 16 * rows / threads)
        .with("BANDS", rows / 2 / size)
        .with("SIDES", 16 / size)
        .with("STEPS", 64 / size)
        .with("PUTS", size / 2)
        .with("STEEP", if exact { 1 } else { STEEP })
        .when("SPLIT", split)
}
