//! Panels of formats with blocks of 32: the scales of both sides meet the sums of a block.

use super::{LANES, Panelled, Scratch, each, fours, run, transpose};
use crate::dot::acts::Chunk32;
use crate::dot::pair::{PairTile, Paired};
use crate::isa::{Isa, Line};

/// Two neighbouring blocks of 32 of each row.
#[derive(Clone)]
#[repr(C, align(64))]
pub(in crate::dot) struct PairPart {
    /// Four weights of each row a line, as [`Isa::stored`] has them.
    w: [Line; 16],
    /// The scales of the first blocks and of the second.
    d: [[f32; LANES]; 2],
    /// Whether these are powers of two that are [`tame`].
    powers: bool,
}

impl PairPart {
    const ZERO: Self = Self { w: [Line::ZERO; 16], d: [[0.0; LANES]; 2], powers: false };
}

impl<B: Paired> Panelled for PairTile<B> {
    type Part = PairPart;

    fn of(scratch: &mut Scratch) -> &mut [Vec<PairPart>; 2] {
        &mut scratch.pairs
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: [&[B]; LANES], panel: &mut Vec<PairPart>) {
        let blocks = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == blocks));
        panel.resize(blocks.div_ceil(2), PairPart::ZERO);
        let zero = B::ZERO;
        for (p, part) in panel.iter_mut().enumerate() {
            let mut blocks = [[&zero; LANES]; 2];
            for (half, blocks) in blocks.iter_mut().enumerate() {
                for (block, row) in blocks.iter_mut().zip(&rows) {
                    *block = row.get(2 * p + half).unwrap_or(&zero);
                }
            }
            for (half, blocks) in blocks.iter().enumerate() {
                for (four, d) in blocks.as_chunks().0.iter().zip(part.d[half].as_chunks_mut().0) {
                    *d = B::scales(isa, *four);
                }
            }
            let [first, second] = part.w.as_chunks_mut().0 else { unreachable!("16 lines") };
            if !(B::unpack_sixteen(isa, blocks[0], first) && B::unpack_sixteen(isa, blocks[1], second)) {
                let mut staged = [Line::ZERO; LANES];
                for (i, staged) in staged.iter_mut().enumerate() {
                    isa.put_bytes(isa.stored(B::unpack(isa, [blocks[0][i], blocks[1][i]])), &mut staged.0);
                }
                transpose(isa, &staged, &mut part.w);
            }
            part.powers = B::POWERS && part.d.iter().all(|d| d.iter().fold(true, |all, &d| all & tame(d)));
        }
    }

    #[inline(always)]
    fn panel_products<I: Isa, const P: usize, const C: usize>(
        isa: I,
        panels: [&[PairPart]; P],
        cols: [&[Chunk32]; C],
    ) -> [[I::Floats; C]; P] {
        let pairs = panels[0].len();
        assert!(panels.iter().all(|panel| panel.len() == pairs));
        assert!(cols.iter().all(|col| 4 * col.len() >= pairs));
        let mut totals = [[isa.no_floats(); C]; P];
        let mut tame_chunks = false;
        for pair in 0..pairs {
            let (parts, chunks) = (each(panels, pair), each(cols, pair / 4));
            if B::POWERS && pair.is_multiple_of(4) {
                tame_chunks = true;
                for chunk in chunks {
                    for &scale in chunk.scale.as_flattened() {
                        tame_chunks &= tame(scale);
                    }
                }
            }
            let mut powers = tame_chunks;
            for part in parts {
                powers &= part.powers;
            }
            for half in 0..2 {
                let mut sums = [[isa.splat_int(0); C]; P];
                for c in 0..C {
                    if I::PAIR_BIASED {
                        let unbias = isa.splat_int(chunks[c].unbias[pair % 4][half]);
                        for sums in &mut sums {
                            sums[c] = unbias;
                        }
                    }
                }
                let mut w: [&[Line; 8]; P] = [run(&parts[0].w, half); P];
                for p in 1..P {
                    w[p] = run(&parts[p].w, half);
                }
                let mut a = [fours(&chunks[0].q[pair % 4], half); C];
                for c in 1..C {
                    a[c] = fours(&chunks[c].q[pair % 4], half);
                }
                if !isa.dot_run::<true, 8, P, C>(B::LARGEST, w, a, None, &mut sums) {
                    for i in 0..8 {
                        let mut weights = [isa.loaded(isa.bytes(&w[0][i].0)); P];
                        for p in 1..P {
                            weights[p] = isa.loaded(isa.bytes(&w[p][i].0));
                        }
                        for c in 0..C {
                            let a = isa.fours(&a[c][i]);
                            for p in 0..P {
                                sums[p][c] = isa.dot_fours_signed(sums[p][c], weights[p], a);
                            }
                        }
                    }
                }
                for p in 0..P {
                    let d = isa.floats(&parts[p].d[half]);
                    for c in 0..C {
                        let a = isa.splat_float(chunks[c].scale[pair % 4][half]);
                        let scale = if powers { isa.times_power(a, d) } else { isa.product(d, a) };
                        let product = isa.product(scale, isa.as_floats(sums[p][c]));
                        totals[p][c] = isa.sum_floats(totals[p][c], product);
                    }
                }
            }
        }
        totals
    }
}

/// Whether a scale is positive and so far from the least and the largest numbers that a product of two is normal.
#[inline(always)]
fn tame(scale: f32) -> bool {
    const LEAST: u32 = (127 - 60) << 23;
    const MOST: u32 = (127 + 60) << 23;
    scale.to_bits().wrapping_sub(LEAST) <= MOST - LEAST
}
