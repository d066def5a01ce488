//! The numbers a model is made of.

/// Layers, widths and counts of a model. Names are those of [`model::Config`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // explained in `model::Config`
pub struct Sizes {
    /// How each layer compresses its past: 0, 4 or 128 tokens to a row. As many as there are layers.
    pub ratios: Vec<u32>,
    pub context: u32,
    pub width: u32,
    pub hc: u32,
    pub sinkhorn: u32,
    pub heads: u32,
    pub head_dim: u32,
    pub rope_dim: u32,
    pub q_lora: u32,
    pub out_groups: u32,
    pub out_lora: u32,
    pub window: u32,
    pub index_heads: u32,
    pub index_dim: u32,
    pub top_k: u32,
    pub experts: u32,
    pub experts_used: u32,
    pub expert_width: u32,
    pub hash_layers: u32,
    /// SwiGLU limit of all experts; 0 for none.
    pub clamp: f32,
    pub yarn_factor: f32,
    pub original_context: u32,
    /// Whether a block that drafts a further token follows the layers.
    pub mtp: bool,
}

impl Sizes {
    /// Window, CSA and HCA layers, hash-routed and bias-routed, with a window and a top-k so small
    /// that a prompt of a few hundred tokens makes the indexer choose.
    pub fn tiny() -> Self {
        Self {
            ratios: vec![0, 4, 128, 4, 128],
            context: 2048,
            width: 128,
            hc: 4,
            sinkhorn: 20,
            heads: 4,
            head_dim: 128,
            rope_dim: 32,
            q_lora: 64,
            out_groups: 2,
            out_lora: 32,
            window: 32,
            index_heads: 8,
            index_dim: 64,
            top_k: 24,
            experts: 10,
            experts_used: 3,
            expert_width: 32,
            hash_layers: 2,
            clamp: 1.5,
            yarn_factor: 4.0,
            original_context: 512,
            mtp: false,
        }
    }

    /// [`tiny`](Self::tiny) with all rows of large matrices a multiple of 256 long, as the formats with
    /// blocks of 256 weights need them, and fewer experts.
    pub fn tiny_with_long_rows() -> Self {
        Self {
            width: 256,
            q_lora: 256,
            out_lora: 128,
            experts: 6,
            experts_used: 2,
            expert_width: 256,
            clamp: 2.5,
            ..Self::tiny()
        }
    }

    /// DeepSeek V4 Flash, cut to its first `layers` layers and to `experts` experts. Source: the
    /// published `config.json`.
    pub fn flash(layers: usize, experts: u32) -> Self {
        let ratio = |layer| match layer {
            0 | 1 => 0,
            _ if layer % 2 == 0 => 4,
            _ => 128,
        };
        Self {
            ratios: (0..layers).map(ratio).collect(),
            context: 1 << 20,
            width: 4096,
            hc: 4,
            sinkhorn: 20,
            heads: 64,
            head_dim: 512,
            rope_dim: 64,
            q_lora: 1024,
            out_groups: 8,
            out_lora: 1024,
            window: 128,
            index_heads: 64,
            index_dim: 128,
            top_k: 512,
            experts,
            experts_used: experts.min(6),
            expert_width: 2048,
            hash_layers: layers.min(3) as u32,
            clamp: 10.0,
            yarn_factor: 16.0,
            original_context: 65536,
            mtp: false,
        }
    }

    /// Main layers.
    pub fn layers(&self) -> usize {
        self.ratios.len()
    }
}
