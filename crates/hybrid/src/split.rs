//! Which part of a model is on which side.

/// Which layers are on the GPU: the last ones, with everything behind them. Embeddings are looked up on the
/// CPU, where the file is mapped, so the streams cross once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    layers: usize,
    on_gpu: usize,
    cpu_moe: bool,
    lends: bool,
}

/// A split that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say what the fields are
pub enum SplitError {
    #[error("--gpu-layers {asked}: this model has {layers} layers")]
    TooMany { asked: usize, layers: usize },
    #[error("--cpu-moe with --gpu-layers 0: nothing would be left for the GPU; use --backend cpu")]
    NothingLeft,
}

impl Split {
    /// The last `on_gpu` of `layers` layers on the GPU; with `cpu_moe` without their routed experts, which are lent to
    /// it for long batches.
    ///
    /// # Errors
    ///
    /// If there are not that many layers, or the experts are kept from a GPU that gets nothing.
    pub fn new(layers: usize, on_gpu: usize, cpu_moe: bool) -> Result<Split, SplitError> {
        match on_gpu {
            _ if on_gpu > layers => Err(SplitError::TooMany { asked: on_gpu, layers }),
            0 if cpu_moe => Err(SplitError::NothingLeft),
            _ => Ok(Split { layers, on_gpu, cpu_moe, lends: cpu_moe }),
        }
    }

    /// Layers of the model.
    pub fn layers(self) -> usize {
        self.layers
    }

    /// How many of them are on the GPU.
    pub fn on_gpu(self) -> usize {
        self.on_gpu
    }

    /// Whether the routed experts of these are on the CPU.
    pub fn cpu_moe(self) -> bool {
        self.cpu_moe
    }

    /// The same, but that the CPU computes its experts for long batches, too.
    pub fn without_lending(self) -> Split {
        Split { lends: false, ..self }
    }

    /// Whether routed experts on the CPU are lent to the GPU.
    pub fn lends(self) -> bool {
        self.lends
    }

    /// The first layer on the GPU; the number of layers if there is none.
    pub fn border(self) -> usize {
        self.layers - self.on_gpu
    }

    /// Whether a layer is on the GPU. The MTP block, whose number is that of the layers, comes after the last.
    pub fn has_layer(self, layer: usize) -> bool {
        self.on_gpu > 0 && layer >= self.border()
    }

    /// Whether a tensor's matrix is on the GPU, by its name in the file.
    pub fn has_tensor(self, name: &str) -> bool {
        match of_layer(name) {
            Some((layer, part)) => {
                // The MTP block takes its tokens in where the embeddings are.
                let entry = part.starts_with("nextn.");
                self.has_layer(layer) && !entry && !(of_experts(part) && self.cpu_moe)
            }
            None => name.starts_with("output") && self.on_gpu > 0,
        }
    }

    /// Whether a tensor's matrix is lent to the GPU, by its name in the file.
    pub fn lends_tensor(self, name: &str) -> bool {
        self.lends && of_layer(name).is_some_and(|(layer, part)| self.has_layer(layer) && of_experts(part))
    }
}

/// A layer, and which of its tensors this is.
fn of_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// Whether a layer's tensor is of its routed experts.
fn of_experts(part: &str) -> bool {
    part.contains("_exps.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layers_are_on_the_gpu() {
        let check = |on_gpu, cpu_moe, want: &[&str]| {
            let split = Split::new(3, on_gpu, cpu_moe).unwrap();
            let names = ["token_embd.weight", "blk.1.attn_q_a.weight", "blk.1.ffn_up_exps.weight"];
            let more = ["blk.2.ffn_up_shexp.weight", "blk.3.nextn.eh_proj.weight", "output.weight"];
            let found: Vec<_> = names.iter().chain(&more).filter(|name| split.has_tensor(name)).collect();
            assert_eq!(found, want.iter().collect::<Vec<_>>(), "{split:?}");
        };
        let (q_a, exps) = ("blk.1.attn_q_a.weight", "blk.1.ffn_up_exps.weight");
        let (shexp, output) = ("blk.2.ffn_up_shexp.weight", "output.weight");
        check(0, false, &[]);
        check(1, false, &[shexp, output]);
        check(2, false, &[q_a, exps, shexp, output]);
        check(3, true, &[q_a, shexp, output]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let error = |on_gpu, cpu_moe| Split::new(3, on_gpu, cpu_moe).unwrap_err().to_string();
        assert_eq!(error(4, false), "--gpu-layers 4: this model has 3 layers");
        assert!(error(0, true).contains("nothing would be left"));
    }
}
