//! Experts that add nothing.
//!
//! Both backends compute routed and shared experts together, in as few passes as they can. Where the routed ones
//! are on the CPU and the shared one on the GPU, each side does the whole operation and has an expert of zeros in
//! the place of what the other side has. That costs a few rows of zeros a layer, and keeps `Ops::moe` one operation.

use gguf::Bytes;
use gpu::Gpu;
use model::Ops;
use model::ops::DeviceError;
use model::weights::{Expert, Experts, Matrix, Router};
use quants::Format;

/// Inner width on the GPU, whose kernels take 32 weights at a time.
const GPU_WIDTH: usize = 32;

/// In the place of the shared expert on the CPU: one inner value.
pub(crate) fn shared<H: Ops<Matrix = Matrix>>(width: usize) -> Expert<H> {
    let zeros = |rows, cols| zeros(Format::F32, rows, cols);
    Expert { gate: zeros(1, width), up: zeros(1, width), down: zeros(width, 1), ff: 1, clamp: f32::INFINITY }
}

/// In the place of the routed experts on the GPU: one, and a router that sends everybody there.
pub(crate) struct Routed {
    pub(crate) router: Router<Gpu>,
    pub(crate) experts: Experts<Gpu>,
}

impl Routed {
    /// # Errors
    ///
    /// If the device has no room.
    pub(crate) fn new(gpu: &Gpu, width: usize) -> Result<Routed, DeviceError> {
        let zeros = |rows, cols| gpu.matrix(zeros(Format::F16, rows, cols));
        let stack = Expert {
            gate: zeros(GPU_WIDTH, width)?,
            up: zeros(GPU_WIDTH, width)?,
            down: zeros(width, GPU_WIDTH)?,
            ff: GPU_WIDTH,
            clamp: f32::INFINITY,
        };
        let router =
            Router { gate: zeros(1, width)?, bias: None, table: Some([0].into()), used: 1, scale: 1.0 };
        Ok(Routed { router, experts: Experts { stack, count: 1 } })
    }
}

fn zeros(format: Format, rows: usize, cols: usize) -> Matrix {
    let size = rows * format.row_bytes(cols).expect("floats have blocks of one");
    Matrix { name: "zeros".into(), format, rows, cols, bytes: Bytes::from(vec![0; size]) }
}
