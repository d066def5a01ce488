//! What running a model on a device takes, before anything is allocated.

use crate::adapter::Device;
use crate::gpu::megabytes;
use crate::heap;
use crate::matrix::{Fit, fit};
use crate::planes::Planes;
use gguf::Gguf;
use model::load::{Kind, Tensor, inventory};
use model::{Config, Ratio};
use quants::Format;
use std::fmt;

/// Rows of the largest batches: as many of these as there is known to be memory for, and kernels can see, else as few as of
/// the last. The more rows meet an expert, the less the way of its weights costs each of them.
const ROWS: [usize; 3] = [4096, 2048, 1024];

/// Memory on the device, in bytes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Weights, as they are laid out there.
    pub weights: u64,
    /// Cached rows.
    pub cache: u64,
    /// What each row of a batch takes until the batch is done, about.
    pub row: u64,
    /// Rows that the widest array can have there.
    most_rows: u64,
    /// Room for weights that stay with the host and are lent: see [`Plan::lending`].
    pub lent: u64,
    /// What the device has; unknown where its driver does not say.
    pub memory: Option<u64>,
    /// A tensor that cannot be placed at all, and why.
    pub misfit: Option<String>,
    /// Cached rows of the layer that has most.
    pub layer_cache: u64,
    /// Cached rows that a layer can have there.
    pub most_layer_cache: u64,
    device: String,
}

/// Why a plan cannot be carried out, with the numbers and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Plan {
    /// The plan for a model whose file has been checked, with the bytes of each layer's cached rows.
    ///
    /// - `there`: which tensors go to the device, by name
    pub fn new(
        device: &Device,
        gguf: &Gguf,
        config: &Config,
        cache: &[u64],
        there: impl Fn(&str) -> bool,
    ) -> Plan {
        let mut plan = Plan {
            weights: 0,
            cache: cache.iter().sum(),
            row: row(config, cache.len()),
            most_rows: device.largest_buffer / widest(config),
            lent: 0,
            memory: device.memory,
            misfit: None,
            layer_cache: cache.iter().copied().max().unwrap_or(0),
            most_layer_cache: heap::most(device.largest_buffer),
            device: device.name.clone(),
        };
        for tensor in inventory(config).into_iter().filter(|tensor| there(&tensor.name)) {
            plan.weights += plan.placed(device, gguf, &tensor);
        }
        plan
    }

    /// The same with room for weights that are lent ([`crate::Berth`]).
    ///
    /// - `berths`: for each berth, which tensors are brought there, by name
    pub fn lending(
        mut self,
        device: &Device,
        gguf: &Gguf,
        config: &Config,
        berths: &[impl Fn(&str) -> bool],
    ) -> Plan {
        for there in berths {
            let lent = inventory(config).into_iter().filter(|tensor| there(&tensor.name));
            self.lent += lent.map(|tensor| self.placed(device, gguf, &tensor)).max().unwrap_or(0);
        }
        self
    }

    /// Bytes of a tensor on the device; takes note if it cannot be there.
    fn placed(&mut self, device: &Device, gguf: &Gguf, tensor: &Tensor) -> u64 {
        let Some(info) = gguf.tensor(&tensor.name) else { return 0 };
        let count: u64 = tensor.shape.iter().map(|&n| n as u64).product();
        match (tensor.kind, Format::from_ggml_id(info.kind.id())) {
            (Kind::Matrix, Some(format)) => {
                let cols = *tensor.shape.last().expect("a matrix has two axes");
                if let Fit::Never(why) = fit(device, format, count as usize / cols, cols) {
                    self.misfit.get_or_insert(format!("tensor {}: {why}", tensor.name));
                }
                Planes::of(format).bytes(count / format.block_len() as u64)
            }
            (Kind::Vector, _) => 4 * count,
            _ => 0, // tables stay with the host
        }
    }

    /// Rows of the largest batch that memory is planned for.
    pub fn rows(&self) -> usize {
        let fits = |rows: &usize| {
            *rows as u64 <= self.most_rows
                && self.memory.is_some_and(|memory| self.with_rows(*rows) <= memory)
        };
        ROWS.into_iter().find(fits).unwrap_or(ROWS[ROWS.len() - 1])
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.with_rows(self.rows())
    }

    fn with_rows(&self, rows: usize) -> u64 {
        self.weights + self.cache + self.lent + rows as u64 * self.row
    }

    /// Whether it can be carried out, as far as that is known.
    ///
    /// # Errors
    ///
    /// If the device has less memory, a tensor fits in no way, or the cached rows of a layer are more than a kernel may
    /// see there.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(misfit) = &self.misfit {
            return Err(Refusal(format!("{}: {misfit}; use --backend cpu", self.device)));
        }
        if self.layer_cache > self.most_layer_cache {
            return Err(Refusal(format!(
                "the KV cache does not fit on {}: a layer needs {} of it for one conversation, and a kernel there can \
                 use {}; use a smaller context (--ctx), --kv f8, or --backend cpu",
                self.device,
                megabytes(self.layer_cache),
                megabytes(self.most_layer_cache)
            )));
        }
        match self.memory {
            Some(memory) if self.total() > memory => Err(Refusal(format!(
                "this model does not fit on {}: {self}, but it has {}; use a smaller context (--ctx), \
                 a smaller model, or --backend cpu",
                self.device,
                megabytes(memory)
            ))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activations = self.rows() as u64 * self.row;
        let [weights, cache, activations, lent, total] =
            [self.weights, self.cache, activations, self.lent, self.total()].map(megabytes);
        let room = match self.lent {
            0 => String::new(),
            _ => format!(", {lent} of room for experts that are lent to it"),
        };
        write!(
            f,
            "{weights} of weights{room}, {cache} of KV cache and about {activations} of activations make {total}"
        )
    }
}

/// Bytes of a row in the arrays that live at the same time in the widest places of a layer, attention or the experts; and
/// of what the last so many layers keep of it until its batch is done: a row of the window, and inputs of compressors.
fn row(config: &Config, layers: usize) -> u64 {
    let streams = config.hc * config.width + 4 * config.width;
    let attention = 4 * config.heads * config.head_dim + 2 * config.out_groups * config.out_lora;
    let ff = config.expert_width.iter().max().copied().unwrap_or(0);
    let experts = config.experts_used * (2 * ff + config.width) + 3 * ff;
    let kept = |ratio: &Ratio| match ratio {
        Ratio::None => config.head_dim,
        Ratio::Hca => config.head_dim + 2 * ratio.inner_width(config.head_dim),
        Ratio::Csa => config.head_dim + 2 * ratio.inner_width(config.head_dim + config.index_dim),
    };
    let kept: usize = config.ratios.iter().rev().take(layers).map(kept).sum();
    4 * (streams + attention.max(experts) + kept) as u64
}

/// Bytes of a row of the widest array: queries, or what experts give.
fn widest(config: &Config) -> u64 {
    4 * (config.heads * config.head_dim).max(config.experts_used * config.width) as u64
}
