//! Experts that are on the CPU, lent to the GPU.
//!
//! A long batch needs most experts of a layer, and many rows of it share each. Then the way of all weights to the GPU
//! takes less time than the CPU would with the rows, and the GPU does the rest in next to none. For a short batch it is
//! the other way round.

use crate::matrix::Matrix;
use crate::ops::{Host, Hybrid};
use gpu::{Berth, Gpu};
use model::Config;
use model::ops::DeviceError;
use model::weights::{self, Expert, Experts};

/// Products that the CPU makes in the time in which a byte reaches the GPU: 16 quick cores make 1.1e12 of them a second,
/// and 16 lanes of PCIe 4 or 5 bring 20 to 30 GB. A machine with half of both is the same here.
const PRODUCTS_PER_BYTE: usize = 40;

/// The matrices of a layer's experts, by a part of their names.
const PARTS: [&str; 3] = [".ffn_gate_exps.", ".ffn_up_exps.", ".ffn_down_exps."];

/// For each of these, whether a tensor is that, by its name in the file.
pub(crate) fn parts() -> [impl Fn(&str) -> bool; PARTS.len()] {
    PARTS.map(|part| move |name: &str| name.contains(part))
}

/// Room on the GPU for the experts of one layer.
pub(crate) struct Berths {
    parts: [Berth; PARTS.len()],
    experts: usize,
    used: usize,
    /// The fewest rows of a batch for which experts are lent.
    least: usize,
}

impl Berths {
    pub(crate) fn new(config: &Config) -> Berths {
        Berths { parts: Default::default(), experts: config.experts, used: config.experts_used, least: 1 }
    }

    /// The fewest rows of a batch for which the experts that were seen so far are lent.
    pub(crate) fn least(&self) -> usize {
        self.least
    }

    /// Sees to it that a matrix has room, if it is one of experts.
    pub(crate) fn make_room(&mut self, gpu: &Gpu, matrix: &weights::Matrix) -> Result<(), DeviceError> {
        let Some(part) = parts().iter().position(|is_part| is_part(&matrix.name)) else {
            return Ok(());
        };
        // All of it has to come, and of each row it meets the experts used: a product for each of their weights.
        let bytes = PRODUCTS_PER_BYTE * matrix.bytes.len() * self.experts;
        let products = matrix.rows * matrix.cols * self.used;
        self.least = self.least.max(bytes.div_ceil(products));
        let room = gpu.make_room(&mut self.parts[part], matrix);
        room.map_err(|DeviceError(why)| DeviceError(format!("{why}, or --no-lending")))
    }

    /// Brings a layer's experts to the GPU, for what is asked of it before this is called again.
    pub(crate) fn lend<H: Host>(
        &self,
        gpu: &Gpu,
        experts: &Experts<Hybrid<H>>,
    ) -> Result<Experts<Gpu>, DeviceError> {
        let Expert { gate, up, down, ff, clamp } = &experts.stack;
        let lend = |part: usize, matrix: &Matrix| gpu.lend(&self.parts[part], matrix.held.host());
        let (gate, up, down) = (lend(0, gate)?, lend(1, up)?, lend(2, down)?);
        Ok(Experts { stack: Expert { gate, up, down, ff: *ff, clamp: *clamp }, count: experts.count })
    }
}
