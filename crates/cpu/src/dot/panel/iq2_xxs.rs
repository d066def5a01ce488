//! Panels of IQ2_XXS, in the order of [`Turned256::turned`]: so they come out of the code book, see
//! [`Isa::iq2_xxs_panel`].

use super::group::{GroupPart, add_scaled};
use super::{LANES, Panelled, Scratch, each, four};
use crate::dot::acts::Turned256;
use crate::dot::iq2_xxs::{Iq2XxsTile, UNIT};
use crate::isa::Isa;
use quants::iq2_xxs::BlockIq2Xxs;

impl Panelled for Iq2XxsTile {
    type Part = GroupPart;

    fn of(scratch: &mut Scratch) -> &mut [Vec<GroupPart>; 2] {
        &mut scratch.groups
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: [&[BlockIq2Xxs]; LANES], panel: &mut Vec<GroupPart>) {
        let blocks = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == blocks));
        panel.resize(blocks, GroupPart::ZERO);
        for (g, part) in panel.iter_mut().enumerate() {
            let mut blocks = [&rows[0][g].groups; LANES];
            for (block, row) in blocks.iter_mut().zip(&rows) {
                *block = &row[g].groups;
            }
            let scales = (&mut part.numbers[..8]).try_into().expect("eight lines");
            isa.iq2_xxs_panel(blocks, &mut part.w, scales);
            for four in 0..LANES / 4 {
                let d = |i: usize| rows[4 * four + i][g].d.get();
                let d = isa.f16x4([d(0), d(1), d(2), d(3)]).map(|d| d * UNIT);
                part.d[4 * four..][..4].copy_from_slice(&d);
            }
        }
    }

    #[inline(always)]
    fn panel_products<I: Isa, const P: usize, const C: usize>(
        isa: I,
        panels: [&[GroupPart]; P],
        cols: [&[Turned256]; C],
    ) -> [[I::Floats; C]; P] {
        let blocks = panels[0].len();
        assert!(panels.iter().all(|panel| panel.len() == blocks));
        assert!(cols.iter().all(|col| col.len() == blocks));
        let mut totals = [[isa.no_floats(); C]; P];
        for block in 0..blocks {
            let (parts, chunks) = (each(panels, block), each(cols, block));
            let mut sums = [[isa.splat_int(0); C]; P];
            for g in 0..8 {
                let mut step = [[isa.splat_int(0); C]; P];
                for c in 0..C {
                    let unbias = isa.splat_int(chunks[c].unbias[g]);
                    for step in &mut step {
                        step[c] = unbias;
                    }
                }
                for i in 0..8 {
                    let mut w = [isa.bytes(&parts[0].w[i / 2][8 * (i % 2) + g].0); P];
                    for p in 1..P {
                        w[p] = isa.bytes(&parts[p].w[i / 2][8 * (i % 2) + g].0);
                    }
                    for c in 0..C {
                        let a = isa.fours(four(&chunks[c].turned[i], g));
                        for p in 0..P {
                            step[p][c] = isa.dot_fours(step[p][c], w[p], a);
                        }
                    }
                }
                add_scaled(isa, parts, g, &step, &mut sums);
            }
            for p in 0..P {
                let d = isa.floats(&parts[p].d);
                for c in 0..C {
                    let a = isa.splat_float(chunks[c].scale);
                    let product = isa.product(isa.product(d, a), isa.as_floats(sums[p][c]));
                    totals[p][c] = isa.sum_floats(totals[p][c], product);
                }
            }
        }
        totals
    }
}
