//! Launches `norm.wgsl`: norms and rotations of vectors.

use crate::array::Array;
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::linear::FEW;
use crate::kernels::teams;
use crate::recorder::{Binding, Recorder};

/// What is to be done with each vector.
pub(crate) struct Norm<'a> {
    /// Width of a vector.
    pub(crate) width: usize,
    /// Added to the mean square; `None` leaves the length alone.
    pub(crate) eps: Option<f32>,
    /// `[width]`
    pub(crate) weight: Option<&'a Array>,
    /// Angles of each row of the batch, and how many components they turn.
    pub(crate) rotate: Option<(&'a Slice, usize)>,
    /// Vectors of y for one of x.
    pub(crate) repeat: usize,
}

/// One of several sets of vectors, all rotated by the same angles.
pub(crate) struct NormJob<'a> {
    pub(crate) what: Norm<'a>,
    pub(crate) x: &'a Array,
    pub(crate) y: &'a Array,
}

/// Treats every vector of x; vector i of the result begins at `i * y_stride + y_offset` of y.
pub(crate) fn norm(gpu: &Inner, r: &mut Recorder, what: &Norm<'_>, x: &Array, y: &Array, place: [usize; 2]) {
    launch(gpu, r, &[NormJob { what: Norm { ..*what }, x, y }], place);
}

/// Treats several sets of vectors: for few rows in one launch. Vectors of a result follow each other.
pub(crate) fn norms(gpu: &Inner, r: &mut Recorder, jobs: &[NormJob<'_>]) {
    if jobs[0].x.n <= FEW {
        return launch(gpu, r, jobs, [0, 0]);
    }
    for NormJob { what, x, y } in jobs {
        norm(gpu, r, what, x, y, [what.width, 0]);
    }
}

const WIDTH: [&str; 3] = ["WIDTH0", "WIDTH1", "WIDTH2"];
const NORM: [&str; 3] = ["NORM0", "NORM1", "NORM2"];
const WEIGHT: [&str; 3] = ["WEIGHT0", "WEIGHT1", "WEIGHT2"];

fn launch(gpu: &Inner, r: &mut Recorder, jobs: &[NormJob<'_>], place: [usize; 2]) {
    let first = &jobs[0];
    let rotate = &first.what.rotate;
    let angles = rotate.map_or_else(|| first.x.read(), |(angles, _)| Binding::Read(angles.clone()));
    let widest = jobs.iter().map(|job| job.what.width).max().unwrap_or(0);
    let mut variant = teams(gpu, "norm", if widest <= 256 { 64 } else { 256 })
        .with("JOBS", jobs.len())
        .when("ALONE", jobs.len() == 1)
        .with("ROPE", rotate.map_or(0, |(_, rope)| rope))
        .when("ROTATE", rotate.is_some());
    let mut bindings = vec![angles];
    let mut params = vec![place[0] as u32, place[1] as u32, first.what.repeat as u32];
    let mut all = 0;
    for (i, NormJob { what, x, y }) in jobs.iter().enumerate() {
        let heads = x.width / what.width;
        let count = x.n * heads * what.repeat;
        variant = variant
            .with(WIDTH[i], what.width)
            .when(NORM[i], what.eps.is_some())
            .when(WEIGHT[i], what.weight.is_some());
        bindings.extend([x.read(), y.write(), what.weight.map_or_else(|| x.read(), Array::read)]);
        params.extend([heads as u32, count as u32, what.eps.unwrap_or(0.0).to_bits()]);
        all += count;
    }
    r.launch(gpu, variant, &bindings, &params, spread(all as u32));
}

/// So many workgroups over two dimensions, since one has too few.
pub(crate) fn spread(count: u32) -> [u32; 3] {
    let x = count.min(32768);
    [x, count.div_ceil(x), 1]
}
