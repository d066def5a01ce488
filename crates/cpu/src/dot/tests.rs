//! Every format on every instruction set: the same bits as plain Rust, which in turn is the dot
//! product of decoded weights and activations.

use super::*;
use proptest::prelude::*;

/// A small generator, so that a failing case is named by its seed.
struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Where the f16 scales lie in a block.
fn f16_scales(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::BF16 | Format::Mxfp4 => &[],
        Format::F16 | Format::Q8_0 | Format::Iq2Xxs => &[0],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
    }
}

/// Random codes with finite scales of all sizes, among them zero, negative and subnormal ones.
fn weights(format: Format, count: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(count).unwrap()];
    bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
    // Kernels of MXFP4 may take another way where one of many scales is subnormal.
    let exponents = [&[0, 1, 100, 127, 140][..], &[2, 100, 127, 140, 191]][random.below(2)];
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for &at in f16_scales(format) {
            let special = [0x0000, 0x8000, 0x0001, 0x83ff, 0x3c00, 0xbc00, 0x0400, 0x7bff];
            let bits = match random.below(3) {
                0 => special[random.below(special.len())],
                _ => random.next() as u16 & 0xbfff, // below 2 in magnitude
            };
            block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        }
        match format {
            Format::Mxfp4 => block[0] = exponents[random.below(5)],
            Format::F32 => block.copy_from_slice(&random.unit().to_le_bytes()),
            Format::BF16 => block[1] &= 0xbf,
            _ => {}
        }
    }
    bytes
}

fn activations(count: usize, random: &mut Random) -> Vec<f32> {
    (0..count).map(|_| random.unit() * if random.below(50) == 0 { 20.0 } else { 1.0 }).collect()
}

/// A matrix at an odd address.
struct Case {
    format: Format,
    k: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn random(format: Format, k: usize, rows: usize, n: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut bytes = vec![0];
        bytes.append(&mut weights(format, k * rows, &mut random));
        if bytes.as_ptr().addr() % 2 == 1 {
            bytes.insert(0, 0);
        }
        Self { format, k, bytes, x: activations(k * n, &mut random) }
    }

    fn matrix(&self) -> Matrix<'_> {
        let row = self.format.row_bytes(self.k).unwrap();
        Matrix::new(self.format, self.k, &self.bytes[self.bytes.len() % row..])
    }

    fn acts(&self) -> Acts {
        Acts::new(Rounding::of(self.format), &self.x, self.k)
    }

    fn product(&self, level: Level, rows: Range<usize>, cols: &[usize]) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows.len() * cols.len()];
        matmul_at(level, &self.matrix(), rows, &self.acts(), cols, &mut out);
        out
    }

    /// The products in f64 with the sums of their terms' magnitudes, `[n, rows]`.
    fn exact(&self) -> Vec<(f64, f64)> {
        let (matrix, acts) = (self.matrix(), self.acts());
        let row_bytes = self.format.row_bytes(self.k).unwrap();
        let mut exact = vec![];
        for a in acts.decoded() {
            for bytes in matrix.bytes.chunks_exact(row_bytes) {
                let mut w = vec![0.0; self.k];
                self.format.decode_row(bytes, &mut w);
                let terms = w.iter().zip(&a).map(|(&w, &a)| f64::from(w) * f64::from(a));
                exact.push((terms.clone().sum(), terms.map(f64::abs).sum()));
            }
        }
        exact
    }

    /// All rows and columns on all instruction sets.
    fn check(&self) {
        let (rows, n) = (self.matrix().rows(), self.acts().n());
        let cols: Vec<_> = (0..n).collect();
        let want = self.product(Level::Scalar, 0..rows, &cols);
        for (i, (&got, (exact, magnitude))) in want.iter().zip(self.exact()).enumerate() {
            let error = (f64::from(got) - exact).abs();
            let subnormal = 1e-36; // a scale may leave the normal range
            assert!(
                error <= 2e-6 * magnitude + subnormal,
                "{} output {i}: {got}, exactly {exact}",
                self.format
            );
        }
        // So often that both loops come to see them.
        let many: Vec<_> = cols.iter().copied().cycle().take(13 * n).collect();
        for level in isa::available() {
            let got = self.product(level, 0..rows, &cols);
            assert_same(&got, &want, &format!("{} on {level}", self.format));
            for got in self.product(level, 0..rows, &many).chunks_exact(want.len()) {
                assert_same(got, &want, &format!("{} on {level}, many columns", self.format));
            }
        }
    }
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}: output {i} is {got:e} and not {want:e}");
    }
}

/// A row length: at most nine blocks, or any number of floats.
fn row_length(format: Format, x: usize) -> usize {
    match format.block_len() {
        1 => 1 + x % 70,
        len => len * (1 + x % 9),
    }
}

fn format() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::ALL.to_vec())
}

proptest! {
    #[test]
    fn every_isa_gives_the_scalar_bits(format in format(), length in 0_usize..630, rows in 1_usize..40, n in 1_usize..18, seed: u64) {
        Case::random(format, row_length(format, length), rows, n, seed).check();
    }

    /// A part of the work gives the bits that the whole would have given.
    #[test]
    fn an_output_does_not_depend_on_its_company(format in format(), length in 0_usize..630, first in 0_usize..6, rows in 1_usize..36, cols in proptest::collection::vec(0_usize..7, 1..20), seed: u64) {
        let case = Case::random(format, row_length(format, length), 41, 7, seed);
        for level in isa::available() {
            let got = case.product(level, first..first + rows, &cols);
            for (i, &c) in cols.iter().enumerate() {
                for r in 0..rows {
                    let alone = case.product(level, first + r..first + r + 1, &[c]);
                    assert_same(&got[i * rows + r..][..1], &alone, &format!("{format} on {level}"));
                }
            }
        }
    }

    /// Also where scales are infinite or NaN.
    #[test]
    fn hostile_bytes_give_the_same_nonsense_everywhere(format in format(), seed: u64) {
        let mut case = Case::random(format, row_length(format, 2), 5, 3, seed);
        let mut random = Random(seed);
        case.bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
        for cols in [&[0, 1, 2][..], &[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]] {
            let want = case.product(Level::Scalar, 0..5, cols);
            for level in isa::available() {
                assert_same(&case.product(level, 0..5, cols), &want, &format!("{format} on {level}"));
            }
        }
    }
}

#[test]
fn the_largest_codes_do_not_saturate() {
    for format in Format::ALL.into_iter().filter(|format| format.block_len() > 1) {
        for code in [0x00, 0x7f, 0x80, 0x81, 0xff] {
            for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                let mut case = Case::random(format, 512, 4, 1, 0);
                case.bytes.fill(code);
                let start = case.bytes.len() % format.block_bytes();
                for block in case.bytes[start..].chunks_exact_mut(format.block_bytes()) {
                    f16_scales(format)
                        .iter()
                        .for_each(|&at| block[at..at + 2].copy_from_slice(&[0x00, 0x3c]));
                    if format == Format::Mxfp4 {
                        block[0] = 127;
                    }
                }
                case.x = (0..512).map(|i| signs[i % 2]).collect();
                case.check();
            }
        }
    }
}

#[test]
fn every_code_of_every_byte_is_understood() {
    // A row per value: all codes the value, all scales another.
    for format in Format::ALL.into_iter().filter(|format| format.block_len() > 1) {
        let mut case = Case::random(format, 256, 256, 1, 1);
        let row = format.row_bytes(256).unwrap();
        let start = case.bytes.len() % row;
        for (value, bytes) in case.bytes[start..].chunks_exact_mut(row).enumerate() {
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for (i, byte) in block.iter_mut().enumerate() {
                    let scale = f16_scales(format).iter().any(|&at| i == at || i == at + 1);
                    if !(scale || format == Format::Mxfp4 && i == 0) {
                        *byte = value as u8 ^ (i as u8).wrapping_mul(37);
                    }
                }
            }
        }
        case.check();
    }
}

/// The page after the weights is mapped, but the file under it ends before: reading there is a SIGBUS.
#[test]
#[cfg(unix)]
fn nothing_is_read_after_the_last_row() {
    use std::io::Write;
    const PAGE: usize = 1 << 16; // a multiple of every page size there is
    for format in Format::ALL {
        for rows in [1, 3, 5, 16, 19] {
            let k = row_length(format, 8);
            let case = Case::random(format, k, rows, 5, 1);
            let mut file = tempfile::tempfile().unwrap();
            let weights = &case.bytes[case.bytes.len() - rows * format.row_bytes(k).unwrap()..];
            file.write_all(&vec![0; PAGE - weights.len()]).unwrap();
            file.write_all(weights).unwrap();
            // SAFETY: nobody else knows the file, so it stays as it is.
            let map = unsafe { memmap2::MmapOptions::new().len(2 * PAGE).map(&file).unwrap() };
            let matrix = Matrix::new(format, k, &map[PAGE - weights.len()..PAGE]);
            for level in isa::available() {
                for cols in [&[0, 1, 2, 3][..], &[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]] {
                    let mut out = vec![0.0; rows * cols.len()];
                    matmul_at(level, &matrix, 0..rows, &case.acts(), cols, &mut out);
                    let want = case.product(level, 0..rows, cols);
                    assert_same(&out, &want, &format!("{format} on {level}"));
                }
            }
        }
    }
}

#[test]
fn activations_round_to_the_nearest_and_keep_nan_visible() {
    let mut x: Vec<f32> = (0..512).map(|i| (i as f32 - 255.5) / 16.0).collect();
    for rounding in [Rounding::A32, Rounding::A256] {
        for (x, y) in x.iter().zip(&Acts::new(rounding, &x, 512).decoded()[0]) {
            assert!((x - y).abs() <= 16.0 / 127.0 * 0.5001, "{rounding:?}: {x} became {y}");
        }
    }
    x[300] = f32::NAN;
    let nans = |rounding| Acts::new(rounding, &x, 512).decoded()[0].iter().filter(|x| x.is_nan()).count();
    assert_eq!([Rounding::A32, Rounding::A256].map(nans), [32, 256]);
    let tiny = vec![1e-42; 256];
    assert_eq!(Acts::new(Rounding::A256, &tiny, 256).decoded()[0], vec![0.0; 256]);
}

#[test]
fn every_isa_rounds_activations_the_same() {
    let mut x = activations(1024, &mut Random(3));
    x[600..640].fill(0.0);
    x[900] = f32::INFINITY;
    for rounding in [Rounding::A32, Rounding::A256, Rounding::A256Turned] {
        let mut acts = Acts::new(rounding, &x, 1024);
        let mut by = |level| {
            acts.rows_mut().for_each(|mut row| row.set_at(level, &vec![1.0; 1024]));
            acts.rows_mut().for_each(|mut row| row.set_at(level, &x));
            format!("{:?}", acts.chunks()) // a NaN equals itself there
        };
        let want = by(Level::Scalar);
        for level in isa::available() {
            assert!(by(level) == want, "{rounding:?} on {level}");
        }
    }
}

#[test]
fn exponents_of_mxfp4_may_be_added_only_where_all_scales_are_tame() {
    let scales = [1.0, 0.0, 1e-30, 1e30, f32::NAN];
    for exponents in [[120, 130], [2, 127], [127, 255], [60, 200]] {
        for scale in scales {
            let mut case = Case::random(Format::Mxfp4, 1024, 33, 2, 5);
            let start = case.bytes.len() % 17;
            for (i, block) in case.bytes[start..].chunks_exact_mut(17).enumerate() {
                block[0] = exponents[usize::from(i % 41 == 40)];
            }
            // One part of one row of activations is like no other.
            case.x[1024 + 544..1024 + 576].iter_mut().for_each(|x| *x *= scale);
            let cols = [0, 1, 0, 1, 0, 1, 1];
            let want = case.product(Level::Scalar, 0..33, &cols);
            for level in isa::available() {
                assert_same(
                    &case.product(level, 0..33, &cols),
                    &want,
                    &format!("{exponents:?}, {scale} on {level}"),
                );
            }
        }
    }
}

#[test]
fn ties_go_to_the_even_integer() {
    let mut x = vec![0.0; 32];
    (x[0], x[1], x[2], x[3]) = (127.0, 0.5, 1.5, -2.5);
    assert_eq!(Acts::new(Rounding::A32, &x, 32).decoded()[0][..4], [127.0, 0.0, 2.0, -2.0]);
}

#[test]
#[should_panic(expected = "activations rounded for the format")]
fn the_wrong_rounding_is_our_bug() {
    let acts = Acts::new(Rounding::F32, &[0.0; 32], 32);
    matmul(&Matrix::new(Format::Q8_0, 32, &[0; 34]), 0..1, &acts, &[0], &mut [0.0]);
}
