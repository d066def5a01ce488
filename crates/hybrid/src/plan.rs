//! What running a model on both sides takes, before anything is allocated.

use crate::lent;
use crate::split::Split;
use gguf::Gguf;
use gpu::Device;
use model::Config;
use model::load::inventory;
use std::fmt;
use std::ops::Range;

/// Memory on both sides, in bytes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is where.
    pub split: Split,
    /// On the GPU.
    pub gpu: gpu::Plan,
    /// Weights that stay in the mapped file.
    pub host_weights: u64,
    /// Cached rows of the layers on the CPU.
    pub host_cache: u64,
}

/// Why a plan cannot be carried out, with the numbers and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Plan {
    /// The plan for a model whose file has been checked.
    ///
    /// - `cache`: bytes of the cached rows of some layers
    pub fn new(
        device: &Device,
        gguf: &Gguf,
        config: &Config,
        split: Split,
        cache: impl Fn(Range<usize>) -> u64,
    ) -> Plan {
        let (border, layers) = (split.border(), split.layers());
        // Vectors are few, and wherever they are needed; of the matrices each is on one side.
        let there = |name: &str| split.has_tensor(name);
        let stays = |name: &str| !split.has_tensor(name);
        let by_layer: Vec<u64> = (border..layers).map(|layer| cache(layer..layer + 1)).collect();
        let size = |name: &str| gguf.tensor(name).map_or(0, |tensor| tensor.bytes);
        let berths = lent::parts().map(|is_part| move |name: &str| split.lends_tensor(name) && is_part(name));
        Plan {
            split,
            gpu: gpu::Plan::new(device, gguf, config, &by_layer, there)
                .lending(device, gguf, config, &berths),
            host_weights: inventory(config)
                .iter()
                .map(|t| &t.name)
                .filter(|n| stays(n))
                .map(|n| size(n))
                .sum(),
            host_cache: cache(0..border),
        }
    }

    /// This plan; or that without lending experts, if there is room on the GPU for that alone.
    ///
    /// - `at`: the plan for another split of the same model
    pub fn or_without_lending(self, at: impl Fn(Split) -> Plan) -> Plan {
        if self.split.lends() && self.gpu.check().is_err() {
            let other = at(self.split.without_lending());
            if other.gpu.check().is_ok() {
                return other;
            }
        }
        self
    }

    /// Whether it can be carried out, as far as that is known.
    ///
    /// - `at`: the plan for another split of the same model, to find one that fits
    ///
    /// # Errors
    ///
    /// If the GPU has less memory, or a tensor fits in no way: with the numbers, and the split that would do.
    pub fn check(&self, at: impl Fn(Split) -> Plan) -> Result<(), Refusal> {
        let Err(refusal) = self.gpu.check() else {
            return Ok(());
        };
        let fits = |on_gpu, cpu_moe| {
            let split = Split::new(self.split.layers(), on_gpu, cpu_moe);
            split.is_ok_and(|split| at(split.without_lending()).gpu.check().is_ok())
        };
        let most = |cpu_moe| (1..self.split.on_gpu()).rev().find(|&on_gpu| fits(on_gpu, cpu_moe));
        let cpu_moe = self.split.cpu_moe();
        let mut mends = Vec::new();
        if !cpu_moe && fits(self.split.on_gpu(), true) {
            mends.push(format!("--gpu-layers {} --cpu-moe would fit", self.split.on_gpu()));
        }
        if let Some(on_gpu) = most(cpu_moe) {
            let moe = if cpu_moe { " --cpu-moe" } else { "" };
            mends.push(format!("--gpu-layers {on_gpu}{moe} would fit"));
        }
        let mend = if mends.is_empty() { "no layer would fit".to_owned() } else { mends.join(", ") };
        Err(Refusal(format!("{refusal}; {mend}")))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (on_gpu, layers) = (self.split.on_gpu(), self.split.layers());
        let experts = match (self.split.cpu_moe(), self.split.lends()) {
            (false, _) => "",
            (true, true) => " without their experts",
            (true, false) => " without their experts, of which none are lent to it,",
        };
        write!(
            f,
            "{on_gpu} of {layers} layers{experts} on the GPU: {}; on the CPU {} of weights and {} of KV cache",
            self.gpu,
            gpu::megabytes(self.host_weights),
            gpu::megabytes(self.host_cache)
        )
    }
}
