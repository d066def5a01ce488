//! Scores of random queries and keys: the formula, and the same bits everywhere.

use super::*;
use crate::rows::Rows;
use crate::test_random::Random;
use model::kv::RowLayout;
use model::ops::Blocks;

const BLOCK_LEN: usize = 64;

/// Keys of one layout, and what some tokens ask of them.
struct Case {
    layout: RowLayout,
    keys: [Rows; 2],
    start: usize,
    query: IndexQuery<Array>,
}

impl Case {
    /// `n` tokens from position `start` on, one key each.
    fn random(layout: RowLayout, heads: usize, start: usize, n: usize, seed: u64) -> Case {
        let mut random = Random(seed);
        let width = layout.width();
        let u = Array::new(random.floats(n * heads * width), heads * width);
        let a = Array::new(random.floats(n * heads), heads);
        let mut rows = |count: usize| {
            let mut rows = Rows::new(layout);
            (0..count).for_each(|_| rows.push(&random.floats(width)));
            rows
        };
        let all = start + n;
        let keys = [rows(all.min(BLOCK_LEN)), rows(all.saturating_sub(BLOCK_LEN))];
        Case { layout, keys, start, query: IndexQuery { u, a } }
    }

    fn view(&self) -> IndexView<'_, Cpu> {
        let blocks = self.keys.iter().take(if self.keys[1].is_empty() { 1 } else { 2 }).collect();
        IndexView {
            rows: 0..self.query.a.n(),
            start: self.start,
            ratio: 1,
            keys: Blocks { blocks, block_len: BLOCK_LEN },
        }
    }

    /// The score of a key, in f64, and the sum of the magnitudes that make it up.
    fn score(&self, i: usize, key: usize) -> (f64, f64) {
        let (width, view) = (self.layout.width(), self.view());
        let (rows, at) = view.keys.find(key);
        let mut e = vec![0.0; width];
        rows.decode(at, &mut e);
        let (mut score, mut size) = (0.0, 0.0);
        for (u, &a) in self.query.u.row(i).chunks_exact(width).zip(self.query.a.row(i)) {
            let mut u = u.to_vec();
            if self.layout.is_rotated() {
                self.layout.round(&mut u);
            }
            let products = || u.iter().zip(&e).map(|(&u, &e)| f64::from(u) * f64::from(e));
            score += f64::from(a) * products().sum::<f64>().max(0.0);
            size += f64::from(a.abs()) * products().map(f64::abs).sum::<f64>();
        }
        (score, size)
    }
}

fn cases() -> Vec<Case> {
    let layouts = [
        RowLayout::Index4 { width: 32 },
        RowLayout::Index4 { width: 128 },
        RowLayout::Index4 { width: 256 },
        RowLayout::F32 { width: 24 },
        RowLayout::F16 { width: 128 },
    ];
    let mut cases = vec![];
    for (seed, layout) in (0..).zip(layouts) {
        for (heads, start, n) in [(1, 0, 20), (3, 29, 4), (16, 60, 17), (64, 100, 9)] {
            cases.push(Case::random(layout, heads, start, n, seed + heads as u64));
        }
    }
    cases
}

/// The scores of one token for all keys, as bits.
#[derive(Clone)]
struct Scores<'a>(&'a Case, usize);

impl Kernel for Scores<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Vec<u32> {
        let Scores(case, i) = self;
        let (view, count) = (case.view(), case.view().keys.len());
        let (mut queries, mut keys) = (Queries::default(), Keys::default());
        queries.set(isa, &case.query, 0..case.query.a.n(), case.layout);
        let mut scores = vec![];
        for first in (0..count).step_by(LANES) {
            keys.load(isa, (first..count.min(first + LANES)).map(|key| view.keys.find(key)));
            let mut line = Line::default();
            isa.put_floats(queries.score(isa, i, &keys), &mut line.0);
            scores.extend(line.0.map(f32::to_bits));
        }
        scores.truncate(count);
        scores
    }
}

#[test]
fn scores_are_those_of_the_formula() {
    for case in cases() {
        for i in [0, case.query.a.n() - 1] {
            for (key, bits) in isa::dispatch(Scores(&case, i)).into_iter().enumerate() {
                let ((want, size), got) = (case.score(i, key), f64::from(f32::from_bits(bits)));
                assert!((got - want).abs() <= 2e-6 * size, "{:?}, key {key}: {got} {want}", case.layout);
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for case in cases() {
        let want = Scores(&case, 2).eval(isa::Scalar);
        for (level, got) in isa::on_each(Scores(&case, 2)) {
            assert!(got == want, "{level}: {:?}", case.layout);
        }
    }
}

/// A key or a query that is not finite counts as one without a product, and harms no other.
#[test]
fn what_is_not_finite_stays_by_itself() {
    let layout = RowLayout::Index4 { width: 64 };
    let mut case = Case::random(layout, 4, 20, 2, 7);
    let clean = isa::dispatch(Scores(&case, 0));
    let mut key = vec![0.5; 64];
    key[3] = f32::NAN;
    case.keys[0].truncate(5);
    case.keys[0].push(&key);
    let scores = isa::dispatch(Scores(&case, 0));
    assert_eq!((&scores[..5], scores[5]), (&clean[..5], 0.0f32.to_bits()));
    case.query.u.data[0] = f32::INFINITY;
    assert!(isa::dispatch(Scores(&case, 0)).into_iter().all(|bits| f32::from_bits(bits).is_finite()));
}

/// The picks are what sorting the scores finds, for many tokens at once and for each alone.
#[test]
fn picks_are_the_largest_scores() {
    let top_k = 12;
    for case in cases() {
        let scores: Vec<Vec<f32>> = (0..case.query.a.n())
            .map(|i| isa::dispatch(Scores(&case, i)).into_iter().map(f32::from_bits).collect())
            .collect();
        let want: Vec<Vec<u32>> = scores
            .iter()
            .enumerate()
            .map(|(i, scores)| crate::select::largest(&scores[..case.start + i + 1], top_k))
            .collect();
        for threads in [1, 2, 6] {
            let cpu = Cpu::new(Some(threads));
            let got = pick(&cpu, &case.query, &[case.view()], top_k);
            assert!(got.rows().eq(want.iter()), "{threads} threads");
            let views: Vec<_> = (0..case.query.a.n())
                .map(|i| IndexView { rows: i..i + 1, start: case.start + i, ..case.view() })
                .collect();
            let got = pick(&cpu, &case.query, &views, top_k);
            assert!(got.rows().eq(want.iter()), "tokens alone, {threads} threads");
        }
    }
}
