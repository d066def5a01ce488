//! How fast rows of weights are consumed: the roof is the machine's memory bandwidth when the
//! weights come from memory, and the arithmetic of one core when they come from the cache.
//!
//! `read` is the first roof, in the same minute. `cold` walks through 256 MB of weights, `hot`
//! repeats one 64-row tile; both multiply by one column, as decode does. `columns` multiplies a hot
//! tile by more columns, where items are multiply-accumulates. `DS4_ISA=avx2` takes another instruction set
//! than the best.

use cpu::dot::{Acts, Matrix, Rounding, matmul};
use cpu::isa::{self, Isa, Kernel};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use quants::Format;

fn main() {
    if let Ok(name) = std::env::var("DS4_ISA") {
        isa::choose(&name).expect("an instruction set of this CPU");
    }
    divan::main();
}

const FORMATS: [Format; 11] = Format::ALL;
const K: usize = 4096;
const TILE: usize = 64;

/// Blocks of varied codes whose scales are neither tiny nor huge.
fn weights(format: Format, rows: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(K).expect("whole blocks");
    let mut row: Vec<u8> = (0..row_bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let x: Vec<f32> = (0..K).map(|i| (i % 23) as f32 - 11.0).collect();
    if format.encode_row(&x, &mut row).is_err() {
        // No encoder yet: f16 scales lie at one end of the block or the other.
        for block in row.chunks_exact_mut(format.block_bytes()) {
            let end = block.len() - 2;
            for at in [0, 2, end - 2, end] {
                block[at..at + 2].copy_from_slice(&[0x00, 0x2c]); // 1/16
            }
        }
    }
    row.repeat(rows)
}

fn activations(format: Format, n: usize) -> Acts {
    // Sums of four bytes each: about as normal as activations are.
    let byte = |i: usize, by: u32| ((i as u32).wrapping_mul(by) >> 24) as f32 - 127.5;
    let factors = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f];
    let x: Vec<f32> = (0..n * K).map(|i| factors.iter().map(|by| byte(i, *by)).sum()).collect();
    Acts::new(Rounding::of(format), &x, K)
}

/// Sums 256 MB of words.
#[divan::bench(sample_count = 10)]
fn read(bencher: Bencher) {
    let words = vec![1_u64; 32 << 20];
    bencher
        .counter(BytesCount::of_slice(&words))
        .bench(|| black_box(&words).iter().copied().fold(0, u64::wrapping_add));
}

#[divan::bench(args = FORMATS, sample_count = 10)]
fn cold(bencher: Bencher, format: Format) {
    let rows = (256 << 20) / format.row_bytes(K).expect("whole blocks") / TILE * TILE;
    let bytes = weights(format, rows);
    let (w, acts) = (Matrix::new(format, K, &bytes), activations(format, 1));
    let mut out = vec![0.0; rows];
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .counter(ItemsCount::new(rows * K))
        .bench_local(|| matmul(&w, 0..rows, &acts, &[0], black_box(&mut out)));
}

#[divan::bench(args = FORMATS, sample_count = 50)]
fn hot(bencher: Bencher, format: Format) {
    let bytes = weights(format, TILE);
    let (w, acts) = (Matrix::new(format, K, &bytes), activations(format, 1));
    let mut out = vec![0.0; TILE];
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .counter(ItemsCount::new(TILE * K))
        .bench_local(|| matmul(&w, 0..TILE, &acts, &[0], black_box(&mut out)));
}

/// One format of each kind of loop, by more columns.
#[divan::bench(args = [4, 5, 6, 8, 12, 16, 64, 512], consts = [0, 1, 2, 3, 4, 5], sample_count = 20)]
fn columns<const INDEX: usize>(bencher: Bencher, n: usize) {
    const SOME: [Format; 6] =
        [Format::F16, Format::Q8_0, Format::Mxfp4, Format::Q2K, Format::Q4K, Format::Iq2Xxs];
    let format = SOME[INDEX];
    let bytes = weights(format, TILE);
    let (w, acts) = (Matrix::new(format, K, &bytes), activations(format, n));
    let cols: Vec<_> = (0..n).collect();
    let mut out = vec![0.0; TILE * n];
    bencher
        .counter(ItemsCount::new(TILE * K * n))
        .bench_local(|| matmul(&w, 0..TILE, &acts, &cols, black_box(&mut out)));
}

/// The roof of `columns`: multiply-accumulates of bytes, from registers.
#[divan::bench(sample_count = 20)]
fn peak(bencher: Bencher) {
    const ROUNDS: usize = 100_000;
    struct Peak([[u8; 64]; 2]);
    impl Kernel for Peak {
        type Output = [f32; 16];
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> [f32; 16] {
            let [w, a] = self.0.map(|x| isa.bytes(&x));
            let mut sums = [isa.splat_int(0); 12];
            for _ in 0..ROUNDS {
                for sums in &mut sums {
                    *sums = isa.dot_fours(*sums, w, a);
                }
            }
            let mut out = [0.0; 16];
            let all =
                sums.iter().fold(isa.no_floats(), |all, sums| isa.sum_floats(all, isa.as_floats(*sums)));
            isa.put_floats(all, &mut out);
            out
        }
    }
    bencher
        .counter(ItemsCount::new(ROUNDS * 12 * 64))
        .bench_local(|| isa::dispatch(Peak(black_box([[3; 64], [1; 64]]))));
}
