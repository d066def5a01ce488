//! Launches `norm.wgsl`: norms and rotations of vectors.

use crate::array::{Array, Treatment};
use crate::buffers::Slice;
use crate::gpu::Inner;
use crate::kernels::compress::{Append, kinds, same};
use crate::kernels::linear::FEW;
use crate::kernels::teams;
use crate::recorder::{Binding, Recorder};
use crate::shader::Variant;
use model::RowLayout;

/// What is to be done with each vector.
#[derive(Clone, Copy)]
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
    Norms::new(gpu, what, x, y, place).launch(gpu, r, &[]);
}

/// Treats every vector of x; those of the result follow each other. For few rows that is held back, so that they can be
/// appended along with it.
pub(crate) fn norm_row(gpu: &Inner, r: &mut Recorder, what: &Norm<'_>, x: &Array, y: &Array) {
    let norms = Norms::new(gpu, what, x, y, [what.width, 0]);
    match x.n {
        ..=FEW => r.hold(gpu, norms),
        _ => drop(norms.launch(gpu, r, &[])),
    }
}

/// The array itself, or if what is to be done with its vectors was left to who reads it, another one where that is done.
pub(crate) fn treated(gpu: &Inner, r: &mut Recorder, x: &Array) -> Option<Array> {
    let Treatment { width, eps, rope, angles } = &**x.treatment.as_ref()?;
    let angles = r.put(gpu, angles);
    let y = Array::empty(gpu, x.n, x.width);
    let rotate = Some((&angles, *rope));
    norm(gpu, r, &Norm { width: *width, eps: *eps, weight: None, rotate, repeat: 1 }, x, &y, [*width, 0]);
    Some(y)
}

/// A launch that is not asked for yet.
pub(crate) struct Norms {
    variant: Variant,
    bindings: Vec<Binding>,
    params: Vec<u32>,
    vectors: usize,
    y: Slice,
    rope: usize,
}

impl Norms {
    fn new(gpu: &Inner, what: &Norm<'_>, x: &Array, y: &Array, place: [usize; 2]) -> Norms {
        let angles = what.rotate.map_or_else(|| x.read(), |(angles, _)| Binding::Read(angles.clone()));
        let rope = what.rotate.map_or(0, |(_, rope)| rope);
        let variant = teams(gpu, "norm", if what.width <= 256 { 64 } else { 256 })
            .with("WIDTH", what.width)
            .with("ROPE", rope)
            .when("NORM", what.eps.is_some())
            .when("WEIGHT", what.weight.is_some())
            .when("ROTATE", what.rotate.is_some());
        let bindings = vec![angles, x.read(), y.write(), what.weight.map_or_else(|| x.read(), Array::read)];
        let heads = x.width / what.width;
        let vectors = x.n * heads * what.repeat;
        let words = [place[0], place[1], what.repeat, heads, vectors].map(|word| word as u32);
        let params = words.into_iter().chain([what.eps.unwrap_or(0.0).to_bits()]).collect();
        Norms { variant, bindings, params, vectors, y: y.slice(), rope }
    }

    /// Launches it, and if these are its rows appends them along with it; says whether it did.
    pub(crate) fn launch(mut self, gpu: &Inner, r: &mut Recorder, held: &[Append]) -> bool {
        let kinds = kinds(held);
        let along = self.takes_along(gpu, &kinds);
        let mut groups = self.vectors;
        if let (true, [one, more @ ..]) = (along, &kinds[..]) {
            // A place for each workgroup: those of its vectors first, then those of rows of other arrays.
            let (mine, others): (Vec<_>, Vec<_>) = held.iter().partition(|append| same(&append.x, &one.x));
            let place = |i: u32| mine.iter().find_map(|append| append.place(i)).unwrap_or(NOWHERE);
            let mut places: Vec<u32> = (0..self.vectors as u32).flat_map(|i| [0, i, place(i), 0]).collect();
            for append in others {
                places.extend(append.places(1, &kinds).flatten());
            }
            groups = places.len() / 4;
            self.variant = self.variant.rows(one.layout).with("STORE", 1u32).with("MORE", more.len());
            self.bindings.extend([one.store.clone(), Binding::Read(r.put(gpu, &places))]);
            self.bindings.extend(more.iter().map(|append| Binding::Read(append.x.clone())));
            self.params.extend(more.iter().map(|append| append.stride()));
        }
        r.launch(gpu, self.variant, &self.bindings, &self.params, spread(groups as u32));
        along
    }

    fn takes_along(&self, gpu: &Inner, kinds: &[&Append]) -> bool {
        let Some(one) = kinds.first() else { return false };
        let turned = |layout| !matches!(layout, RowLayout::Latent8 { rope, .. } if rope != self.rope);
        same(&self.y, &one.x)
            && turned(one.layout)
            && self.bindings.len() + 1 + kinds.len() < gpu.most_bindings()
    }
}

/// In place of a word of the store: a row that is not appended.
const NOWHERE: u32 = u32::MAX;

/// So many workgroups over two dimensions, since one has too few.
pub(crate) fn spread(count: u32) -> [u32; 3] {
    let x = count.min(32768);
    [x, count.div_ceil(x), 1]
}
