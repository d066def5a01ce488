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

/// What a launch costs, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct LaunchSeconds {
    /// With recording it and handing it over, which the device does not wait for while it has work.
    pub recorded: f64,
    /// By the device's own clock, if it has one.
    pub device: Option<f64>,
}

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

    /// Seconds from one launch to the next, if each has nothing to do and waits for the one before it: all that is lost
    /// between two launches, and no more than the device takes to begin and end one.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn launch_seconds(&self) -> Result<LaunchSeconds, DeviceError> {
        const LAUNCHES: u32 = 500;
        let each = |all: f64| all / f64::from(LAUNCHES);
        let mut device = f64::INFINITY;
        for _ in 0..TRIES {
            let ((), clocked) = self.clocked(|| self.launch_often("nothing", 1, LAUNCHES))?;
            device = clocked.map_or(device, |clocked| device.min(clocked.busy));
        }
        let recorded = each(self.time("nothing", 1, LAUNCHES)?);
        Ok(LaunchSeconds { recorded, device: device.is_finite().then(|| each(device)) })
    }

    /// Seconds of so many launches of a kernel, with recording.
    fn time(&self, kernel: &'static str, groups: u32, launches: u32) -> Result<f64, DeviceError> {
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            self.0.wait(&mut self.0.recorder())?;
            let start = Instant::now();
            self.launch_often(kernel, groups, launches);
            self.0.wait(&mut self.0.recorder())?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Asks for a kernel so many times, each of which may write where the one before it might have.
    fn launch_often(&self, kernel: &'static str, groups: u32, launches: u32) {
        let mut recorder = self.0.recorder();
        let y = Array::empty(&self.0, 1, groups.max(4) as usize);
        for _ in 0..launches {
            recorder.launch(&self.0, threads(kernel), &[y.write()], &[], [groups, 1, 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Choice, Clocked, Options};

    #[test]
    fn a_device_has_limits() {
        let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
        let (peak, launch) = (gpu.arithmetic_peak().unwrap(), gpu.launch_seconds().unwrap());
        assert!(peak > 1e6 && peak < 1e17, "{peak}");
        assert!(launch.recorded > 0.0 && launch.recorded < 1.0, "{launch:?}");
        assert!(launch.device.is_some() || gpu.device().api != "Vulkan", "no clock");
        assert!(launch.device.is_none_or(|device| device > 0.0 && device < 1.0), "{launch:?}");
    }

    #[test]
    fn the_device_is_not_busy_while_the_host_sleeps() {
        let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
        let sleep = std::time::Duration::from_millis(50);
        let work = || {
            gpu.launch_often("nothing", 1, 3);
            model::Ops::wait(&gpu).unwrap();
            std::thread::sleep(sleep);
            gpu.launch_often("nothing", 1, 3);
        };
        let ((), clocked) = gpu.clocked(work).unwrap();
        assert!(clocked.is_some() || gpu.device().api != "Vulkan", "no clock");
        if let Some(Clocked { span, busy }) = clocked {
            assert!(busy > 0.0, "{busy}");
            assert!(span - busy > 0.9 * sleep.as_secs_f64(), "{span} {busy}");
        }
    }
}
