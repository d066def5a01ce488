//! The weights of a model as a backend holds them: one struct for each part that an operation of
//! [`crate::Ops`] takes, with the constants that part needs.
//!
//! Start at [`Model`]. Loading one from a file is in [`crate::load`].

use crate::config::Config;
use crate::ops::Ops;
use crate::rope::Rope;
use std::sync::Arc;

/// A weight matrix as it lies in the file: `rows` rows of `cols` values, in blocks of `format`.
#[derive(Clone)]
pub struct Matrix {
    /// Name of the tensor in the file.
    pub name: String,
    /// How values are stored.
    pub format: quants::Format,
    /// Outputs; for stacked experts, those of all experts together.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows * format.row_bytes(cols)` bytes.
    pub bytes: gguf::Bytes,
}

/// A whole model on a backend.
pub struct Model<B: Ops> {
    /// What the file says of itself.
    pub config: Config,
    /// Identifies weights and metadata; see [`crate::load::fingerprint`].
    pub fingerprint: [u8; 32],
    /// `[vocab, d]`
    pub embedding: B::Matrix,
    /// The layers, first to last.
    pub layers: Vec<Layer<B>>,
    /// From streams to logits.
    pub head: Head<B>,
    /// The block that drafts a further token, if the file has one.
    pub mtp: Option<Mtp<B>>,
    /// Rotation in layers that see the window only.
    pub plain_rope: Rope,
    /// Rotation in layers that compress.
    pub compressed_rope: Rope,
}

/// One layer: attention, then experts, each between an entry and an exit of the streams.
pub struct Layer<B: Ops> {
    /// Entry of the attention.
    pub attn_hc: HyperConnection<B>,
    /// `[d]`
    pub attn_norm: Norm<B>,
    /// Attention.
    pub attn: Attention<B>,
    /// Entry of the experts.
    pub ffn_hc: HyperConnection<B>,
    /// `[d]`
    pub ffn_norm: Norm<B>,
    /// Which experts a row goes to.
    pub router: Router<B>,
    /// The routed experts.
    pub experts: Experts<B>,
    /// The expert that every row goes to.
    pub shared: Expert<B>,
}

/// The weight of an RMS norm.
pub struct Norm<B: Ops> {
    /// One factor a component.
    pub weight: B::Array,
    /// Added to the mean square.
    pub eps: f32,
}

/// Parameters of one manifold-constrained hyper-connection.
pub struct HyperConnection<B: Ops> {
    /// `[hc·(2 + hc), hc·d]`: rows for pre, post, and comb (source-major).
    pub weights: B::Matrix,
    /// `[hc·(2 + hc)]`
    pub base: B::Array,
    /// `[3]`: pre, post, comb.
    pub scale: B::Array,
    /// Number of streams.
    pub hc: usize,
    /// Sinkhorn rounds, the first column division included.
    pub iterations: usize,
    /// Added to `pre` and in Sinkhorn's denominators.
    pub eps: f32,
    /// Added to the mean square of the streams.
    pub rms_eps: f32,
}

/// Multi-head attention over one shared row a position, with low-rank queries and outputs.
pub struct Attention<B: Ops> {
    /// `[q_lora, d]`
    pub q_a: B::Matrix,
    /// `[q_lora]`
    pub q_a_norm: Norm<B>,
    /// `[heads·D, q_lora]`
    pub q_b: B::Matrix,
    /// `[D, d]`
    pub kv: B::Matrix,
    /// `[D]`
    pub kv_norm: Norm<B>,
    /// `[heads]`: a logit that takes part in the softmax without a value.
    pub sinks: B::Array,
    /// `[groups·out_lora, heads/groups·D]`
    pub out_a: B::Matrix,
    /// `[d, groups·out_lora]`
    pub out_b: B::Matrix,
    /// Query heads.
    pub heads: usize,
    /// Width of a head and of a cached row.
    pub head_dim: usize,
    /// Output groups.
    pub groups: usize,
    /// Makes compressed rows, in layers that have them.
    pub compressor: Option<Compressor<B>>,
    /// Chooses among compressed rows, in ratio-4 layers.
    pub indexer: Option<Indexer<B>>,
}

/// Turns each window of `ratio` tokens into one row.
pub struct Compressor<B: Ops> {
    /// `[in, d]` with `in` = [`Compressor::inner_width`].
    pub kv: B::Matrix,
    /// `[in, d]`
    pub gate: B::Matrix,
    /// `[ratio, in]`: added to the gate by position inside the window.
    pub ape: B::Array,
    /// `[width]`
    pub norm: Norm<B>,
    /// Tokens in a window.
    pub ratio: usize,
    /// Width of the row.
    pub width: usize,
    /// Whether a window also draws on the one before it.
    pub overlap: bool,
}

impl<B: Ops> Compressor<B> {
    /// Width of k, and of g, of one token.
    pub fn inner_width(&self) -> usize {
        if self.overlap { 2 * self.width } else { self.width }
    }
}

/// The lightning indexer of a ratio-4 layer.
pub struct Indexer<B: Ops> {
    /// `[heads·width, q_lora]`
    pub q_b: B::Matrix,
    /// `[heads, d]`
    pub proj: B::Matrix,
    /// Heads of the indexer.
    pub heads: usize,
    /// Width of an index row.
    pub width: usize,
    /// Compressed rows that a token attends to at most.
    pub top_k: usize,
    /// Makes the index rows.
    pub compressor: Compressor<B>,
}

/// Chooses experts.
pub struct Router<B: Ops> {
    /// `[e, d]`
    pub gate: B::Matrix,
    /// `[e]`: added for the choice only.
    pub bias: Option<B::Array>,
    /// `[vocab, k]`: fixed experts of each token id, in hash-routed layers.
    pub table: Option<Arc<[u32]>>,
    /// k, experts chosen for a row.
    pub used: usize,
    /// What the shares of a row add up to.
    pub scale: f32,
}

/// Routed experts, stacked: expert `i` owns rows `[i·ff, (i+1)·ff)` of gate and up, `[i·d, (i+1)·d)` of down.
pub struct Experts<B: Ops> {
    /// The stacked matrices.
    pub stack: Expert<B>,
    /// e, number of experts.
    pub count: usize,
}

/// A gated feed-forward block.
pub struct Expert<B: Ops> {
    /// `[ff, d]`
    pub gate: B::Matrix,
    /// `[ff, d]`
    pub up: B::Matrix,
    /// `[d, ff]`
    pub down: B::Matrix,
    /// ff, the inner width.
    pub ff: usize,
    /// Limit of the gate from above and of up on both sides; infinite if there is none.
    pub clamp: f32,
}

/// From streams to logits.
pub struct Head<B: Ops> {
    /// `[hc, hc·d]`
    pub weights: B::Matrix,
    /// `[hc]`
    pub base: B::Array,
    /// `[1]`
    pub scale: B::Array,
    /// Number of streams.
    pub hc: usize,
    /// Added to `pre`.
    pub eps: f32,
    /// Added to the mean square of the streams.
    pub rms_eps: f32,
    /// `[d]`
    pub norm: Norm<B>,
    /// `[vocab, d]`, shared by the heads of the model and of its MTP block.
    pub output: Arc<B::Matrix>,
}

/// The multi-token-prediction block: a layer with an entry and a head of its own.
pub struct Mtp<B: Ops> {
    /// Mixes the main model's streams with a token.
    pub entry: MtpEntry<B>,
    /// A layer that sees its own window only.
    pub layer: Layer<B>,
    /// Its own norm; embedding and output matrix are the main model's.
    pub head: Head<B>,
}

/// How the MTP block takes in a token.
pub struct MtpEntry<B: Ops> {
    /// `[d, 2·d]`: columns for the embedding, then for the stream.
    pub eh_proj: B::Matrix,
    /// `[d]`, norm of the embedding.
    pub enorm: Norm<B>,
    /// `[d]`, norm of each stream.
    pub hnorm: Norm<B>,
    /// Number of streams.
    pub hc: usize,
}
