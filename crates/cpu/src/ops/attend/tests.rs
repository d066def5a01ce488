//! Attention over random rows: the formula, the same bits on every instruction set and however it is shared out.

use super::*;
use crate::rows::Rows;
use crate::test_random::Random;
use model::Matrix;
use model::kv::RowLayout;
use model::ops::Blocks;
use model::rope::Rope;
use model::weights::Norm;
use quants::Format;

/// Rows of one layout, and what some tokens ask of them.
struct Case {
    shape: Shape,
    window: Rows,
    /// Two blocks, the second not full.
    compressed: Option<[Rows; 2]>,
    start: usize,
    q: Array,
    sinks: Vec<f32>,
    picks: Option<Picks>,
}

const WINDOW: usize = 20;
const RATIO: usize = 4;
const BLOCK_LEN: usize = 64;

impl Case {
    /// `n` tokens from position `start` on; in a layer that compresses, a token picks every third row.
    fn random(layout: RowLayout, heads: usize, start: usize, n: usize, compresses: bool, seed: u64) -> Case {
        let mut random = Random(seed);
        let width = layout.width();
        let mut rows = |count: usize| {
            let mut rows = Rows::new(layout);
            (0..count).for_each(|_| rows.push(&random.floats(width)));
            rows
        };
        let window = rows(start + n);
        let all = (start + n) / RATIO;
        let compressed = compresses.then(|| [rows(BLOCK_LEN), rows(all.saturating_sub(BLOCK_LEN))]);
        let mut picks = Picks::default();
        for i in 0..n {
            let visible = (start + i + 1) / RATIO;
            picks.push(&(0..visible as u32).filter(|w| (w + i as u32).is_multiple_of(3)).collect::<Vec<_>>());
        }
        Case {
            shape: Shape { heads, width },
            window,
            compressed,
            start,
            q: Array::new(random.floats(n * heads * width), heads * width),
            sinks: random.floats(heads),
            picks: (compresses && seed.is_multiple_of(2)).then_some(picks),
        }
    }

    fn view(&self) -> KvView<'_, Cpu> {
        KvView {
            rows: 0..self.q.n(),
            start: self.start,
            window: &self.window,
            window_base: 0,
            window_len: WINDOW,
            compressed: self
                .compressed
                .as_ref()
                .map(|blocks| (Blocks { blocks: blocks.iter().collect(), block_len: BLOCK_LEN }, RATIO)),
        }
    }

    /// Only row `i`.
    fn view_of(&self, i: usize) -> KvView<'_, Cpu> {
        KvView { rows: i..i + 1, start: self.start + i, ..self.view() }
    }

    fn attention(&self) -> Attention<Cpu> {
        let matrix = || Matrix {
            name: "unused".to_owned(),
            format: Format::F32,
            rows: 0,
            cols: 0,
            bytes: Vec::new().into(),
        };
        let norm = || Norm { weight: Array::new(Vec::new(), 1), eps: 0.0 };
        Attention {
            q_a: matrix(),
            q_a_norm: norm(),
            q_b: matrix(),
            kv: matrix(),
            kv_norm: norm(),
            sinks: Array::new(self.sinks.clone(), self.shape.heads),
            out_a: matrix(),
            out_b: matrix(),
            heads: self.shape.heads,
            head_dim: self.shape.width,
            groups: 1,
            compressor: None,
            indexer: None,
        }
    }

    fn angles(&self) -> Angles {
        Rope::new(8, 1e4, None).angles(self.start..self.start + self.q.n())
    }

    fn attend(&self, cpu: &Cpu, views: &[KvView<'_, Cpu>]) -> Array {
        let mut out = Array::zeros(self.q.n(), self.q.width);
        let rows = Shards::new(&mut out.data);
        attend(
            cpu,
            &self.q,
            views,
            self.picks.as_ref(),
            &self.attention(),
            &self.angles(),
            &|i, g, heads| {
                assert_eq!((g, heads.len()), (0, self.q.width), "one group");
                // SAFETY: each row is finished once.
                unsafe { rows.part(i * heads.len(), heads.len()) }.copy_from_slice(heads);
            },
        );
        out
    }

    /// The formula in f64, before turning back.
    fn head(&self, i: usize, head: usize) -> Vec<f64> {
        let width = self.shape.width;
        let view = self.view_of(i);
        let mut seen = vec![];
        let mut see = |rows: &Rows, at: usize| {
            let mut row = vec![0.0; width];
            rows.decode(at, &mut row);
            seen.push(row);
        };
        let position = self.start + i;
        ((position + 1).saturating_sub(WINDOW)..=position).for_each(|p| see(&self.window, p));
        if let Some((blocks, _)) = &view.compressed {
            let all: Vec<u32> = (0..((position + 1) / RATIO) as u32).collect();
            for &w in self.picks.as_ref().map_or(&*all, |picks| picks.row(i)) {
                let (rows, at) = blocks.find(w as usize);
                see(rows, at);
            }
        }
        let q = &self.q.row(i)[head * width..][..width];
        let score = |row: &Vec<f32>| {
            let dot: f64 = q.iter().zip(row).map(|(&q, &x)| f64::from(q) * f64::from(x)).sum();
            (dot / (width as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = seen.iter().map(score).collect();
        let sum = weights.iter().sum::<f64>() + f64::from(self.sinks[head]).exp();
        let component = |c: usize| {
            seen.iter().zip(&weights).map(|(row, weight)| f64::from(row[c]) * weight).sum::<f64>() / sum
        };
        (0..width).map(component).collect()
    }
}

/// Cases of every layout, with whole and broken vectors of heads and components.
fn cases() -> Vec<Case> {
    let layouts = [
        RowLayout::F32 { width: 40 },
        RowLayout::F16 { width: 72 },
        RowLayout::Latent8 { width: 80, rope: 16 },
        RowLayout::Latent8 { width: 512, rope: 64 },
    ];
    let mut cases = vec![];
    for (seed, layout) in (0..).zip(layouts) {
        for (heads, start, n) in [(1, 0, 7), (5, 3, 9), (16, 17, 8), (20, 250, 11), (48, 300, 5)] {
            cases.push(Case::random(layout, heads, start, n, start > 3, 2 * seed + heads as u64 % 3));
        }
    }
    cases
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn it_is_the_formula() {
    let cpu = Cpu::new(Some(2));
    for case in cases() {
        let (angles, got) = (case.angles(), case.attend(&cpu, &[case.view()]));
        for i in 0..got.n() {
            for (head, got) in got.row(i).chunks_exact(case.shape.width).enumerate() {
                let mut want: Vec<f32> = case.head(i, head).into_iter().map(|x| x as f32).collect();
                angles.rotate_back(i, &mut want);
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{:?} row {i} head {head}: {worst:e}", case.shape);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_on_any_number_of_threads() {
    for case in cases() {
        let want = bits(&case.attend(&Cpu::new(Some(1)), &[case.view()]).data);
        for threads in [1, 2, 5] {
            let cpu = Cpu::new(Some(threads));
            assert!(bits(&case.attend(&cpu, &[case.view()]).data) == want, "{threads} threads");
            let views: Vec<_> = (0..case.q.n()).map(|i| case.view_of(i)).collect();
            assert!(bits(&case.attend(&cpu, &views).data) == want, "rows alone on {threads} threads");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    #[derive(Clone)]
    struct AttendTo<'a>(&'a Case, usize);
    impl Kernel for AttendTo<'_> {
        type Output = Vec<u32>;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> Vec<u32> {
            let AttendTo(case, i) = self;
            let view = case.view();
            let seen = Seen::new(&view, case.picks.as_ref(), i);
            let token = Token { shape: case.shape, q: case.q.row(i), sinks: &case.sinks, seen };
            let mut scratch = Scratch::default();
            Whole { token: &token, scratch: &mut scratch }.eval(isa);
            let mut out = vec![0.0; case.q.width];
            token.finish(&scratch.out, |_| {}, 0, &mut out);
            bits(&out)
        }
    }
    for case in cases() {
        let want = AttendTo(&case, 4).eval(isa::Scalar);
        for (level, got) in isa::on_each(AttendTo(&case, 4)) {
            assert!(got == want, "{level}: {:?}", case.shape);
        }
    }
}
