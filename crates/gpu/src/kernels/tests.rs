//! Kernels against the CPU's meaning of the same thing, over odd sizes and seeds, on whatever device there
//! is. Whole layers are compared in `tests/model.rs`.

use super::*;
use crate::adapter::Choice;
use crate::array::{Array, Picks, Treatment};
use crate::gpu::{Gpu, Options};
use crate::kernels::linear::{Output, linear_into};
use crate::kernels::tiles::{on_matrix_units, whole_rows};
use gguf::Bytes;
use model::Ops;
use model::ops::{Blocks, IndexQuery, IndexView, KvView, Leaders, LeadersAsk, RowStore};
use model::weights::Matrix;
use quants::Format;
use std::sync::{Arc, OnceLock};

/// Devices to test on: with subgroups as they come, and without.
fn devices() -> [Gpu; 2] {
    static DEVICES: OnceLock<[Gpu; 2]> = OnceLock::new();
    let open = |subgroups| {
        let device = Choice::First;
        let exact = Options { matrices: true, bytes: Some(false), ..Options::default() };
        Gpu::open(Options { device, checks: true, subgroups, ..exact })
            .expect("a Vulkan driver; `cargo xtask setup` installs a software one")
    };
    DEVICES.get_or_init(|| [open(true), open(false)]).clone()
}

/// One whose few rows meet weights in 8 bits, if they can.
fn device_of_bytes() -> Option<Gpu> {
    let options = Options { device: Choice::First, checks: true, bytes: Some(true), ..Options::default() };
    let gpu = Gpu::open(options).expect("as above");
    if !gpu.abilities().bytes {
        println!("skipped: {} makes no products of bytes", gpu.device().name);
        return None;
    }
    Some(gpu)
}

/// The other tests here hold for subgroups of 16, too: lavapipe has those if it is told to use wider vectors, before the
/// process begins.
#[test]
fn subgroups_of_16_do_as_well() {
    const BITS: &str = "LP_NATIVE_VECTOR_WIDTH";
    let device = &devices()[0];
    if !device.device().name.starts_with("llvmpipe") {
        return println!("skipped: {} has subgroups of one size", device.device().name);
    }
    if let Ok(bits) = std::env::var(BITS) {
        return assert_eq!(32 * device.abilities().lanes, bits.parse().unwrap(), "bits of {BITS}");
    }
    let mut wider = std::process::Command::new(std::env::current_exe().unwrap());
    let said = wider.arg("kernels::tests::").env(BITS, "512").output().unwrap();
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && !out.contains("running 0 tests"), "{out}");
}

/// Numbers from a seed, of either sign, most of them below 1.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A matrix of arbitrary codes, with scales of a usual size.
pub(crate) fn random_matrix(format: Format, rows: usize, cols: usize, random: &mut Random) -> Matrix {
    let mut bytes: Vec<u8> =
        (0..rows * format.row_bytes(cols).unwrap()).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let mut half = |at: usize| {
            let d = half::f16::from_f32(0.02 * random.float());
            block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        };
        match format {
            Format::F32 => {
                let x = random.float();
                block.copy_from_slice(&x.to_le_bytes());
            }
            Format::F16 => half(0),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            Format::Q8_0 | Format::Iq2Xxs => half(0),
            Format::Q2K => [80, 82].into_iter().for_each(half),
            Format::Q3K => half(108),
            Format::Q4K | Format::Q5K => [0, 2].into_iter().for_each(half),
            Format::Q6K => half(208),
            Format::Mxfp4 => block[0] = 115 + block[0] % 12,
        }
    }
    Matrix { name: format!("{format:?}"), format, rows, cols, bytes: Bytes::from(bytes) }
}

pub(crate) fn decoded(matrix: &Matrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.rows * matrix.cols];
    let row_bytes = matrix.format.row_bytes(matrix.cols).unwrap();
    for (row, values) in matrix.bytes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(matrix.cols)) {
        matrix.format.decode_row(row, values);
    }
    values
}

/// How far the product of so many rows may be from the exact one, of the sum of its magnitudes. Through matrix units
/// both factors are rounded to the 11 bits of f16, unless weights are f16 themselves: then rows are two halves.
fn limit(gpu: &Gpu, format: Format, n: usize) -> f64 {
    let on_units = n > crate::kernels::linear::FEW && on_matrix_units(&gpu.0, format);
    match on_units {
        true if whole_rows(format) => 4e-6,
        true => 1.0 / 1024.0,
        false => 2e-6,
    }
}

/// Holds a product to the sum of its magnitudes.
pub(crate) fn assert_near(got: &[f32], w: &[f32], x: &[f32], cols: usize, limit: f64, what: &str) {
    let rows = w.len() / cols;
    for (i, (got, x)) in got.chunks_exact(rows).zip(x.chunks_exact(cols)).enumerate() {
        for (o, (got, w)) in got.iter().zip(w.chunks_exact(cols)).enumerate() {
            let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let error = (f64::from(*got) - want).abs();
            assert!(
                error <= limit * size + 1e-7 * limit,
                "{what}: output {o} of row {i} is {got}, not {want}"
            );
        }
    }
}

#[test]
fn products_are_those_of_the_decoded_weights_in_every_format() {
    for gpu in devices() {
        for (seed, format) in (1..).zip(Format::ALL) {
            let random = &mut Random(seed);
            let cols = format.block_len().max(32) * 3;
            let matrix = random_matrix(format, 75, cols, random);
            let w = decoded(&matrix);
            let on_device = gpu.matrix(matrix).unwrap();
            for n in [1, 2, 3, 5, 8, 9, 65, 130] {
                let x = random.floats(n * cols);
                let array = gpu.array(x.clone(), cols).unwrap();
                let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&on_device), &array);
                let what = format!("{format:?}, {n} rows, {:?}", gpu.abilities());
                assert_near(&gpu.read(&y).unwrap(), &w, &x, cols, limit(&gpu, format, n), &what);
            }
        }
    }
}

#[test]
fn a_product_takes_norm_scale_bias_and_groups_along() {
    for gpu in devices() {
        for n in [1, 4, 70] {
            let random = &mut Random(n as u64);
            let (cols, rows) = (64, 96);
            let matrix = random_matrix(Format::Q8_0, rows, cols, random);
            let w = decoded(&matrix);
            let matrix = gpu.matrix(matrix).unwrap();
            let x = random.floats(n * cols);
            let array = gpu.array(x.clone(), cols).unwrap();
            let (weight, eps) = (random.floats(cols), 1e-6f32);
            let on_device = gpu.array(weight.clone(), cols).unwrap();
            let normed: Vec<f32> = x
                .chunks_exact(cols)
                .flat_map(|x| {
                    let scale = cpu::reference::inverse_rms(x, eps);
                    x.iter().zip(&weight).map(move |(x, w)| x * scale * w).collect::<Vec<_>>()
                })
                .collect();
            let run = |what: &Linear<'_>, x: &Array, width, offset| {
                let y = Array::empty(&gpu.0, n, width);
                linear_into(&gpu.0, &mut gpu.0.recorder(), what, x, &y, offset);
                gpu.read(&y).unwrap()
            };
            let what = Linear { norm: Some((&on_device, eps)), ..Linear::new(&matrix) };
            let limit = limit(&gpu, Format::Q8_0, n);
            assert_near(&run(&what, &array, rows, 0), &w, &normed, cols, limit, "normed");

            let bias = random.floats(3 * rows);
            let on_device = gpu.array(bias.clone(), rows).unwrap();
            let which: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
            let what = Linear { scale: 0.5, bias: Some((&on_device, &which)), ..Linear::new(&matrix) };
            let got: Vec<f32> = run(&what, &array, rows + 5, 5)
                .chunks_exact(rows + 5)
                .zip(&which)
                .flat_map(|(y, &b)| {
                    y[5..]
                        .iter()
                        .zip(&bias[b as usize * rows..])
                        .map(|(y, b)| 2.0 * (y - b))
                        .collect::<Vec<_>>()
                })
                .collect();
            let near: Vec<f32> = x.clone();
            for (i, (got, x)) in got.chunks_exact(rows).zip(near.chunks_exact(cols)).enumerate() {
                for (o, got) in got.iter().enumerate() {
                    let want: f32 = w[o * cols..][..cols].iter().zip(x).map(|(w, x)| w * x).sum();
                    assert!(
                        f64::from(got - want).abs() < 50.0 * limit,
                        "bias: output {o} of row {i} is {got}, not {want}"
                    );
                }
            }

            let wide = random.floats(n * 3 * cols);
            let array = gpu.array(wide.clone(), 3 * cols).unwrap();
            let got = run(&Linear { groups: 3, ..Linear::new(&matrix) }, &array, rows, 0);
            let each = rows / 3;
            for group in 0..3 {
                let part = |v: &[f32], width: usize, at: usize, len: usize| -> Vec<f32> {
                    v.chunks_exact(width).flat_map(|row| row[at..at + len].to_vec()).collect()
                };
                let x = part(&wide, 3 * cols, group * cols, cols);
                let got = part(&got, rows, group * each, each);
                assert_near(&got, &w[group * each * cols..][..each * cols], &x, cols, limit, "grouped");
            }
        }
    }
}

/// Rows in which every 32 values have a largest one, and no value is near the middle between two steps; and what they
/// become in 8 bits.
fn rows_for_8_bits(n: usize, random: &mut Random) -> [Vec<f32>; 2] {
    let [mut x, mut rounded] = [Vec::with_capacity(n), Vec::with_capacity(n)];
    for _ in 0..n / 32 {
        let (scale, largest) = (0.01 * (1.5 + random.float()), random.next() as usize % 32);
        for i in 0..32 {
            let step = if i == largest { 127.0 } else { (100.0 * random.float()).round() };
            let off = if i == largest { 0.0 } else { 0.3 * random.float() };
            x.push(scale * (step + off));
            rounded.push(scale * step);
        }
    }
    [x, rounded]
}

#[test]
fn products_of_bytes_are_those_of_decoded_weights_with_rounded_rows() {
    let Some(gpu) = device_of_bytes() else { return };
    let formats = [Format::Q8_0, Format::Q2K, Format::Q4K, Format::Iq2Xxs, Format::Mxfp4];
    for (seed, format) in (1..).zip(formats) {
        let random = &mut Random(seed);
        // 1024 columns are whole steps of a team, 768 are not.
        for (cols, n) in [(768, 1), (1024, 1), (768, 2), (1024, 3), (768, 8), (1024, 13)] {
            let matrix = random_matrix(format, 75, cols, random);
            let w = decoded(&matrix);
            let on_device = gpu.matrix(matrix).unwrap();
            let [x, rounded] = rows_for_8_bits(n * cols, random);
            let array = gpu.array(x, cols).unwrap();
            let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&on_device), &array);
            let what = format!("{format:?}, {n} rows of {cols}");
            assert_near(&gpu.read(&y).unwrap(), &w, &rounded, cols, 2e-6, &what);
        }
    }
}

/// One row or two meet bytes in 8 bits and floats as they are, in the same launch: plain, and with a norm that all have.
#[test]
fn floats_go_along_with_products_of_bytes() {
    let Some(gpu) = device_of_bytes() else { return };
    for (cols, n) in [(768, 1), (1024, 1), (2048, 1), (768, 2), (1024, 2), (4096, 2)] {
        let random = &mut Random((cols + n) as u64);
        let formats = [Format::Q8_0, Format::F16, Format::BF16, Format::F16];
        let matrices = formats.map(|format| random_matrix(format, 75, cols, random));
        let weights = matrices.each_ref().map(decoded);
        let matrices = matrices.map(|matrix| gpu.matrix(matrix).unwrap());
        let [x, rounded] = rows_for_8_bits(n * cols, random);
        let (bias, norm) = (random.floats(3 * 75), vec![2.0; cols]);
        let array = gpu.array(x.clone(), cols).unwrap();
        let [bias_array, norm_array] =
            [(&bias, 75), (&norm, cols)].map(|(v, w)| gpu.array(v.clone(), w).unwrap());
        let bias_rows = &[2u32, 0][..n];
        for eps in [None, Some(0.5)] {
            let ys = Array::several(&gpu.0, &[(n, 75); 4]);
            let norm = eps.map(|eps| (&norm_array, eps));
            let outputs: Vec<_> = (matrices.iter().zip(&ys).enumerate())
                .map(|(i, (w, y))| {
                    // The last one has all that compressors want.
                    let bias = (i == 3 && eps.is_none()).then_some((&bias_array, bias_rows));
                    let scale = if i == 3 { 0.5 } else { 1.0 };
                    Output { what: Linear { norm, bias, scale, ..Linear::new(w) }, y, offset: 0 }
                })
                .collect();
            let before = gpu.launches();
            linears(&gpu.0, &mut gpu.0.recorder(), &array, &outputs);
            assert_eq!(gpu.launches() - before, 1, "all in one launch");
            // What a row that is normed meets, in 8 bits or as it is.
            let normed = |values: &[f32]| -> Vec<f32> {
                let rows = values.chunks_exact(cols).zip(x.chunks_exact(cols));
                rows.flat_map(|(values, x)| {
                    let factor = eps.map_or(1.0, |eps| 2.0 * cpu::reference::inverse_rms(x, eps));
                    values.iter().map(move |x| factor * x)
                })
                .collect()
            };
            let [x, rounded] = [&x, &rounded].map(|values| normed(values));
            for (i, (y, w)) in ys.iter().zip(&weights).enumerate() {
                let mut got = gpu.read(y).unwrap();
                if i == 3 {
                    for (row, got) in bias_rows.iter().zip(got.chunks_exact_mut(75)) {
                        let added = &bias[75 * *row as usize..][..75];
                        let off = if eps.is_none() { added } else { &[0.0; 75] };
                        got.iter_mut().zip(off).for_each(|(y, b)| *y = 2.0 * (*y - b));
                    }
                }
                let x = if i == 0 { &rounded } else { &x };
                let what = format!("{:?}, {n} rows, matrix {i}, norm {eps:?}", formats[i]);
                assert_near(&got, w, x, cols, 2e-6, &what);
            }
        }
    }
}

/// What is no number shows, and zeros are zeros.
#[test]
fn rounding_to_bytes_hides_nothing() {
    let Some(gpu) = device_of_bytes() else { return };
    let matrix = gpu.matrix(random_matrix(Format::Q8_0, 8, 64, &mut Random(3))).unwrap();
    let product = |x: Vec<f32>| {
        let x = gpu.array(x, 64).unwrap();
        let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&matrix), &x);
        gpu.read(&y).unwrap()
    };
    assert!(product(vec![0.0; 64]).iter().all(|y| *y == 0.0));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5; 64];
        x[40] = bad;
        assert!(product(x).iter().all(|y| !y.is_finite()), "{bad}");
    }
}

/// The experts, their shared one with them, against the same in f32: what rounding h and x moves is little. Many rows, too,
/// where there are so many experts that few of the rows share one.
#[test]
fn experts_of_bytes_are_near_those_of_floats() {
    let [exact, _] = devices();
    let Some(bytes) = device_of_bytes() else { return };
    for (inner, outer) in
        [(Format::Iq2Xxs, Format::Q2K), (Format::Q4K, Format::Q4K), (Format::Mxfp4, Format::Mxfp4)]
    {
        // No whole number of workgroups, where the format allows that.
        let (d, ff, used) = (512, if outer == Format::Mxfp4 { 288 } else { 256 }, 3);
        for (n, count) in [(1, 5), (3, 5), (17, 30), (130, 150)] {
            let run = |gpu: &Gpu| {
                let random = &mut Random(17);
                let mut expert = |[inner, outer]: [Format; 2], count: usize| {
                    let mut matrix =
                        |format, rows, cols| gpu.matrix(random_matrix(format, rows, cols, random)).unwrap();
                    let gate = matrix(inner, count * ff, d);
                    let (up, down) = (matrix(inner, count * ff, d), matrix(outer, count * d, ff));
                    model::weights::Expert { gate, up, down, ff, clamp: 7.0 }
                };
                let shared = expert([Format::Q8_0; 2], 1);
                let experts = model::weights::Experts { stack: expert([inner, outer], count), count };
                let other = |i: usize| if i < 3 { 1 + i } else { 2 + i } as u32;
                let ids: Vec<f32> = (0..n).flat_map(|i| [0, other(i), 4]).map(f32::from_bits).collect();
                let routes = crate::array::Routes {
                    ids: gpu.array(ids, used).unwrap(),
                    shares: gpu.array([0.5, 0.3, 0.9].repeat(n), used).unwrap(),
                };
                let x = gpu.array(random.floats(n * d), d).unwrap();
                gpu.read(&gpu.moe(&x, &routes, &experts, &shared)).unwrap()
            };
            let (got, want) = (run(&bytes), run(&exact));
            let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
            let far = square(&mut got.iter().zip(&want).map(|(a, b)| a - b));
            let far = (far / square(&mut want.iter().copied())).sqrt();
            println!("{inner:?}, {outer:?}, {n} rows: {far:e}");
            assert!(far > 0.0 && far < 2e-2, "{inner:?}, {outer:?}, {n} rows: {far:e}");
        }
    }
}

/// Rows whose values are of all sizes that f32 has keep their precision, whatever goes into f16.
#[test]
fn products_keep_their_precision_at_every_magnitude() {
    for gpu in devices() {
        for (format, steps) in [(Format::Q8_0, 3), (Format::Mxfp4, 1), (Format::F16, 2)] {
            let random = &mut Random(7);
            let cols = 32 * steps;
            let matrix = random_matrix(format, 40, cols, random);
            let w = decoded(&matrix);
            let on_device = gpu.matrix(matrix).unwrap();
            let scales = [1.0, 1e-30, 1e-10, 1e-5, 1e5, 7e4, 1e10, 1e30, 0.0];
            let x: Vec<f32> =
                scales.iter().flat_map(|s| random.floats(cols).into_iter().map(move |x| s * x)).collect();
            let array = gpu.array(x.clone(), cols).unwrap();
            let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&on_device), &array);
            let limit = limit(&gpu, format, scales.len());
            let y = gpu.read(&y).unwrap();
            for ((y, x), scale) in y.chunks_exact(40).zip(x.chunks_exact(cols)).zip(scales) {
                let by = |v: &[f32]| v.iter().map(|v| v / f32::max(scale, 1e-37)).collect::<Vec<_>>();
                assert_near(&by(y), &w, &by(x), cols, limit, &format!("{format:?} of {scale:e}"));
            }
        }
    }
}

/// A number that is none is not lost on the way.
#[test]
fn what_is_no_number_stays_none() {
    for gpu in devices() {
        let random = &mut Random(3);
        let matrix = gpu.matrix(random_matrix(Format::Q8_0, 40, 64, random)).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.floats(10 * 64);
            x[64 + 9] = bad;
            let x = gpu.array(x, 64).unwrap();
            let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&matrix), &x);
            for (i, y) in gpu.read(&y).unwrap().chunks_exact(40).enumerate() {
                assert_eq!(y.iter().all(|y| y.is_finite()), i != 1, "row {i}: {y:?}");
                assert!(i != 1 || y.iter().all(|y| !y.is_finite()), "row {i}: {y:?}");
            }
        }
    }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The product of a matrix with one row.
fn times(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// `down · share · swiglu(gate·x, up·x)`
fn expert([gate, up, down]: [&[f64]; 3], x: &[f64], share: f64, limit: f64) -> Vec<f64> {
    let gated = |(g, u): (f64, f64)| {
        let g = g.min(limit);
        share * g / (1.0 + (-g).exp()) * u.clamp(-limit, limit)
    };
    let inner: Vec<f64> = times(gate, x).into_iter().zip(times(up, x)).map(gated).collect();
    times(down, &inner)
}

/// Experts in every format, with as many rows as come: one of them with most, one with none.
#[test]
fn experts_are_those_of_the_decoded_weights_in_every_format() {
    const COUNT: usize = 5;
    const USED: usize = 2;
    for gpu in devices() {
        for (seed, format) in (1..).zip(Format::ALL) {
            let random = &mut Random(seed);
            let (d, ff) = if format.block_len() == 256 { (512, 256) } else { (96, 160) };
            let clamp = if seed % 2 == 0 { 10.0 } else { 0.5 };
            let mut weights = |rows: usize, cols: usize| {
                let matrix = random_matrix(format, rows, cols, random);
                (f64s(&decoded(&matrix)), gpu.matrix(matrix).unwrap())
            };
            let stack = [weights(COUNT * ff, d), weights(COUNT * ff, d), weights(COUNT * d, ff)];
            let shared = [weights(ff, d), weights(ff, d), weights(d, ff)];
            let of = |m: &[(Vec<f64>, crate::matrix::Matrix); 3]| model::weights::Expert::<Gpu> {
                gate: m[0].1.clone(),
                up: m[1].1.clone(),
                down: m[2].1.clone(),
                ff,
                clamp,
            };
            let experts = model::weights::Experts { stack: of(&stack), count: COUNT };
            let shared_expert = of(&shared);
            for n in [2, 9, 100, 200] {
                let mut x = random.floats(n * d);
                // So large that gates are around 1, where they are neither open nor shut.
                let gates = times(&stack[0].0[..ff * d], &f64s(&x[..d]));
                let size = (gates.iter().map(|g| g * g).sum::<f64>() / ff as f64).sqrt();
                x.iter_mut().for_each(|x| *x /= size as f32);
                let ids: Vec<u32> = (0..n as u32).flat_map(|i| [i * i % 3, 3]).collect();
                let shares: Vec<f32> = random.floats(n * USED);
                let words = |ids: &[u32]| ids.iter().map(|&id| f32::from_bits(id)).collect::<Vec<_>>();
                let routes = crate::array::Routes {
                    ids: gpu.array(words(&ids), USED).unwrap(),
                    shares: gpu.array(shares.clone(), USED).unwrap(),
                };
                let y = gpu.moe(&gpu.array(x.clone(), d).unwrap(), &routes, &experts, &shared_expert);
                let y = gpu.read(&y).unwrap();
                let limit = match limit(&gpu, format, n) {
                    exact if exact < 1e-4 => 2e-5,
                    _ => 1e-2,
                };
                let mut worst = 0f64;
                for (i, (x, y)) in x.chunks_exact(d).zip(y.chunks_exact(d)).enumerate() {
                    let x = f64s(x);
                    let clamp = f64::from(clamp);
                    let mut want = expert([0, 1, 2].map(|m| &shared[m].0[..]), &x, 1.0, clamp);
                    for slot in USED * i..USED * (i + 1) {
                        let at = ids[slot] as usize * ff * d;
                        let own = [0, 1, 2].map(|m| &stack[m].0[at..at + ff * d]);
                        let part = expert(own, &x, f64::from(shares[slot]), clamp);
                        want.iter_mut().zip(part).for_each(|(want, part)| *want += part);
                    }
                    let square = |x: f64| x * x;
                    let far: f64 = y.iter().zip(&want).map(|(y, want)| square(f64::from(*y) - want)).sum();
                    let far = (far / want.iter().copied().map(square).sum::<f64>()).sqrt();
                    assert!(
                        far <= limit,
                        "{format:?}, row {i} of {n}: {far:e}, {:?} for {:?}, {:?}",
                        &y[..4],
                        &want[..4],
                        gpu.abilities()
                    );
                    worst = worst.max(far);
                }
                println!("{format:?}, {n} rows: {worst:.1e} of {limit:.0e}");
            }
        }
    }
}

fn layouts() -> [RowLayout; 6] {
    [
        RowLayout::F32 { width: 96 },
        RowLayout::F16 { width: 96 },
        RowLayout::Latent8 { width: 96, rope: 32 },
        RowLayout::Latent8 { width: 512, rope: 64 },
        RowLayout::Index4 { width: 64 },
        RowLayout::Index4 { width: 128 },
    ]
}

/// Rows that meet every branch of the roundings: ordinary, tiny, subnormal, huge, zero, tied.
fn rows_of_all_sizes(width: usize, random: &mut Random) -> Vec<f32> {
    let scales = [1.0, 1e-3, 1e-7, 1e-30, 1e-41, 300.0, 6e4, 7e4, 1e30, 0.0, -0.0];
    let mut rows: Vec<f32> =
        scales.iter().flat_map(|s| random.floats(width).into_iter().map(move |x| s * x)).collect();
    rows.extend((0..width).map(|i| (i as f32 - 40.0) * 0.0625));
    rows.extend((0..width).map(|i| if i % 7 == 0 { 0.75 } else { 0.25 * (i % 29) as f32 }));
    rows
}

#[test]
fn cached_rows_have_the_bytes_of_the_layout() {
    for gpu in devices() {
        for layout in layouts() {
            let random = &mut Random(5);
            let width = layout.width();
            let values = rows_of_all_sizes(width, random);
            let n = values.len() / width;
            let array = gpu.array(values.clone(), width).unwrap();
            let mut rows = gpu.rows(layout, 0);
            gpu.append(&array, 0..3, &mut rows);
            gpu.append(&array, 3..n, &mut rows);
            let got = rows.to_bytes();
            for (i, (x, got)) in
                values.chunks_exact(width).zip(got.chunks_exact(layout.row_bytes())).enumerate()
            {
                let mut want = vec![0; layout.row_bytes()];
                layout.encode(x, &mut want);
                // A device may take subnormal numbers for zero; they matter to f32 rows only.
                if matches!(layout, RowLayout::F32 { .. }) || x.iter().all(|x| *x == 0.0 || x.abs() > 1e-37) {
                    assert_eq!(got, want, "{layout:?}, row {i}");
                }
            }
            assert_eq!((got.len(), rows.len()), (n * layout.row_bytes(), n));
        }
    }
}

/// Rows that are appended right after they were normed go in the same launch, those of several timelines and of several
/// arrays, and are what they would have been. Some are left out.
#[test]
fn rows_appended_with_their_norm_are_those_appended_after_it() {
    for gpu in devices() {
        for layout in layouts().into_iter().filter(|layout| !layout.is_rotated()) {
            for shares in [vec![(0, 1)], vec![(0, 1), (1, 2), (3, 4)], vec![(0, 1), (2, 5)]] {
                let shares: Vec<_> = shares.into_iter().map(|(start, end)| start..end).collect();
                let (width, n, inner) = (layout.width(), shares.last().expect("one").end, 64);
                let rope = if let RowLayout::Latent8 { rope, .. } = layout { rope } else { 16 };
                let random = &mut Random(width as u64);
                let values: Vec<Vec<f32>> =
                    [n * width, n * inner].iter().map(|&count| random.floats(count)).collect();
                let turns: Vec<u32> = random.floats(n * rope).into_iter().map(f32::to_bits).collect();
                let run = |together: bool| {
                    let [kv, inputs] = [(&values[0], width), (&values[1], inner)]
                        .map(|(values, width)| gpu.array(values.clone(), width).unwrap());
                    let kv_out = Array::empty(&gpu.0, n, width);
                    let stores = || (gpu.rows(layout, 0), gpu.rows(RowLayout::F32 { width: inner }, 0));
                    let mut stores: Vec<_> = shares.iter().map(|_| stores()).collect();
                    // Room, so that no store has to grow in between.
                    for (rows, more) in &mut stores {
                        rows.extend_from_bytes(&vec![0; layout.row_bytes()]);
                        more.extend_from_bytes(&vec![0; 4 * inner]);
                    }
                    let mut r = gpu.0.recorder();
                    let angles = r.put(&gpu.0, &turns);
                    let rotate = Some((&angles, rope));
                    let what = Norm { width, eps: Some(1e-6), weight: None, rotate, repeat: 1 };
                    norm_row(&gpu.0, &mut r, &what, &kv, &kv_out);
                    drop(r);
                    for (share, (rows, more)) in shares.iter().zip(&mut stores) {
                        for (x, to) in [(&kv_out, rows), (&inputs, more)] {
                            if !together {
                                gpu.wait().unwrap();
                            }
                            gpu.append(x, share.clone(), to);
                        }
                    }
                    let stores: Vec<_> =
                        stores.iter().map(|(rows, more)| (rows.to_bytes(), more.to_bytes())).collect();
                    (gpu.read(&kv_out).unwrap(), stores)
                };
                let (got, want) = (run(true), run(false));
                assert!(got == want, "{layout:?}, rows {shares:?}");
                let bytes: Vec<u8> = values[1].iter().flat_map(|x| x.to_le_bytes()).collect();
                for (share, (_, more)) in shares.iter().zip(&got.1) {
                    let mine = &bytes[4 * inner * share.start..4 * inner * share.end];
                    assert!(more[4 * inner..] == *mine, "{layout:?}, rows {share:?}: what needs no rounding");
                }
            }
        }
    }
}

#[test]
fn rows_can_be_cut_dropped_copied_and_brought_back() {
    let gpu = &devices()[0];
    for layout in layouts() {
        let size = layout.row_bytes();
        let random = &mut Random(6);
        let bytes: Vec<u8> = {
            let mut bytes = vec![0; 40 * size];
            for row in bytes.chunks_exact_mut(size) {
                layout.encode(&random.floats(layout.width()), row);
            }
            bytes
        };
        let mut rows = gpu.rows(layout, 0);
        rows.extend_from_bytes(&bytes);
        assert!(rows.to_bytes() == bytes, "{layout:?}: brought back");
        let copy = rows.slice(5..9);
        rows.drop_front(7);
        rows.truncate(20);
        assert_eq!(rows.len(), 20);
        assert!(rows.to_bytes() == bytes[7 * size..27 * size], "{layout:?}: dropped and cut");
        rows.extend_from_bytes(&bytes);
        rows.extend_from_bytes(&bytes);
        let want = [&bytes[7 * size..27 * size], &bytes, &bytes].concat();
        assert!(rows.to_bytes() == want, "{layout:?}: grown");
        assert!(copy.to_bytes() == bytes[5 * size..9 * size], "{layout:?}: a copy is its own");
        assert!(rows.memory() >= rows.len() * size);
    }
}

/// Attention of few rows, of many, and of so many that they go through matrix units where there are any: over a window and
/// compressed rows, all or chosen ones, with scores that grow from key to key.
#[test]
fn attention_is_that_of_decoded_rows() {
    let exact = 2e-5;
    for gpu in devices() {
        for layout in [RowLayout::F16 { width: 128 }, RowLayout::Latent8 { width: 512, rope: 64 }] {
            for (n, heads, chosen) in [(1, 3, None), (5, 64, Some(9)), (20, 5, None)] {
                let far = attention_off_by(&gpu, layout, n, heads, chosen, true);
                assert!(far < exact, "{layout:?}, {n} rows: {far:e}");
            }
            for chosen in [None, Some(21)] {
                let far = attention_off_by(&gpu, layout, 70, 64, chosen, false);
                assert!(far < exact, "{layout:?}: {far:e}");
                let far = attention_off_by(&gpu, layout, 70, 64, chosen, true);
                let limit = if gpu.abilities().matrices.is_some() { 5e-3 } else { exact };
                assert!(far < limit, "{layout:?}, on matrix units: {far:e}");
                println!("{layout:?}: {far:e} of a row's length");
            }
        }
    }
}

/// The largest distance of a head's result from what it should be, as a part of its length.
fn attention_off_by(
    gpu: &Gpu,
    layout: RowLayout,
    n: usize,
    heads: usize,
    chosen: Option<usize>,
    rounds: bool,
) -> f64 {
    const WINDOW: usize = 45;
    const RATIO: usize = 4;
    const BLOCK: usize = 16;
    const EPS: f32 = 1e-6;
    let (width, rope, random) = (layout.width(), 64, &mut Random(n as u64));
    // Of the first row, whose window begins with the first of all rows.
    let start = WINDOW - 1;
    let mut stored = |count: usize| {
        let size = |j: usize| 0.3 + j as f32 / 8.0;
        let values = (0..count).flat_map(|j| random.floats(width).into_iter().map(move |x| size(j) * x));
        let array = gpu.array(values.collect(), width).unwrap();
        let mut rows = gpu.rows(layout, 0);
        gpu.append(&array, 0..count, &mut rows);
        rows
    };
    let compressed = (start + n) / RATIO;
    let window = stored(start + n);
    let blocks: Vec<_> = (0..compressed).step_by(BLOCK).map(|_| stored(BLOCK)).collect();
    let decoded = |rows: &crate::rows::Rows| -> Vec<Vec<f64>> {
        let mut row = vec![0.0; width];
        let each = |bytes: &[u8]| {
            layout.decode(bytes, &mut row);
            f64s(&row)
        };
        rows.to_bytes().chunks_exact(layout.row_bytes()).map(each).collect()
    };
    let near = decoded(&window);
    let far: Vec<_> = blocks.iter().flat_map(decoded).collect();
    let sinks = random.floats(heads);
    let queries = random.floats(n * heads * width);
    let turns: Vec<(f32, f32)> = random.floats(n * rope / 2).iter().map(|x| (x.cos(), x.sin())).collect();
    let words: Vec<u32> = turns.iter().flat_map(|turn| [turn.0.to_bits(), turn.1.to_bits()]).collect();
    let treatment = Treatment { width, eps: Some(EPS), rope, angles: Arc::new(words.clone()) };
    let q =
        Array { treatment: Some(Arc::new(treatment)), ..gpu.array(queries.clone(), heads * width).unwrap() };
    // Of those that a row sees, some from the last one back.
    let visible = |i: usize| (start + i + 1) / RATIO;
    let picked =
        |i: usize| -> Vec<usize> { (0..visible(i)).rev().take(chosen.unwrap_or(usize::MAX)).collect() };
    let picks = chosen.map(|chosen| {
        let row = |i: usize| {
            let mut row: Vec<f32> = picked(i).iter().map(|&w| f32::from_bits(w as u32)).collect();
            row.resize(chosen, 0.0);
            row
        };
        let rows = gpu.array((0..n).flat_map(row).collect(), chosen).unwrap();
        Picks { rows, counts: (0..n).map(|i| picked(i).len() as u32).collect() }
    });
    let view = KvView {
        rows: 0..n,
        start,
        window: &window,
        window_base: 0,
        window_len: WINDOW,
        compressed: Some((Blocks { blocks: blocks.iter().collect(), block_len: BLOCK }, RATIO)),
    };
    let sink_array = gpu.array(sinks.clone(), heads).unwrap();
    let got = {
        let r = &mut *gpu.0.recorder();
        let angles = r.put(&gpu.0, &words);
        let what = Attending { sinks: &sink_array, angles: (&angles, rope), rounds };
        attend(&gpu.0, r, &q, &[view], picks.as_ref(), &what)
    };
    let got = f64s(&gpu.read(&got).unwrap());
    let mut worst = 0.0f64;
    for i in 0..n {
        let keys: Vec<&Vec<f64>> =
            near[i..=start + i].iter().chain(picked(i).into_iter().map(|w| &far[w])).collect();
        let turn = |v: &mut [f64], way: f64| {
            let pairs = v[width - rope..].as_chunks_mut::<2>().0.iter_mut();
            for (pair, &(cos, sin)) in pairs.zip(&turns[i * rope / 2..]) {
                let (cos, sin) = (f64::from(cos), way * f64::from(sin));
                *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
            }
        };
        for (head, &sink) in sinks.iter().enumerate() {
            let at = (i * heads + head) * width;
            let mut query = f64s(&queries[at..at + width]);
            let square: f64 = query.iter().map(|x| x * x).sum();
            query.iter_mut().for_each(|x| *x /= (square / width as f64 + f64::from(EPS)).sqrt());
            turn(&mut query, 1.0);
            let score = |key: &&Vec<f64>| {
                query.iter().zip(*key).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt()
            };
            let weights: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let total = weights.iter().sum::<f64>() + f64::from(sink).exp();
            let mut want = vec![0.0; width];
            for (weight, key) in weights.iter().zip(&keys) {
                want.iter_mut().zip(*key).for_each(|(y, x)| *y += weight / total * x);
            }
            turn(&mut want, -1.0);
            let apart = got[at..at + width].iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            worst = worst.max((apart / want.iter().map(|x| x * x).sum::<f64>()).sqrt());
        }
    }
    worst
}

/// Scores that tie by the hundred, over several blocks of keys: the choice is the reference's.
#[test]
fn the_indexer_chooses_as_the_reference_does() {
    for gpu in devices() {
        for (seed, layout) in
            [RowLayout::F32 { width: 64 }, RowLayout::F16 { width: 64 }, RowLayout::Index4 { width: 64 }]
                .into_iter()
                .enumerate()
        {
            for (keys, n, top_k) in [(10, 3, 4), (700, 2, 512), (333, 5, 24)] {
                let random = &mut Random(seed as u64 + 9);
                let (heads, width) = (4, 64);
                // Few different keys, so that many scores are equal.
                let different: Vec<Vec<f32>> = (0..7).map(|_| random.floats(width)).collect();
                let stored: Vec<f32> =
                    (0..keys).flat_map(|_| different[random.next() as usize % 7].clone()).collect();
                let (u, a) = (random.floats(n * heads * width), random.floats(n * heads));
                let want = picked(&cpu::Reference, layout, &[&stored], &u, &a, n, top_k);
                let got = picked(&gpu, layout, &[&stored], &u, &a, n, top_k);
                assert_eq!(got, want, "{layout:?}, {keys} keys");
            }
        }
    }
}

/// Many rows of two conversations, with heads of the published model: on matrix units where there are some. Heads and keys
/// are of very different lengths.
#[test]
fn the_indexer_chooses_for_many_rows_as_the_reference_does() {
    let (width, top_k) = (128, 40);
    for gpu in devices() {
        for (heads, n, keys) in [(64, 19, [300, 129]), (128, 9, [65, 64])] {
            let random = &mut Random(heads as u64);
            let stored = keys.map(|count| {
                let mut key = || {
                    let size = 2f32.powi(random.next() as i32 % 9 - 4);
                    random.floats(width).iter().map(|x| size * x).collect::<Vec<_>>()
                };
                (0..count).flat_map(|_| key()).collect::<Vec<f32>>()
            });
            let mut u = random.floats(2 * n * heads * width);
            u.chunks_exact_mut(width).step_by(5).flatten().for_each(|x| *x *= 1e6);
            let a: Vec<f32> = (0..2 * n * heads).map(|i| if i % 5 == 0 { 1e-6 } else { 0.3 }).collect();
            let stored = stored.each_ref().map(Vec::as_slice);
            let layout = RowLayout::Index4 { width };
            let want = picked(&cpu::Reference, layout, &stored, &u, &a, n, top_k);
            let got = picked(&gpu, layout, &stored, &u, &a, n, top_k);
            assert_eq!(got, want, "{heads} heads");
        }
    }
}

/// What `n` rows of each of some conversations choose of its keys, of which the last row sees all.
fn picked<B: Ops<Query = IndexQuery<A>, Array = A>, A>(
    ops: &B,
    layout: RowLayout,
    keys: &[&[f32]],
    u: &[f32],
    a: &[f32],
    n: usize,
    top_k: usize,
) -> Vec<Vec<u32>> {
    let (width, block_len) = (layout.width(), 256);
    let stored = |keys: &&[f32]| {
        let count = keys.len() / width;
        let array = ops.array(keys.to_vec(), width).unwrap();
        let block = |at: usize| {
            let mut rows = ops.rows(layout, 0);
            ops.append(&array, at..count.min(at + block_len), &mut rows);
            rows
        };
        (0..count).step_by(block_len).map(block).collect::<Vec<B::Rows>>()
    };
    let (blocks, all): (Vec<Vec<B::Rows>>, _) = (keys.iter().map(stored).collect(), keys.len() * n);
    let query = IndexQuery {
        u: ops.array(u.to_vec(), u.len() / all).unwrap(),
        a: ops.array(a.to_vec(), a.len() / all).unwrap(),
    };
    let mut views = Vec::new();
    for (i, (blocks, keys)) in blocks.iter().zip(keys).enumerate() {
        views.push(IndexView {
            rows: i * n..(i + 1) * n,
            start: 4 * keys.len() / width - n,
            ratio: 4,
            keys: Blocks { blocks: blocks.iter().collect(), block_len },
        });
    }
    ops.read_picks(&ops.pick(&query, &views, top_k)).unwrap()
}

/// What a sampler gets from the device is what it would take from all logits: the same tokens with the same bits,
/// and of the others the weight.
#[test]
fn the_leaders_of_logits_are_those_of_the_host() {
    let mut random = Random(8);
    for gpu in devices() {
        for vocab in [1, 37, 4096, 129_280] {
            let rows = 3;
            let mut logits: Vec<f32> = random.floats(rows * vocab).iter().map(|x| 9.0 * x).collect();
            logits[0] = 12.5;
            logits[vocab - 1] = 12.5; // ties at both ends
            logits[vocab / 2] = f32::NEG_INFINITY;
            logits[rows * vocab - 1] = 0.0;
            let asks = [(0.0, 1.0), (4.0, 0.7), (0.05, 1.3)]
                .map(|(margin, temperature)| LeadersAsk { margin, temperature });
            let array = gpu.array(logits.clone(), vocab).unwrap();
            let got = gpu.read_leaders(&array, &asks).unwrap().expect("on a device");
            for ((row, ask), got) in logits.chunks_exact(vocab).zip(asks).zip(got) {
                let want = Leaders::of(row, ask).filter(|leaders| leaders.tokens.len() <= 1024);
                let tokens = |leaders: &Option<Leaders>| leaders.as_ref().map(|l| l.tokens.clone());
                assert_eq!(tokens(&got), tokens(&want), "{vocab}, {ask:?}");
                if let Some((got, want)) = got.zip(want) {
                    let far = (got.rest - want.rest).abs();
                    assert!(far <= 1e-4 * want.rest, "{} for {}", got.rest, want.rest);
                }
            }
        }
    }
}

/// Too many to hand over, or none that means anything: then it is for the host to look at all.
#[test]
fn logits_of_which_too_much_is_wanted_have_no_leaders() {
    let ask = LeadersAsk { margin: 1.0, temperature: 1.0 };
    for gpu in devices() {
        let check = |row: Vec<f32>| {
            let array = gpu.array(row.clone(), row.len()).unwrap();
            assert_eq!(gpu.read_leaders(&array, &[ask]).unwrap(), Some(vec![None]));
        };
        check(vec![0.5; 5000]);
        check(vec![f32::NEG_INFINITY; 40]);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            let mut row: Vec<f32> = (0..5000).map(|i| i as f32).collect();
            row[3000] = bad;
            check(row);
        }
    }
}

/// More experts than a workgroup has threads would still be right; ties go to the lower expert.
#[test]
fn the_router_chooses_as_the_reference_does() {
    for gpu in devices() {
        for (experts, used, n) in [(8, 2, 5), (256, 6, 3), (300, 7, 11)] {
            let random = &mut Random(experts as u64);
            let gate = Matrix {
                name: "gate".into(),
                format: Format::F32,
                rows: experts,
                cols: 32,
                // Every fourth expert is the same.
                bytes: Bytes::from(
                    (0..experts / 4)
                        .flat_map(|_| random.floats(32).repeat(4))
                        .chain(vec![0.5; 32 * (experts % 4)])
                        .flat_map(f32::to_le_bytes)
                        .collect::<Vec<u8>>(),
                ),
            };
            let (x, bias) = (random.floats(32 * n), vec![0.25; experts]);
            let want = routed(&cpu::Reference, gate.clone(), &x, &bias, used);
            let got = routed(&gpu, gate, &x, &bias, used);
            for (got, want) in got.iter().zip(&want) {
                let ids = |row: &[(u32, f32)]| row.iter().map(|(id, _)| *id).collect::<Vec<_>>();
                assert_eq!(ids(got), ids(want));
                assert!(got.iter().zip(want).all(|(a, b)| (a.1 - b.1).abs() < 1e-5), "{got:?} {want:?}");
            }
            assert_eq!(got.len(), n);
        }
    }
}

fn routed<B: Ops>(ops: &B, gate: Matrix, x: &[f32], bias: &[f32], used: usize) -> Vec<Vec<(u32, f32)>> {
    let router = model::weights::Router {
        gate: ops.matrix(gate).unwrap(),
        bias: Some(ops.array(bias.to_vec(), bias.len()).unwrap()),
        table: None,
        used,
        scale: 1.5,
    };
    let x = ops.array(x.to_vec(), 32).unwrap();
    let tokens = vec![0; 100];
    ops.read_routes(&ops.route(&x, &tokens[..x_rows(ops, &x)], &router)).unwrap()
}

fn x_rows<B: Ops>(ops: &B, x: &B::Array) -> usize {
    ops.read(x).unwrap().len() / 32
}
