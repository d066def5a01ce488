//! Times that the device notes while it works, for `clock` and `profile`.

use crate::gpu::Inner;
use model::ops::DeviceError;

/// Room for stamps, and their way to the host.
#[derive(Debug)]
pub(crate) struct Stamps {
    pub(crate) queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    /// Nanoseconds of a tick.
    pub(crate) period: f64,
}

impl Stamps {
    /// - `most`: how many there is room for
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue, most: u32) -> Stamps {
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 8 * u64::from(most),
                usage,
                mapped_at_creation: false,
            })
        };
        Stamps {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: most,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            readable: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            period: f64::from(queue.get_timestamp_period()),
        }
    }

    /// Has the first `count` brought to where the host can read them.
    pub(crate) fn fetch(&self, encoder: &mut wgpu::CommandEncoder, count: u32) {
        encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, 8 * u64::from(count));
    }

    /// Waits for the submission that fetched the first `count`, and reads them, in ticks.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(crate) fn read(
        &self,
        gpu: &Inner,
        count: u32,
        submission: wgpu::SubmissionIndex,
    ) -> Result<Vec<u64>, DeviceError> {
        gpu.mapped(&self.readable, 8 * u64::from(count), submission, |bytes| {
            bytes.as_chunks().0.iter().map(|&stamp| u64::from_le_bytes(stamp)).collect()
        })
    }
}
