//! Launches `linear_vec.wgsl` for few rows and `linear_tile.wgsl` for many.

use crate::array::Array;
use crate::gpu::Inner;
use crate::kernels::norm::{Norm, norm};
use crate::kernels::teams;
use crate::matrix::Matrix;
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;

/// The most rows that go the way of few.
pub(crate) const FEW: usize = 8;

/// Outputs and rows of a tile.
pub(crate) const TILE: usize = 64;

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
    assert_eq!(x.width, what.w.cols * what.groups, "{}: input", what.w.name);
    if x.n > FEW {
        return many(gpu, r, what, x, y, offset);
    }
    let w = what.w;
    let rows_a_group = w.rows / what.groups;
    let bias = bias(gpu, r, what);
    for part in &w.parts {
        let grouped = what.groups > 1;
        let (outputs, groups) =
            if grouped { (rows_a_group, part.rows / rows_a_group) } else { (part.rows, 1) };
        let rows = team_rows(part.rows);
        let columns = [1, 1, 2, 4, 4][x.n.min(4)];
        let variant = teams(gpu, "linear_vec", 256)
            .format("w", w.format)
            .with("ROWS", rows)
            .with("COLUMNS", columns)
            .when("NORM", what.norm.is_some())
            .when("BIAS", what.bias.is_some())
            .when("GROUPED", grouped);
        let [bits, scales] = part.bind();
        let mut bindings = vec![x.read(), bits, scales, y.write()];
        bindings.extend(what.norm.map(|(weight, _)| weight.read()));
        bindings.extend(bias.iter().flatten().cloned());
        let team_count = 256 / gpu.abilities.lanes;
        r.launch(
            gpu,
            variant,
            &bindings,
            &[
                outputs as u32,
                w.units() as u32,
                x.n as u32,
                (x.width / 4) as u32,
                y.width as u32,
                offset as u32,
                rows_a_group as u32,
                (w.cols / 4) as u32,
                what.scale.to_bits(),
                what.norm.map_or(0.0, |(_, eps)| eps).to_bits(),
                part.first as u32,
            ],
            [(outputs as u32).div_ceil(team_count * rows), (x.n as u32).div_ceil(columns), groups as u32],
        );
    }
}

/// Outputs of a team: several share what is read of x, as long as there are workgroups enough for all
/// cores.
pub(crate) fn team_rows(rows: usize) -> u32 {
    match rows {
        16384.. => 4,
        4096.. => 2,
        _ => 1,
    }
}

fn bias(gpu: &Inner, r: &mut Recorder, what: &Linear<'_>) -> Option<[Binding; 2]> {
    what.bias.map(|(bias, rows)| [bias.read(), Binding::Read(r.put(gpu, rows))])
}

fn many(gpu: &Inner, r: &mut Recorder, what: &Linear<'_>, x: &Array, y: &Array, offset: usize) {
    let normed = what.norm.map(|(weight, eps)| {
        let normed = Array::empty(gpu, x.n, x.width);
        let rms = Norm { width: x.width, eps: Some(eps), weight: Some(weight), rotate: None, repeat: 1 };
        norm(gpu, r, &rms, x, &normed, [x.width, 0]);
        normed
    });
    let x = normed.as_ref().unwrap_or(x);
    let w = what.w;
    let rows_a_group = w.rows / what.groups;
    let bias = bias(gpu, r, what);
    for part in &w.parts {
        let grouped = what.groups > 1;
        let (rows, groups) = if grouped { (rows_a_group, part.rows / rows_a_group) } else { (part.rows, 1) };
        let variant = Variant::of("linear_tile")
            .format("w", w.format)
            .when("BIAS", what.bias.is_some())
            .when("GROUPED", grouped);
        let [bits, scales] = part.bind();
        let mut bindings = vec![x.read(), bits, scales, y.write()];
        bindings.extend(bias.iter().flatten().cloned());
        r.launch(
            gpu,
            variant,
            &bindings,
            &[
                rows as u32,
                w.units() as u32,
                x.n as u32,
                (x.width / 4) as u32,
                y.width as u32,
                offset as u32,
                rows_a_group as u32,
                (w.cols / 4) as u32,
                what.scale.to_bits(),
                0,
                part.first as u32,
                1,
            ],
            [rows.div_ceil(TILE) as u32, x.n.div_ceil(TILE) as u32, groups as u32],
        );
    }
}
