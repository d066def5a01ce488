//! Launches `norm.wgsl`: norms and rotations of vectors.

use crate::array::Array;
use crate::buffers::Slice;
use crate::gpu::Inner;
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

/// Treats every vector of x; vector i of the result begins at `i * y_stride + y_offset` of y.
pub(crate) fn norm(gpu: &Inner, r: &mut Recorder, what: &Norm<'_>, x: &Array, y: &Array, place: [usize; 2]) {
    let heads = x.width / what.width;
    let count = x.n * heads * what.repeat;
    let x_read = x.read();
    let weight = what.weight.map_or_else(|| x.read(), Array::read);
    let angles = what.rotate.map_or_else(|| x.read(), |(angles, _)| Binding::Read(angles.clone()));
    let variant = teams(gpu, "norm", if what.width <= 256 { 64 } else { 256 })
        .with("WIDTH", what.width)
        .with("ROPE", what.rotate.map_or(0, |(_, rope)| rope))
        .when("NORM", what.eps.is_some())
        .when("WEIGHT", what.weight.is_some())
        .when("ROTATE", what.rotate.is_some());
    let groups = spread(count as u32);
    r.launch(
        gpu,
        variant,
        &[x_read, y.write(), weight, angles],
        &[
            heads as u32,
            what.repeat as u32,
            place[0] as u32,
            place[1] as u32,
            what.eps.unwrap_or(0.0).to_bits(),
            count as u32,
        ],
        groups,
    );
}

/// So many workgroups over two dimensions, since one has too few.
pub(crate) fn spread(count: u32) -> [u32; 3] {
    let x = count.min(32768);
    [x, count.div_ceil(x), 1]
}
