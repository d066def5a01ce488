//! How the numbers of each tensor are distributed.
//!
//! Chosen so that activations keep their size from layer to layer, as in a trained model, and so that
//! nothing is idle: clamps clamp, sinks take a share, biases change choices, mixing matrices mix.
//! A matrix with normal weights of deviation `gain / sqrt(inputs)` multiplies the size of its input by
//! `gain`; the two that write into the streams have a small one, as there are two in every layer.

use gguf::{TensorInfo, TensorType};
use quants::Format;

use super::blocks::Blocks;
use super::stream::Stream;

/// The distribution of a tensor's numbers.
pub(super) enum Law {
    /// Normal, or as near to it as the format can.
    Normal(Blocks),
    /// Uniform between two numbers, in F32.
    Uniform { low: f32, high: f32 },
    /// Rows of `used` different experts out of `experts`.
    Experts { used: usize, experts: u32 },
}

impl Law {
    /// The law of `tensor` in a model with `experts` experts.
    pub fn of(tensor: &TensorInfo, experts: u32) -> Self {
        let inputs = tensor.dim(0) as f32;
        if tensor.kind == TensorType::I32 {
            return Self::Experts { used: tensor.dim(0) as usize, experts };
        }
        let stem = stem(&tensor.name);
        let matrix = |gain: f32| gain / inputs.sqrt();
        let deviation = match stem {
            _ if stem.ends_with("_scale") => return Self::Uniform { low: 0.6, high: 1.2 },
            "attn_kv_a_norm" | "attn_compressor_norm" => return Self::Uniform { low: 0.8, high: 2.4 },
            _ if stem.ends_with("norm") => return Self::Uniform { low: 0.5, high: 1.6 },
            "attn_sinks" => return Self::Uniform { low: 0.0, high: 2.0 },
            "token_embd" => 1.0,
            _ if stem.ends_with("_ape") => 1.0,
            _ if stem.ends_with("_base") => 0.5,
            "exp_probs_b" => 0.4,
            "output" => matrix(2.6),
            _ if stem.ends_with("_fn") => matrix(1.3),
            "ffn_gate_inp" => matrix(1.4),
            "ffn_gate_exps" | "ffn_up_exps" | "ffn_gate_shexp" | "ffn_up_shexp" => matrix(1.3),
            "attn_output_b" | "ffn_down_exps" | "ffn_down_shexp" => matrix(0.3),
            "attn_output_a" => matrix(1.6),
            _ if stem.ends_with("compressor_gate") => matrix(1.5),
            _ => matrix(1.0),
        };
        let format = Format::from_ggml_id(tensor.kind.id()).expect("recipes name formats we have");
        Self::Normal(Blocks::new(format, deviation))
    }

    /// Data is made in multiples of this many bytes.
    pub fn unit_bytes(&self) -> usize {
        match self {
            Self::Normal(blocks) => blocks.format().block_bytes(),
            Self::Uniform { .. } => size_of::<f32>(),
            Self::Experts { used, .. } => used * size_of::<i32>(),
        }
    }

    /// Makes the data for `bytes`, a multiple of [`unit_bytes`](Self::unit_bytes) long.
    pub fn fill(&self, bytes: &mut [u8], stream: &mut Stream) {
        match self {
            Self::Normal(blocks) => blocks.fill(bytes, stream),
            Self::Uniform { low, high } => {
                for number in bytes.chunks_exact_mut(size_of::<f32>()) {
                    let x = low + (high - low) * stream.unit();
                    number.copy_from_slice(&x.to_le_bytes());
                }
            }
            Self::Experts { used, experts } => {
                for row in bytes.chunks_exact_mut(self.unit_bytes()) {
                    let chosen = choose(*used, *experts, stream);
                    for (number, expert) in row.chunks_exact_mut(size_of::<i32>()).zip(chosen) {
                        number.copy_from_slice(&expert.to_le_bytes());
                    }
                }
            }
        }
    }
}

/// `blk.3.attn_q_a.weight` -> `attn_q_a`
fn stem(name: &str) -> &str {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _weight_or_bias)| stem);
    stem.rsplit_once('.').map_or(stem, |(_, last)| last)
}

/// `count` different numbers below `of`. Source: Floyd's algorithm, Bentley, "Programming Pearls: a
/// sample of brilliance" (1987).
fn choose(count: usize, of: u32, stream: &mut Stream) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(count);
    for last in of - count as u32..of {
        let x = stream.below(last + 1);
        chosen.push(if chosen.contains(&x) { last } else { x });
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_experts_differ_and_all_are_chosen_at_times() {
        let mut seen = [0; 8];
        let mut stream = Stream::new(1, "table", 0);
        for _ in 0..1000 {
            let mut row = choose(3, 8, &mut stream);
            row.iter().for_each(|&expert| seen[expert as usize] += 1);
            row.sort();
            assert!(row[0] < row[1] && row[1] < row[2] && row[2] < 8, "{row:?}");
        }
        assert!(seen.iter().all(|&n| (300..450).contains(&n)), "{seen:?}");
        assert_eq!(choose(4, 4, &mut stream).len(), 4);
    }

    #[test]
    fn stems_are_the_last_word() {
        assert_eq!(stem("token_embd.weight"), "token_embd");
        assert_eq!(stem("blk.3.exp_probs_b.bias"), "exp_probs_b");
        assert_eq!(stem("blk.3.indexer.attn_q_b.weight"), "attn_q_b");
    }
}
