//! How long each kernel takes, by the device's own clock.
//!
//! With a profile every launch is a pass of its own, stamped before and after: it says where the time
//! goes, while the sum is larger than without (launches no longer overlap, and every flush waits).

use crate::gpu::Inner;
use crate::stamps::Stamps;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Launches that one query set has room for; a flush of more is not fully counted.
const MOST: u32 = 2048;

/// Times of kernels so far.
#[derive(Debug)]
pub struct Profile {
    stamps: Stamps,
    labels: Mutex<Vec<String>>,
    times: Mutex<BTreeMap<String, Time>>,
}

/// Time of one kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time {
    /// Launches.
    pub launches: u64,
    /// Nanoseconds of all of them.
    pub nanoseconds: f64,
}

/// One flush under the clock.
pub(crate) struct Flush<'a> {
    profile: &'a Profile,
}

impl Profile {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Profile {
        Profile {
            stamps: Stamps::new(device, queue, 2 * MOST),
            labels: Mutex::default(),
            times: Mutex::default(),
        }
    }

    /// Times so far, by kernel.
    pub fn times(&self) -> BTreeMap<String, Time> {
        self.times.lock().map(|times| times.clone()).unwrap_or_default()
    }

    /// Forgets all times.
    pub fn reset(&self) {
        if let Ok(mut times) = self.times.lock() {
            times.clear();
        }
    }

    pub(crate) fn begin(&self, _: &Inner, launches: usize) -> Flush<'_> {
        if let Ok(mut labels) = self.labels.lock() {
            *labels = Vec::with_capacity(launches);
        }
        Flush { profile: self }
    }
}

impl Flush<'_> {
    /// Launches noted so far.
    fn launches(&self) -> u32 {
        self.profile.labels.lock().map_or(0, |labels| labels.len() as u32)
    }

    /// Stamps for the launch that is noted next.
    pub(crate) fn pass(&self) -> wgpu::ComputePassTimestampWrites<'_> {
        let index = self.launches().min(MOST - 1);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.profile.stamps.queries,
            beginning_of_pass_write_index: Some(2 * index),
            end_of_pass_write_index: Some(2 * index + 1),
        }
    }

    pub(crate) fn note(&self, label: &str) {
        if let Ok(mut labels) = self.profile.labels.lock() {
            labels.push(label.to_owned());
        }
    }

    pub(crate) fn end(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = self.launches().min(MOST);
        if count > 0 {
            self.profile.stamps.fetch(encoder, 2 * count);
        }
    }

    pub(crate) fn collect(&self, gpu: &Inner, submission: wgpu::SubmissionIndex) {
        let (p, count) = (self.profile, self.launches().min(MOST));
        if count == 0 {
            return;
        }
        let Ok(stamps) = p.stamps.read(gpu, 2 * count, submission) else {
            return; // the failure is remembered and surfaces at the next read
        };
        if let (Ok(labels), Ok(mut times)) = (p.labels.lock(), p.times.lock()) {
            for (label, stamp) in labels.iter().zip(stamps.as_chunks::<2>().0) {
                let time = times.entry(label.clone()).or_default();
                time.launches += 1;
                time.nanoseconds += stamp[1].saturating_sub(stamp[0]) as f64 * p.stamps.period;
            }
        }
    }
}
