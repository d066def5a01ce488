//! How long the device itself takes for some work, by its own clock.
//!
//! While the clock runs, each submission is stamped where it begins and where it ends. Between two of them the device
//! has nothing to do. Unlike with a profile, launches of a submission still overlap, and nothing is waited for.

use crate::gpu::{Gpu, Inner, lock};
use crate::stamps::Stamps;
use model::ops::DeviceError;
use std::sync::Mutex;

/// Stamps that there is room for: two of each submission.
const MOST: u32 = 2048;

/// What the device's clock says of some work, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clocked {
    /// From the beginning of its first submission to the end of its last.
    pub span: f64,
    /// The same without what lies between submissions, while the device waits for the host.
    pub busy: f64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    stamps: Stamps,
    /// Stamps asked for so far, while it runs.
    asked: Mutex<Option<u32>>,
}

impl Clock {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Clock {
        Clock { stamps: Stamps::new(device, queue, MOST), asked: Mutex::default() }
    }

    /// What stamps its place in a submission, if the clock runs: when all ahead of it is done.
    pub(crate) fn stamp(&self, device: &wgpu::Device) -> Option<wgpu::CommandBuffer> {
        let mut asked = lock(&self.asked);
        let index = asked.as_mut()?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        if *index < MOST {
            // An empty pass.
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &self.stamps.queries,
                    beginning_of_pass_write_index: Some(*index),
                    end_of_pass_write_index: None,
                }),
            });
        }
        *index += 1;
        Some(encoder.finish())
    }

    fn start(&self) {
        *lock(&self.asked) = Some(0);
    }

    /// Waits for the stamps and reads them; `None` if there are none, or more than there is room for.
    fn stop(&self, gpu: &Inner) -> Result<Option<Clocked>, DeviceError> {
        let count = match lock(&self.asked).take() {
            Some(count @ 1..=MOST) => count,
            _ => return Ok(None),
        };
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        self.stamps.fetch(&mut encoder, count);
        let submission = gpu.queue.submit([encoder.finish()]);
        let stamps = self.stamps.read(gpu, count, submission)?;
        Ok(clocked(stamps.as_chunks().0, self.stamps.period))
    }
}

/// - `submissions`: the stamps of each, in ticks; zero where the driver wrote none
/// - `period`: nanoseconds of a tick
fn clocked(submissions: &[[u64; 2]], period: f64) -> Option<Clocked> {
    let stamps = submissions.as_flattened();
    if stamps.contains(&0) || !stamps.is_sorted() {
        return None;
    }
    let seconds = |ticks: u64| ticks as f64 * period / 1e9;
    Some(Clocked {
        span: seconds(stamps.last()? - stamps.first()?),
        busy: seconds(submissions.iter().map(|[begin, end]| end - begin).sum()),
    })
}

impl Gpu {
    /// Does `work` and waits for it; says how long the device took, if it has a clock.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn clocked<T>(&self, work: impl FnOnce() -> T) -> Result<(T, Option<Clocked>), DeviceError> {
        self.0.wait(&mut self.0.recorder())?; // for what was asked before, which is no part of it
        if let Some(clock) = &self.0.clock {
            clock.start();
        }
        let done = work();
        self.0.wait(&mut self.0.recorder())?;
        let clocked = self.0.clock.as_ref().map_or(Ok(None), |clock| clock.stop(&self.0))?;
        Ok((done, clocked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_between_submissions_are_not_work() {
        let Clocked { span, busy } = clocked(&[[1000, 1300], [1800, 2000]], 2.0).unwrap();
        assert!((span - 2000e-9).abs() < 1e-15 && (busy - 1000e-9).abs() < 1e-15, "{span} {busy}");
    }

    #[test]
    fn stamps_that_cannot_be_true_say_nothing() {
        for submissions in [&[[0, 5]][..], &[[5, 0]], &[[9, 5]], &[[5, 9], [8, 10]], &[]] {
            assert!(clocked(submissions, 1.0).is_none(), "{submissions:?}");
        }
    }
}
