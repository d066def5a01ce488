//! The kernels: each file here launches the shader beside it, and says what goes where.

mod attend;
mod compress;
mod embed;
mod experts;
mod leaders;
mod linear;
mod norm;
mod pick;
mod route;
mod streams;
pub(crate) mod tiles;

pub(crate) use attend::{Attending, attend};
pub(crate) use compress::{Append, append, append_all, compress, move_rows};
pub(crate) use embed::{embed, gather};
pub(crate) use experts::moe;
pub(crate) use leaders::read_leaders;
pub(crate) use linear::{Beside, Linear, Output, linear, linear_beside, linear_into, linears};
pub(crate) use norm::{Norm, Norms, norm, norm_row, treated};
pub(crate) use pick::pick;
pub(crate) use route::route;
pub(crate) use streams::{Mixture, collapse, enter, leave, turn};
pub use tiles::Side;
pub(crate) use tiles::{on_matrix_units, whole_rows};

use crate::gpu::Inner;
use crate::shader::Variant;
use model::RowLayout;

/// Threads of a workgroup, where nothing speaks for another number.
pub(crate) const THREADS: u32 = 256;

/// Threads of a workgroup where few large ones are better than many: of kernels `.._dot`, since each rounds all of x, and of
/// `streams`, the last of which goes on alone. With more than this, too few fit a core.
pub(crate) fn large_threads(gpu: &Inner) -> u32 {
    gpu.limits.max_compute_invocations_per_workgroup.min(512)
}

/// A kernel whose threads work in teams.
pub(crate) fn teams(gpu: &Inner, kernel: &'static str, threads: u32) -> Variant {
    let lanes = gpu.abilities.lanes;
    Variant::of(kernel)
        .with("THREADS", threads)
        .with("LANES", lanes)
        .with("TEAMS", threads / lanes)
        .when("SUBGROUPS", gpu.abilities.subgroups)
}

/// A kernel whose threads do not work in teams.
pub(crate) fn threads(kernel: &'static str) -> Variant {
    Variant::of(kernel).with("THREADS", THREADS)
}

impl Variant {
    /// The constants by which shaders read and write rows of a layout.
    pub(crate) fn rows(self, layout: RowLayout) -> Variant {
        let with = self.with("WIDTH", layout.width()).with("SIXTEENS", layout.width() / 16);
        match layout {
            RowLayout::F32 { .. } => with.with("ROWS_F32", 1u32),
            RowLayout::F16 { .. } => with.with("ROWS_F16", 1u32),
            RowLayout::Latent8 { rope, .. } => with.with("LATENT8", 1u32).with("ROPE", rope),
            RowLayout::Index4 { .. } => with.with("INDEX4", 1u32),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
