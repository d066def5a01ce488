//! What the device can do at most, measured: the limits that speeds are held against.
//!
//! The bandwidth of a copy is [`Gpu::copy_bandwidth`].

use crate::array::Array;
use crate::gpu::Gpu;
use crate::kernels::{THREADS, threads};
use model::ops::DeviceError;
use std::time::Instant;

/// Of how many measurements the best counts.
const TRIES: usize = 4;

impl Gpu {
    /// Operations on f32 a second, a multiplication and an addition counted apart, of kernels that do nothing else.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn arithmetic_peak(&self) -> Result<f64, DeviceError> {
        const GROUPS: u32 = 8192;
        /// 8 vectors of 4, 512 rounds, 2 operations.
        const OPERATIONS: f64 = 8.0 * 4.0 * 512.0 * 2.0;
        // A device in software would take minutes for what a GPU does at once.
        let (groups, repeats) = match self.device().kind {
            crate::Kind::Software => (16, 1),
            _ => (GROUPS, 8),
        };
        let seconds = self.time("peak", groups, repeats)?;
        Ok(f64::from(repeats) * f64::from(groups) * f64::from(THREADS) * OPERATIONS / seconds)
    }

    /// Seconds from one launch to the next, if each has as good as nothing to do and waits for the one before it.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn launch_seconds(&self) -> Result<f64, DeviceError> {
        const LAUNCHES: u32 = 500;
        Ok(self.time("sum_slots", 1, LAUNCHES)? / f64::from(LAUNCHES))
    }

    /// Seconds of so many launches of a kernel, each of which writes where the one before it wrote.
    fn time(&self, kernel: &'static str, groups: u32, launches: u32) -> Result<f64, DeviceError> {
        let mut recorder = self.0.recorder();
        let y = Array::empty(&self.0, 1, groups.max(4) as usize);
        let other = Array::empty(&self.0, 1, 4);
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            self.0.wait(&mut recorder)?;
            let start = Instant::now();
            for _ in 0..launches {
                match kernel {
                    "sum_slots" => recorder.launch(
                        &self.0,
                        threads("sum_slots"),
                        &[other.read(), y.write()],
                        &[1, 0],
                        [1, 1, 1],
                    ),
                    _ => recorder.launch(&self.0, threads(kernel), &[y.write()], &[], [groups, 1, 1]),
                }
            }
            self.0.wait(&mut recorder)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Choice, Options};

    #[test]
    fn a_device_has_limits() {
        let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
        let (peak, launch) = (gpu.arithmetic_peak().unwrap(), gpu.launch_seconds().unwrap());
        assert!(peak > 1e6 && peak < 1e17, "{peak}");
        assert!(launch > 0.0 && launch < 1.0, "{launch}");
    }
}
