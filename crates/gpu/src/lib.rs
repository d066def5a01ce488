//! The model's operations on a GPU: one set of WGSL kernels on `wgpu`, for Metal, Vulkan and DX12.
//!
//! Start at [`Gpu`], which is an [`Ops`](model::Ops). What the host asks for is recorded
//! (`recorder`) and goes to the device when somebody reads; nothing is read back inside a step but what
//! was asked for. Then read `kernels`, where each shader lies beside its launcher, `shader`, which
//! puts shaders together, and `planes` and `rows` for how weights and cached rows lie on the device, `ferry` for how
//! weights get there.
//!
//! This crate knows nothing of requests and terminals.

mod adapter;
mod ahead;
mod array;
mod buffers;
mod clock;
mod exchange;
mod ferry;
mod gpu;
mod heap;
mod kernels;
mod matrix;
mod ops;
mod plan;
mod planes;
mod probe;
mod profile;
mod recorder;
mod rows;
mod shader;
mod stamps;
mod trial;
mod watch;

pub use adapter::{Choice, Device, Kind, devices, hardware_may_exist};
pub use array::{Array, Mix, Picks, Routes};
pub use clock::Clocked;
pub use exchange::Routed;
pub use gpu::{Abilities, Gpu, Options, megabytes};
pub use kernels::Side;
pub use matrix::{Berth, Matrix};
pub use plan::{Plan, Refusal};
pub use probe::LaunchSeconds;
pub use profile::{Profile, Time};
pub use rows::Rows;
pub use watch::{Bound, Holds, Launch};
