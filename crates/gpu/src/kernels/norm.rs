//! Launches `norm.wgsl`: norms and rotations of vectors.

use crate::array::Array;
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::{Append, places, teams};
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;
use model::RowLayout;

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
    Norms::new(gpu, &[NormJob { what: Norm { ..*what }, x, y }], place).launch(gpu, r, &[]);
}

/// Treats several sets of vectors: for one row in one launch, which is held back so that the row of the last set can be
/// appended along with it. Vectors of a result follow each other.
///
/// For two to eight rows one launch would do as well. But on lavapipe, when other programs wanted the processor, about
/// one in a hundred batches with such launches gave other logits, and none without. Why is not known: a later search
/// did not meet it again, and no other device was looked at for it. One row never did.
pub(crate) fn norms(gpu: &Inner, r: &mut Recorder, jobs: &[NormJob<'_>]) {
    if jobs[0].x.n == 1 {
        let norms = Norms::new(gpu, jobs, [0, 0]);
        return r.hold(gpu, norms);
    }
    for NormJob { what, x, y } in jobs {
        norm(gpu, r, what, x, y, [what.width, 0]);
    }
}

const WIDTH: [&str; 3] = ["WIDTH0", "WIDTH1", "WIDTH2"];
const NORM: [&str; 3] = ["NORM0", "NORM1", "NORM2"];
const WEIGHT: [&str; 3] = ["WEIGHT0", "WEIGHT1", "WEIGHT2"];
const STORE: [&str; 3] = ["STORE0", "STORE1", "STORE2"];

/// A launch that is not asked for yet.
pub(crate) struct Norms {
    variant: Variant,
    bindings: Vec<Binding>,
    params: Vec<u32>,
    /// Of all sets together.
    vectors: usize,
    sets: usize,
    /// Result of the last set.
    last: Slice,
    rope: usize,
}

impl Norms {
    fn new(gpu: &Inner, jobs: &[NormJob<'_>], place: [usize; 2]) -> Norms {
        let first = &jobs[0];
        let rotate = &first.what.rotate;
        let angles = rotate.map_or_else(|| first.x.read(), |(angles, _)| Binding::Read(angles.clone()));
        let widest = jobs.iter().map(|job| job.what.width).max().unwrap_or(0);
        let rope = rotate.map_or(0, |(_, rope)| rope);
        let mut variant = teams(gpu, "norm", if widest <= 256 { 64 } else { 256 })
            .with("JOBS", jobs.len())
            .when("ALONE", jobs.len() == 1)
            .with("ROPE", rope)
            .when("ROTATE", rotate.is_some());
        let mut bindings = vec![angles];
        let mut params = vec![place[0] as u32, place[1] as u32, first.what.repeat as u32];
        let mut vectors = 0;
        for (i, NormJob { what, x, y }) in jobs.iter().enumerate() {
            let heads = x.width / what.width;
            let count = x.n * heads * what.repeat;
            variant = variant
                .with(WIDTH[i], what.width)
                .when(NORM[i], what.eps.is_some())
                .when(WEIGHT[i], what.weight.is_some());
            bindings.extend([x.read(), y.write(), what.weight.map_or_else(|| x.read(), Array::read)]);
            params.extend([heads as u32, count as u32, what.eps.unwrap_or(0.0).to_bits()]);
            vectors += count;
        }
        let last = jobs.last().expect("a set").y.slice();
        Norms { variant, bindings, params, vectors, sets: jobs.len(), last, rope }
    }

    /// Launches it, and if these are rows of its last set appends them along with it; says whether it did.
    pub(crate) fn launch(mut self, gpu: &Inner, r: &mut Recorder, rows: &[Append]) -> bool {
        let along = self.takes_along(gpu, rows);
        let mut vectors = self.vectors;
        if let (true, [one, more @ ..]) = (along, rows) {
            self.variant = self
                .variant
                .rows(one.layout)
                .with("STORE", self.bindings.len())
                .with(STORE[self.sets - 1], 1u32)
                .with("MORE", more.len());
            self.bindings.extend([one.store.clone(), places(gpu, r, rows)]);
            self.bindings.extend(more.iter().map(|append| Binding::Read(append.x.clone())));
            self.params.push(one.rows);
            self.params.extend(rows.iter().map(Append::stride));
            vectors += more.len() * one.rows as usize;
        }
        r.launch(gpu, self.variant, &self.bindings, &self.params, spread(vectors as u32));
        along
    }

    fn takes_along(&self, gpu: &Inner, rows: &[Append]) -> bool {
        let Some(one) = rows.first() else { return false };
        let same = |a: &Slice, b: &Slice| (a.buffer.id, a.offset) == (b.buffer.id, b.offset);
        let turned = |layout| !matches!(layout, RowLayout::Latent8 { rope, .. } if rope != self.rope);
        self.sets > 1
            && same(&self.last, &one.x)
            && turned(one.layout)
            && self.bindings.len() + 2 + rows.len() <= gpu.most_bindings()
    }
}

/// So many workgroups over two dimensions, since one has too few.
pub(crate) fn spread(count: u32) -> [u32; 3] {
    let x = count.min(32768);
    [x, count.div_ceil(x), 1]
}
