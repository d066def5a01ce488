//! The queries of some tokens, as the keys want them.

use super::keys::{BIAS, FOURS, Keys};
use crate::Array;
use crate::isa::Isa;
use crate::lanes::{LANES, Line, Vector};
use crate::ops::heads::to_lanes;
use crate::spares::room;
use model::kv::{FP4_BLOCK, RowLayout};
use model::ops::IndexQuery;
use quants::fp4;
use std::ops::Range;

/// Vectors of four components in a block of FP4.
const FOURS_IN_BLOCK: usize = FP4_BLOCK / 4;

/// The queries of some tokens. Heads are padded with such as add nothing to a score.
#[derive(Default)]
pub struct Queries {
    /// Whether keys are FP4.
    packed: bool,
    width: usize,
    /// Heads of a token, a whole number of vectors.
    heads: usize,
    /// FP4: doubled values, `[tokens, width / 4, heads]`.
    fours: Vec<[i8; 4]>,
    /// FP4: what the keys' bias adds to each product, `[tokens, blocks, heads]`, negated.
    bias: Vec<i32>,
    /// FP4: half the scale, `[tokens, blocks, heads]`.
    scale: Vec<f32>,
    /// Other layouts: `[tokens, width, heads]`.
    values: Vec<f32>,
    /// `[tokens, heads]`
    a: Vec<f32>,
    /// The components of sixteen heads, a lane each.
    lanes: Vec<Line>,
}

impl Queries {
    /// Takes the queries of some rows of the batch, rounded if the keys' layout is.
    #[inline(always)]
    pub fn set<I: Isa>(&mut self, isa: I, query: &IndexQuery<Array>, rows: Range<usize>, layout: RowLayout) {
        self.packed = layout.is_rotated();
        self.width = layout.width();
        self.heads = query.a.width.next_multiple_of(LANES);
        let (tokens, width, heads) = (rows.len(), self.width, self.heads);
        room(&mut self.a, tokens * heads).fill(0.0);
        if self.packed {
            room(&mut self.fours, tokens * heads * (width / 4));
            room(&mut self.bias, tokens * heads * (width / FP4_BLOCK));
            room(&mut self.scale, tokens * heads * (width / FP4_BLOCK));
        } else {
            room(&mut self.values, tokens * heads * width);
        }
        for (token, i) in rows.enumerate() {
            self.a[token * heads..][..query.a.width].copy_from_slice(query.a.row(i));
            for (group, u) in query.u.row(i).chunks(LANES * width).enumerate() {
                to_lanes(isa, u, width, room(&mut self.lanes, width.next_multiple_of(LANES)));
                if self.packed {
                    self.set_packed(token, group * LANES);
                } else {
                    let to = self.values[token * width * heads..].chunks_exact_mut(heads);
                    to.zip(&self.lanes).for_each(|(to, lanes)| {
                        to[group * LANES..][..LANES].copy_from_slice(&lanes.0);
                    });
                }
            }
        }
    }

    /// Rounds the heads in lanes as FP4 keys are rounded: the same steps as [`RowLayout::round`], in lanes.
    #[inline(always)]
    fn set_packed(&mut self, token: usize, first: usize) {
        let (width, heads) = (self.width, self.heads);
        let lanes = &mut self.lanes[..width];
        hadamard(lanes);
        let blocks = width / FP4_BLOCK;
        for (block, lanes) in lanes.chunks_exact_mut(FP4_BLOCK).enumerate() {
            let (scale, inverse) = scale(lanes);
            let mut sums = [0; LANES];
            let at = (token * blocks + block) * heads + first;
            for (eight, lanes) in lanes.chunks_exact(8).enumerate() {
                for (half, components) in FOURS.into_iter().enumerate() {
                    let at = (token * width / 4 + block * FOURS_IN_BLOCK + 2 * eight + half) * heads + first;
                    let to = &mut self.fours[at..][..LANES];
                    for (b, component) in components.into_iter().enumerate() {
                        for lane in 0..LANES {
                            let value = doubled(lanes[component].0[lane] * inverse[lane]);
                            sums[lane] += value;
                            to[lane][b] = value as i8;
                        }
                    }
                }
            }
            self.scale[at..][..LANES].copy_from_slice(&scale.map(|scale| 0.5 * scale));
            self.bias[at..][..LANES].copy_from_slice(&sums.map(|sum| -i32::from(BIAS) * sum));
        }
    }

    /// The scores of sixteen keys for one of the tokens.
    #[inline(always)]
    pub fn score<I: Isa>(&self, isa: I, token: usize, keys: &Keys) -> I::Floats {
        if I::WIDE {
            self.score_by::<I, 8>(isa, token, keys)
        } else {
            self.score_by::<I, 2>(isa, token, keys)
        }
    }

    /// The scores, `H` heads at a time.
    #[inline(always)]
    fn score_by<I: Isa, const H: usize>(&self, isa: I, token: usize, keys: &Keys) -> I::Floats {
        let mut score = isa.no_floats();
        for first in (0..self.heads).step_by(H) {
            let products = if self.packed {
                self.products_packed::<I, H>(isa, token, first, keys)
            } else {
                self.products_floats::<I, H>(isa, token, first, keys)
            };
            let a = &self.a[token * self.heads + first..][..H];
            for h in 0..H {
                let product = isa.larger(products[h], isa.no_floats());
                score = isa.fused(score, isa.splat_float(a[h]), product);
            }
        }
        score
    }

    /// `u·e` of some heads, FP4: integers by block, then the blocks in order.
    #[inline(always)]
    fn products_packed<I: Isa, const H: usize>(
        &self,
        isa: I,
        token: usize,
        first: usize,
        keys: &Keys,
    ) -> [I::Floats; H] {
        let (heads, blocks) = (self.heads, self.width / FP4_BLOCK);
        let mut products = [isa.no_floats(); H];
        for block in 0..blocks {
            let at = (token * blocks + block) * heads + first;
            let (bias, scale) = (&self.bias[at..][..H], &self.scale[at..][..H]);
            let mut sums = [isa.splat_int(0); H];
            for h in 0..H {
                sums[h] = isa.splat_int(bias[h]);
            }
            let fours = &self.fours[(token * blocks + block) * FOURS_IN_BLOCK * heads..];
            let fours = &fours[..FOURS_IN_BLOCK * heads];
            let keys_of_block = &keys.fours[block * FOURS_IN_BLOCK..][..FOURS_IN_BLOCK];
            for (j, keys) in keys_of_block.iter().enumerate() {
                let keys = isa.bytes(&keys.0);
                let fours: &[[i8; 4]; H] =
                    fours[j * heads + first..].first_chunk().expect("whole groups of heads");
                for h in 0..H {
                    sums[h] = isa.dot_fours(sums[h], keys, isa.fours(&fours[h]));
                }
            }
            let key_scale = isa.floats(&keys.scale[block].0);
            for h in 0..H {
                let product = isa.product(isa.as_floats(sums[h]), key_scale);
                products[h] = isa.fused(products[h], product, isa.splat_float(scale[h]));
            }
        }
        products
    }

    /// `u·e` of some heads in f32, component after component.
    #[inline(always)]
    fn products_floats<I: Isa, const H: usize>(
        &self,
        isa: I,
        token: usize,
        first: usize,
        keys: &Keys,
    ) -> [I::Floats; H] {
        let values = &self.values[token * self.width * self.heads..][..self.width * self.heads];
        let mut products = [isa.no_floats(); H];
        for (key, values) in keys.values.iter().zip(values.chunks_exact(self.heads)) {
            let key = isa.floats(&key.0);
            let values: &[f32; H] = values[first..].first_chunk().expect("whole groups of heads");
            for h in 0..H {
                products[h] = isa.fused(products[h], key, isa.splat_float(values[h]));
            }
        }
        products
    }
}

/// [`quants::hadamard::transform`] of every lane.
#[inline(always)]
fn hadamard(x: &mut [Line]) {
    let mut distance = 1;
    while distance < x.len() {
        for pair in x.chunks_exact_mut(2 * distance) {
            let (left, right) = pair.split_at_mut(distance);
            for (a, b) in left.iter_mut().zip(right) {
                for lane in 0..LANES {
                    (a.0[lane], b.0[lane]) = (a.0[lane] + b.0[lane], a.0[lane] - b.0[lane]);
                }
            }
        }
        distance *= 2;
    }
    let factor = (1.0 / (x.len() as f64).sqrt()) as f32;
    x.iter_mut().flat_map(|line| &mut line.0).for_each(|x| *x *= factor);
}

/// The scale of a block of FP4 and its inverse, both powers of two; NaN and 0 if a value is not finite.
#[inline(always)]
fn scale(block: &[Line]) -> (Vector, Vector) {
    const FLOOR: f32 = fp4::LARGEST * f32::MIN_POSITIVE;
    // Magnitudes compare like their bits, and what is not finite is above all.
    let mut largest = [FLOOR.to_bits(); LANES];
    for line in block {
        for (largest, x) in largest.iter_mut().zip(line.0) {
            *largest = (*largest).max(x.abs().to_bits());
        }
    }
    let (mut scale, mut inverse) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let bits = (f32::from_bits(largest[lane]) * (1.0 / fp4::LARGEST)).to_bits();
        // The least power of two that is not below.
        let exponent = (bits >> 23) + u32::from(bits & 0x7f_ffff != 0);
        let finite = largest[lane] < f32::INFINITY.to_bits();
        scale[lane] = if finite { f32::from_bits(exponent << 23) } else { f32::NAN };
        inverse[lane] = if finite { f32::from_bits((254 - exponent.min(254)) << 23) } else { 0.0 };
    }
    (scale, inverse)
}

/// Twice the FP4 value nearest to `x`, ties to the even code: each threshold passed adds a step.
#[inline(always)]
fn doubled(x: f32) -> i32 {
    let m = x.abs();
    let ones = i32::from(m > 0.25) + i32::from(m >= 0.75) + i32::from(m > 1.25) + i32::from(m >= 1.75);
    let magnitude = ones + 2 * i32::from(m > 2.5) + 2 * i32::from(m >= 3.5) + 4 * i32::from(m > 5.0);
    if x < 0.0 { -magnitude } else { magnitude }
}
