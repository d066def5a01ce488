//! Which tensor has which format.

use gguf::TensorType;
use gguf::TensorType::{BF16, F16, F32, IQ2_XXS, MXFP4, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};

/// A way to store a model, after the files that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Everything as it was computed: F32.
    F32,
    /// Matrices BF16.
    Bf16,
    /// Experts IQ2_XXS (gate, up) and Q2_K (down).
    Q2,
    /// Experts Q4_K.
    Q4,
    /// Experts MXFP4, as the official checkpoint has them.
    Mxfp4,
    /// Experts Q8_0.
    Q8,
    /// Every format somewhere: experts Q3_K, Q5_K and Q6_K, others Q2_K to Q8_0, as files tuned tensor
    /// by tensor have them.
    Mix,
}

/// What a tensor is for, as far as its format depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Embedding,
    Output,
    /// Attention's projections and the shared expert.
    Dense,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    /// Compressors, indexer, hyper-connections and router: small matrices that decide much.
    Sensitive,
    /// Norms, biases, sinks and scales.
    Vector,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Self; 7] = [Self::F32, Self::Bf16, Self::Q2, Self::Q4, Self::Mxfp4, Self::Q8, Self::Mix];

    /// The name users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q2 => "q2",
            Self::Q4 => "q4",
            Self::Mxfp4 => "mxfp4",
            Self::Q8 => "q8",
            Self::Mix => "mix",
        }
    }

    /// The recipe of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|recipe| recipe.name() == name)
    }

    /// `general.file_type` of such files: the nearest value of llama.cpp's `enum llama_ftype`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 32,
            Self::Q2 => 19,
            Self::Q4 => 15,
            Self::Mxfp4 => 38,
            Self::Q8 => 7,
            Self::Mix => 17,
        }
    }

    /// Whether some rows must be a multiple of 256 long to have the format that they should have.
    pub fn has_blocks_of_256(self) -> bool {
        matches!(self, Self::Q2 | Self::Q4 | Self::Mix)
    }

    /// The type of tensor `name` with rows of `row` weights. Rows that are no whole number of blocks
    /// get Q8_0 instead, or else F16, as quantizers do.
    pub(super) fn type_of(self, name: &str, row: u64) -> TensorType {
        let wanted = self.wanted(Role::of(name));
        let fits = |kind: &TensorType| row.is_multiple_of(kind.block_elements());
        [wanted, Q8_0, F16].into_iter().find(fits).expect("F16 has blocks of one")
    }

    fn wanted(self, role: Role) -> TensorType {
        match (self, role) {
            (_, Role::Vector) | (Self::F32, _) => F32,
            (Self::Bf16, _) => BF16,
            (Self::Mix, role) => mixed(role),

            (_, Role::Embedding | Role::Sensitive) => F16,
            (_, Role::Output | Role::Dense) => Q8_0,
            (Self::Q2, Role::ExpertGate | Role::ExpertUp) => IQ2_XXS,
            (Self::Q2, Role::ExpertDown) => Q2_K,
            (Self::Q4, _) => Q4_K,
            (Self::Mxfp4, _) => MXFP4,
            (Self::Q8, _) => Q8_0,
        }
    }
}

fn mixed(role: Role) -> TensorType {
    match role {
        Role::Embedding => Q4_K,
        Role::Output => Q6_K,
        Role::Dense => Q5_K,
        Role::ExpertGate => Q3_K,
        Role::ExpertUp => MXFP4,
        Role::ExpertDown => Q2_K,
        Role::Sensitive => BF16,
        Role::Vector => F32,
    }
}

impl Role {
    fn of(name: &str) -> Self {
        let has = |part: &str| name.contains(part);
        if name == "token_embd.weight" {
            Self::Embedding
        } else if name == "output.weight" {
            Self::Output
        } else if has("norm") || has("sinks") || has("probs") || has("_base.") || has("_scale.") {
            Self::Vector
        } else if has("ffn_gate_exps") {
            Self::ExpertGate
        } else if has("ffn_up_exps") {
            Self::ExpertUp
        } else if has("ffn_down_exps") {
            Self::ExpertDown
        } else if has("compressor") || has("indexer") || has("hc_") || has("ffn_gate_inp") {
            Self::Sensitive
        } else {
            Self::Dense
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_is_that_of_the_published_files() {
        let check = |name: &str, want| assert_eq!(Recipe::Q2.type_of(name, 4096), want, "{name}");
        check("token_embd.weight", F16);
        check("output.weight", Q8_0);
        check("output_norm.weight", F32);
        check("output_hc_fn.weight", F16);
        check("output_hc_scale.weight", F32);
        check("blk.2.hc_attn_fn.weight", F16);
        check("blk.2.hc_ffn_base.weight", F32);
        check("blk.2.attn_q_a_norm.weight", F32);
        check("blk.2.attn_sinks.weight", F32);
        check("blk.2.attn_q_a.weight", Q8_0);
        check("blk.2.attn_output_b.weight", Q8_0);
        check("blk.2.attn_compressor_kv.weight", F16);
        check("blk.2.attn_compressor_ape.weight", F16);
        check("blk.2.attn_compressor_norm.weight", F32);
        check("blk.2.indexer.attn_q_b.weight", F16);
        check("blk.2.indexer.proj.weight", F16);
        check("blk.2.ffn_gate_inp.weight", F16);
        check("blk.2.exp_probs_b.bias", F32);
        check("blk.2.ffn_gate_exps.weight", IQ2_XXS);
        check("blk.2.ffn_up_exps.weight", IQ2_XXS);
        check("blk.2.ffn_down_exps.weight", Q2_K);
        check("blk.2.ffn_up_shexp.weight", Q8_0);
    }

    #[test]
    fn short_rows_get_a_format_with_shorter_blocks() {
        assert_eq!(Recipe::Q4.type_of("blk.0.ffn_up_exps.weight", 256), Q4_K);
        assert_eq!(Recipe::Q4.type_of("blk.0.ffn_up_exps.weight", 96), Q8_0);
        assert_eq!(Recipe::Q4.type_of("blk.0.ffn_up_exps.weight", 40), F16);
    }
}
