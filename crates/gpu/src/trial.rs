//! A first product through a device's matrix units, which says whether they can be trusted.
//!
//! What compiles their operations is young, on Metal more than elsewhere, and a wrong sum looks like any other. So a
//! device that has them multiplies small whole numbers first, which f16 and f32 hold exactly.

use crate::gpu::Gpu;
use crate::kernels::{Linear, linear};
use model::Ops;
use model::ops::DeviceError;
use model::weights::Matrix;
use quants::Format;
use std::sync::atomic::Ordering;

/// More than a tile in each direction, with a last unit that is alone.
const N: usize = 37;
const ROWS: usize = 150;
const COLS: usize = 160;

/// Multiplies on the device.
///
/// # Errors
///
/// If the kernel cannot be compiled, or a sum is wrong.
pub(crate) fn multiply(gpu: &Gpu) -> Result<(), DeviceError> {
    let before = gpu.0.weight_bytes.load(Ordering::Relaxed);
    let w = gpu.matrix(weights())?;
    // It is no part of a model.
    gpu.0.weight_bytes.store(before, Ordering::Relaxed);
    let values = (0..N * COLS).map(|at| x(at / COLS, at % COLS) as f32).collect();
    let rows = gpu.array(values, COLS)?;
    let y = linear(&gpu.0, &mut gpu.0.recorder(), &Linear::new(&w), &rows);
    for (at, got) in gpu.read(&y)?.into_iter().enumerate() {
        let (i, j) = (at / ROWS, at % ROWS);
        let want: i32 = (0..COLS).map(|k| x(i, k) * weight(j, k)).sum();
        if got != want as f32 {
            return Err(DeviceError(format!("sum {j} of row {i} came out as {got} in place of {want}")));
        }
    }
    Ok(())
}

fn x(i: usize, k: usize) -> i32 {
    number(7 * i + k)
}

fn weight(j: usize, k: usize) -> i32 {
    number(11 * j + 2 * k)
}

/// From -7 to 7, in an order that does not repeat soon.
fn number(i: usize) -> i32 {
    ((i * i * i + 3 * i) % 15) as i32 - 7
}

/// The weights in Q8_0: blocks of a 1 in f16 and 32 bytes.
fn weights() -> Matrix {
    const ONE: [u8; 2] = 0x3c00u16.to_le_bytes();
    let mut bytes = Vec::new();
    for j in 0..ROWS {
        for from in (0..COLS).step_by(32) {
            bytes.extend(ONE);
            bytes.extend((from..from + 32).map(|k| weight(j, k) as i8 as u8));
        }
    }
    Matrix { name: "small numbers".into(), format: Format::Q8_0, rows: ROWS, cols: COLS, bytes: bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Choice;
    use crate::gpu::Options;

    /// However a device multiplies many rows, it gets these right: so a refusal is not the trial's own mistake.
    #[test]
    fn the_trial_comes_out_right_on_every_device() {
        let first = Options { device: Choice::First, checks: true, ..Options::default() };
        for matrices in [true, false] {
            let gpu = Gpu::open(Options { matrices, ..first }).expect("a device");
            assert_eq!(gpu.refused_matrices(), None);
            multiply(&gpu).expect("right sums");
        }
    }
}
