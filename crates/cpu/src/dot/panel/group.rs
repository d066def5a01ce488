//! Panels of formats with blocks of 256.
//!
//! Where the integer scales fit into the weights' bytes they are multiplied in, and a block is one sum of
//! bytes; elsewhere they multiply sums of 32 or 16 products. Minima meet the activation sums as 16-bit numbers.

use super::{LANES, Panelled, Scratch, each, fours, run, transpose};
use crate::dot::acts::Chunk256;
use crate::dot::group::{GroupTile, Grouped, Scales};
use crate::isa::{Isa, Line};

/// A block of 256 of each row.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct GroupPart {
    /// Four weights of each row a line, in the order of a group.
    pub w: [[Line; 16]; 4],
    /// The integer scales as i32, by 32 or 16 weights. Those by 32 are followed by the minima as i16, of two
    /// neighbouring 32 together, and by the scales once more as i16: those of `32 v..` and `128 + 32 v..` together.
    /// Where scales are folded in, the second half are the minima, of two neighbouring 16 together.
    pub numbers: [Line; 16],
    /// The unit of the scales.
    pub d: [f32; LANES],
    /// The unit of the minima.
    pub dmin: [f32; LANES],
}

impl GroupPart {
    pub(super) const ZERO: Self =
        Self { w: [[Line::ZERO; 16]; 4], numbers: [Line::ZERO; 16], d: [0.0; LANES], dmin: [0.0; LANES] };
}

/// Unpacks a block of each row, one row after the other.
#[inline(always)]
fn unpack_by_rows<I: Isa, B: Grouped>(isa: I, blocks: [&B; LANES], part: &mut GroupPart) {
    let mut staged = [[Line::ZERO; LANES]; 4];
    let mut numbers = [Line::ZERO; LANES];
    for (r, block) in blocks.into_iter().enumerate() {
        let group = block.unpack(isa);
        for (v, staged) in staged.iter_mut().enumerate() {
            let mut w = group.w[v];
            if let Scales::Folded = B::SCALES {
                w = isa.scale_bytes(w, &group.scale, v);
            }
            isa.put_bytes(w, &mut staged[r].0);
        }
        let (mut scales, mut offsets) = ([0; 16], [0; 16]);
        isa.put_sixteen(group.by_sixteen, &mut scales);
        isa.put_sixteen(group.offset, &mut offsets);
        put_numbers::<B>(&scales, &offsets, numbers[r].0.as_chunks_mut().0);
    }
    for (staged, w) in staged.iter().zip(&mut part.w) {
        transpose(isa, staged, w);
    }
    transpose(isa, &numbers, &mut part.numbers);
    for four in 0..LANES / 4 {
        let block = |i: usize| blocks[4 * four + i];
        let d = isa.f16x4([block(0).d(), block(1).d(), block(2).d(), block(3).d()]);
        part.d[4 * four..][..4].copy_from_slice(&d);
        if B::MINIMA {
            let dmin = isa.f16x4([block(0).dmin(), block(1).dmin(), block(2).dmin(), block(3).dmin()]);
            part.dmin[4 * four..][..4].copy_from_slice(&dmin);
        }
    }
}

/// Puts the scales and minima of a row, each by 16 weights, in the order of [`GroupPart::numbers`].
#[inline(always)]
fn put_numbers<B: Grouped>(scales: &[i16; 16], minima: &[i16; 16], words: &mut [[u8; 4]]) {
    let by_32 = matches!(B::SCALES, Scales::By32);
    if by_32 {
        for j in 0..8 {
            words[j] = i32::from(scales[2 * j]).to_le_bytes();
        }
        for v in 0..4 {
            words[12 + v] = two_words([scales[2 * v], scales[2 * (4 + v)]]);
        }
    } else if let Scales::By16 = B::SCALES {
        for j in 0..16 {
            words[j] = i32::from(scales[j]).to_le_bytes();
        }
    }
    if B::MINIMA && by_32 {
        for i in 0..4 {
            words[8 + i] = two_words([minima[4 * i], minima[4 * i + 2]]);
        }
    } else if B::MINIMA {
        for i in 0..8 {
            words[8 + i] = two_words([minima[2 * i], minima[2 * i + 1]]);
        }
    }
}

impl<B: Grouped> Panelled for GroupTile<B> {
    type Part = GroupPart;

    fn of(scratch: &mut Scratch) -> &mut [Vec<GroupPart>; 2] {
        &mut scratch.groups
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: [&[B]; LANES], panel: &mut Vec<GroupPart>) {
        let count = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == count));
        panel.resize(count, GroupPart::ZERO);
        for (g, part) in panel.iter_mut().enumerate() {
            let blocks = each(rows, g);
            if !B::unpack_sixteen(isa, blocks, part) {
                unpack_by_rows(isa, blocks, part);
            }
        }
    }

    #[inline(always)]
    fn panel_products<I: Isa, const P: usize, const C: usize>(
        isa: I,
        panels: [&[GroupPart]; P],
        cols: [&[Chunk256]; C],
    ) -> [[I::Floats; C]; P] {
        let blocks = panels[0].len();
        assert!(panels.iter().all(|panel| panel.len() == blocks));
        assert!(cols.iter().all(|col| col.len() == blocks));
        let mut totals = [[isa.no_floats(); C]; P];
        for g in 0..blocks {
            let (parts, chunks) = (each(panels, g), each(cols, g));
            let sums = block_sums::<I, B, P, C>(isa, parts, chunks);
            let minima = if B::MINIMA { block_minima::<I, B, P, C>(isa, parts, chunks) } else { sums };
            for p in 0..P {
                let (d, dmin) = (isa.floats(&parts[p].d), isa.floats(&parts[p].dmin));
                for c in 0..C {
                    let a = isa.splat_float(chunks[c].scale);
                    let mut product = isa.product(isa.product(d, a), isa.as_floats(sums[p][c]));
                    if B::MINIMA {
                        let min = isa.product(isa.product(dmin, a), isa.as_floats(minima[p][c]));
                        product = isa.difference(product, min);
                    }
                    totals[p][c] = isa.sum_floats(totals[p][c], product);
                }
            }
        }
        totals
    }
}

/// `Σ_i s[i/16] w[i] q[i]` of a block, with what makes weights unsigned taken off again.
#[inline(always)]
fn block_sums<I: Isa, B: Grouped, const P: usize, const C: usize>(
    isa: I,
    parts: [&GroupPart; P],
    chunks: [&Chunk256; C],
) -> [[I::Ints; C]; P] {
    let mut sums = [[isa.splat_int(0); C]; P];
    match B::SCALES {
        Scales::Folded => {
            for v in 0..4 {
                let (w, a) = run_of::<16, P, C>(parts, chunks, v, 0);
                add_run::<I, B, 16, P, C>(isa, w, a, &mut sums);
            }
        }
        Scales::By32 => {
            const { assert!(B::BIAS == 0 || !matches!(B::SCALES, Scales::By32), "a bias by 32 weights") };
            let mut fit = I::TWO_TIMES;
            for chunk in chunks {
                fit &= chunk.sums_fit(B::LARGEST);
            }
            if fit {
                add_halves_together(isa, parts, chunks, &mut sums);
                return sums;
            }
            for v in 0..4 {
                for half in 0..2 {
                    let mut scale = [&parts[0].numbers[v + 4 * half]; P];
                    for p in 1..P {
                        scale[p] = &parts[p].numbers[v + 4 * half];
                    }
                    let (w, a) = run_of::<8, P, C>(parts, chunks, v, half);
                    if !isa.dot_run::<false, 8, P, C>(B::LARGEST, w, a, Some(scale), &mut sums) {
                        let mut step = [[isa.splat_int(0); C]; P];
                        add_run::<I, B, 8, P, C>(isa, w, a, &mut step);
                        add_scaled(isa, parts, v + 4 * half, &step, &mut sums);
                    }
                }
            }
        }
        Scales::By16 => {
            for v in 0..4 {
                for quarter in 0..4 {
                    let j = 2 * v + 8 * (quarter / 2) + quarter % 2;
                    let mut step = [[isa.splat_int(0); C]; P];
                    for c in 0..C {
                        let bias = isa.splat_int(-B::BIAS * i32::from(chunks[c].sum[j]));
                        for step in &mut step {
                            step[c] = bias;
                        }
                    }
                    let (w, a) = run_of::<4, P, C>(parts, chunks, v, quarter);
                    add_run::<I, B, 4, P, C>(isa, w, a, &mut step);
                    add_scaled(isa, parts, j, &step, &mut sums);
                }
            }
        }
    }
    sums
}

/// Both halves of a vector meet their scales in one operation, as sums of 32 products in 16 bits.
#[inline(always)]
fn add_halves_together<I: Isa, const P: usize, const C: usize>(
    isa: I,
    parts: [&GroupPart; P],
    chunks: [&Chunk256; C],
    sums: &mut [[I::Ints; C]; P],
) {
    for v in 0..4 {
        // Panel by panel, for the registers.
        for p in 0..P {
            let halves =
                [run_of::<8, 1, C>([parts[p]], chunks, v, 0), run_of::<8, 1, C>([parts[p]], chunks, v, 1)];
            let mut steps = [[isa.splat_int(0); 2]; C];
            for i in 0..8 {
                for (half, ([w], a)) in halves.iter().enumerate() {
                    let w = isa.bytes(&w[i].0);
                    for c in 0..C {
                        steps[c][half] = isa.dot_fours(steps[c][half], w, isa.fours(&a[c][i]));
                    }
                }
            }
            let scales = isa.bytes(&parts[p].numbers[12 + v].0);
            for c in 0..C {
                sums[p][c] = isa.add_two_times(sums[p][c], steps[c], scales);
            }
        }
    }
}

/// The `i`-th `N` lines of vector `v` of each panel, and the activations that they meet.
#[inline(always)]
fn run_of<'a, const N: usize, const P: usize, const C: usize>(
    parts: [&'a GroupPart; P],
    chunks: [&'a Chunk256; C],
    v: usize,
    i: usize,
) -> ([&'a [Line; N]; P], [&'a [[i8; 4]; N]; C]) {
    let mut w = [run(&parts[0].w[v], i); P];
    for p in 1..P {
        w[p] = run(&parts[p].w[v], i);
    }
    let mut a = [fours(&chunks[0].q[v], i); C];
    for c in 1..C {
        a[c] = fours(&chunks[c].q[v], i);
    }
    (w, a)
}

/// Adds the products of a run.
#[inline(always)]
fn add_run<I: Isa, B: Grouped, const N: usize, const P: usize, const C: usize>(
    isa: I,
    w: [&[Line; N]; P],
    a: [&[[i8; 4]; N]; C],
    sums: &mut [[I::Ints; C]; P],
) {
    if isa.dot_run::<false, N, P, C>(B::LARGEST, w, a, None, sums) {
        return;
    }
    for i in 0..N {
        let mut weights = [isa.bytes(&w[0][i].0); P];
        for p in 1..P {
            weights[p] = isa.bytes(&w[p][i].0);
        }
        for c in 0..C {
            let a = isa.fours(&a[c][i]);
            for p in 0..P {
                sums[p][c] = isa.dot_fours(sums[p][c], weights[p], a);
            }
        }
    }
}

/// Adds sums times scale `j`.
#[inline(always)]
pub(super) fn add_scaled<I: Isa, const P: usize, const C: usize>(
    isa: I,
    parts: [&GroupPart; P],
    j: usize,
    step: &[[I::Ints; C]; P],
    sums: &mut [[I::Ints; C]; P],
) {
    for p in 0..P {
        let scale = isa.bytes(&parts[p].numbers[j].0);
        for c in 0..C {
            sums[p][c] = isa.add_times(sums[p][c], step[p][c], scale);
        }
    }
}

/// `Σ_j o[j] b[j]` of a block.
#[inline(always)]
fn block_minima<I: Isa, B: Grouped, const P: usize, const C: usize>(
    isa: I,
    parts: [&GroupPart; P],
    chunks: [&Chunk256; C],
) -> [[I::Ints; C]; P] {
    let mut sums = [[isa.splat_int(0); C]; P];
    let by_32 = matches!(B::SCALES, Scales::By32);
    for i in 0..if by_32 { 4 } else { 8 } {
        let mut minima = [isa.bytes(&parts[0].numbers[8 + i].0); P];
        for p in 1..P {
            minima[p] = isa.bytes(&parts[p].numbers[8 + i].0);
        }
        for c in 0..C {
            let by_16: &[[i8; 4]; 8] = zerocopy::transmute_ref!(&chunks[c].sum);
            let by_32s: &[[i8; 4]; 4] = zerocopy::transmute_ref!(&chunks[c].sum_32);
            let b = isa.fours(if by_32 { &by_32s[i] } else { &by_16[i] });
            for p in 0..P {
                sums[p][c] = isa.dot_twos(sums[p][c], minima[p], b);
            }
        }
    }
    sums
}

/// Two 16-bit numbers as four bytes.
#[inline(always)]
fn two_words([low, high]: [i16; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (low.to_le_bytes(), high.to_le_bytes());
    [a, b, c, d]
}
