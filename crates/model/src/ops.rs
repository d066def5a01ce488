//! [`Ops`]: the vocabulary that the model is written in.
//!
//! About a dozen operations on whole batches, each named for what the model does. [`crate::forward`]
//! says them in order; a backend decides how to do them, and may fuse or record whatever it likes as
//! long as what was asked for is what comes out. The formulas stand here, once; a backend's file can
//! be short and point back.
//!
//! Arrays are row-major f32, slowest axis first. Axis names, here and everywhere:
//!
//! | name | meaning |
//! |---|---|
//! | `n` | rows of the batch: one token of one timeline each |
//! | `hc`, `d` | residual streams, model width |
//! | `heads`, `D` | query heads; width of one head, of a cached row and of a compressed row |
//! | `e`, `k` | routed experts; experts chosen for one row |
//!
//! Operations do not fail: shapes were checked when the model was loaded, so a wrong one is our bug
//! and panics. What a device can refuse (memory, a lost device) surfaces where the host waits for it:
//! in [`Ops::read`] and when weights are taken over.
//!
//! `rms(x, w) = w * x / sqrt(mean(x^2) + eps)` over the last axis; `σ` is the logistic function.
//! The formulas are those of the DeepSeek V4 reference implementation.

use crate::kv::RowLayout;
use crate::rope::Angles;
use crate::timeline::PAGE;
use crate::weights::{
    Attention, Compressor, Expert, Experts, Head, HyperConnection, Matrix, MtpEntry, Norm, Router,
};
use std::ops::Range;

/// A device could not do what was asked. The message says which device and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// The operations of the model, on some device.
pub trait Ops: Sized + Send + Sync {
    /// Activations: f32 rows, or a small f32 vector of the model such as a norm weight.
    type Array: Send + Sync;
    /// A weight matrix, kept in its file form.
    type Matrix: Send + Sync;
    /// Cached rows of one kind.
    type Rows: RowStore;
    /// What [`Ops::hc_enter`] hands to [`Ops::hc_leave`]: `post` and `comb` of each row.
    type Mix: Send;
    /// What [`Ops::project`] hands to [`Ops::pick`]: one batch's queries to the lightning indexer.
    type Query: Send;
    /// The compressed rows chosen for each row of a batch.
    type Picks: Send;
    /// The experts chosen for each row of a batch, and their shares.
    type Routes: Send;

    // ----- taking over weights, moving data to and from the host -----

    /// Bytes that the device keeps for values between operations, as far as it counts them.
    fn scratch(&self) -> u64 {
        0
    }

    /// The fewest rows of a prompt that are worth a batch, where many take hardly longer than few.
    fn worthwhile_rows(&self) -> usize {
        1
    }

    /// The most rows of a prompt that are worth a batch: beyond that, more are not quicker, or there is no memory for them.
    fn most_rows(&self) -> usize {
        PAGE
    }

    /// Does `work`, which asks for operations whose results nobody reads, if that makes the same operations quicker later:
    /// a backend that compiles kernels when they are first asked for compiles them, and computes nothing. There must be
    /// nothing on the device but weights.
    fn rehearse(&self, _work: &mut dyn FnMut()) {}

    /// Does `work`, which asks for one step of a few rows, before the tokens of that step are known: those that it
    /// names only stand for them. So a device that works off what it was asked for can be asked for the next step
    /// while it is busy with this one. Nothing of it is done until [`Ops::go_on`] brings the tokens, and until then
    /// nothing may be asked for that depends on it.
    ///
    /// Says whether `work` was done. A backend whose operations are done when they return has nothing to gain, and
    /// does not do it.
    fn foresee(&self, _work: &mut dyn FnMut()) -> bool {
        false
    }

    /// The tokens of the step that was foreseen.
    fn go_on(&self, _tokens: &[u32]) {}

    /// Takes over a weight matrix.
    ///
    /// # Errors
    ///
    /// If the device has no room for it.
    fn matrix(&self, matrix: Matrix) -> Result<Self::Matrix, DeviceError>;

    /// Takes over rows of f32; `values.len()` is a multiple of `width`.
    ///
    /// # Errors
    ///
    /// If the device has no room for it.
    fn array(&self, values: Vec<f32>, width: usize) -> Result<Self::Array, DeviceError>;

    /// An empty store of cached rows.
    ///
    /// - `layer`: the layer that they belong to, for a backend that does not keep all layers in one place; the MTP
    ///   block's is the number of layers
    fn rows(&self, layout: RowLayout, layer: usize) -> Self::Rows;

    /// Waits until everything asked for so far is done: for measuring. A backend whose operations return
    /// when they are done has nothing to do.
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Waits for everything asked for so far and copies an array to the host.
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    fn read(&self, array: &Self::Array) -> Result<Vec<f32>, DeviceError>;

    /// Waits for everything asked for so far and, of each row of logits, copies to the host only what
    /// [`Leaders::of`] says, as asked for that row; `None` for a row of which too many tokens lead, or a logit is
    /// not finite. Nothing at all is said by a backend that has logits on the host anyway. In both cases
    /// [`Ops::read`] has them.
    ///
    /// - `logits`: `[rows, vocab]`; `asks`: `[rows]`
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    fn read_leaders(
        &self,
        logits: &Self::Array,
        asks: &[LeadersAsk],
    ) -> Result<Option<Vec<Option<Leaders>>>, DeviceError> {
        let _ = (logits, asks);
        Ok(None)
    }

    /// The chosen compressed rows of each row of the batch, ascending. For taps and tests.
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    fn read_picks(&self, picks: &Self::Picks) -> Result<Vec<Vec<u32>>, DeviceError>;

    /// The chosen experts of each row of the batch with their shares. For taps and tests.
    ///
    /// # Errors
    ///
    /// If the device failed since the last read.
    fn read_routes(&self, routes: &Self::Routes) -> Result<Vec<Vec<(u32, f32)>>, DeviceError>;

    // ----- streams -----

    /// Every stream of a row starts as the token's embedding.
    ///
    /// - `embedding`: `[vocab, d]`; `tokens`: `[n]`
    /// - returns streams `[n, hc, d]`
    fn embed(&self, embedding: &Self::Matrix, tokens: &[u32], hc: usize) -> Self::Array;

    /// Collapses the streams into one input for a sub-layer, normed (manifold-constrained
    /// hyper-connections):
    ///
    /// ```text
    /// z = fn · rms(v)                     v = the row's streams as one vector [hc·d], no norm weight
    /// pre[j]    = σ(z[j]·scale[0] + base[j]) + eps
    /// post[j]   = 2·σ(z[hc+j]·scale[1] + base[hc+j])
    /// comb[j,k] = sinkhorn(z[2hc+hc·j+k]·scale[2] + base[2hc+hc·j+k])
    /// x         = rms(Σ_j pre[j]·streams[j], norm)
    /// ```
    ///
    /// `sinkhorn`: softmax over `k` plus eps, columns divided by their sum plus eps, then `iterations - 1`
    /// times rows and columns.
    ///
    /// - `streams`: `[n, hc, d]`; `hc.weights`: `[hc·(2 + hc), hc·d]`
    /// - returns x `[n, d]`, and post and comb for [`Ops::hc_leave`]
    fn hc_enter(
        &self,
        streams: &Self::Array,
        hc: &HyperConnection<Self>,
        norm: &Norm<Self>,
    ) -> (Self::Array, Self::Mix);

    /// Writes a sub-layer's output back: `streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]`.
    /// The sum runs over the first index of `comb`.
    ///
    /// - `streams`: `[n, hc, d]`, replaced; `y`: `[n, d]`
    fn hc_leave(&self, streams: &mut Self::Array, y: &Self::Array, mix: &Self::Mix);

    /// Leaves one sub-layer and enters the next: one pass over the streams where a backend can.
    fn hc_turn(
        &self,
        streams: &mut Self::Array,
        y: &Self::Array,
        mix: &Self::Mix,
        next: &HyperConnection<Self>,
        norm: &Norm<Self>,
    ) -> (Self::Array, Self::Mix) {
        self.hc_leave(streams, y, mix);
        self.hc_enter(streams, next, norm)
    }

    /// Some rows of a batch.
    ///
    /// - `streams`: `[n, hc, d]`; `rows`: ascending, at least one
    /// - returns `[rows, hc, d]`
    fn take_rows(&self, streams: &Self::Array, rows: &[usize]) -> Self::Array;

    // ----- attention -----

    /// Everything that attention computes from a row alone.
    ///
    /// ```text
    /// r  = rms(q_a·x, q_a_norm)
    /// q  = q_b·r by head, each head divided by its RMS, then rotated
    /// kv = rms(kv·x, kv_norm), rotated
    /// compressor (of attention and of the indexer): k = wkv·x, g = wgate·x + ape[position mod ratio]
    /// indexer: u = q_b'·r by head, rotated;  a = proj·x / sqrt(width·heads)
    /// ```
    ///
    /// Rotation acts on the last `rope` components of a vector, as interleaved pairs.
    ///
    /// - `x`: `[n, d]`; `positions`: `[n]`; `angles`: this layer's rotation of each row
    /// - `queries`: q and the indexer's part only if asked for; r is part of them
    fn project(
        &self,
        x: &Self::Array,
        attention: &Attention<Self>,
        positions: &[u32],
        angles: &Angles,
        queries: Queries,
    ) -> Projected<Self::Array, Self::Query>;

    /// Appends rows of a batch to a store, rounded to the store's layout.
    fn append(&self, values: &Self::Array, rows: Range<usize>, store: &mut Self::Rows);

    /// Compresses complete windows of tokens into one row each and appends them to `into`.
    ///
    /// Ratio 128 (`overlap` false): per channel a softmax over the window's g, weights for its k.
    /// Ratio 4 (`overlap` true): k and g are twice as wide. The first half speaks for the *next*
    /// window, the second for the token's own: one softmax per channel over the first halves of the
    /// window before (absent for the first window of all) and the second halves of this one. Then
    /// `rms(sum, norm)`, rotated by the angle of the window's first token.
    ///
    /// - `frontier`: rows `[2·width]` (k, then g) of the tokens from position `base` on
    /// - `windows`: indices of the windows to compress; `angles`: one entry a window
    fn compress(
        &self,
        compressor: &Compressor<Self>,
        frontier: &Self::Rows,
        base: usize,
        windows: Range<usize>,
        angles: &Angles,
        into: &mut Self::Rows,
    );

    /// The lightning indexer: for each row the `top_k` visible compressed rows of largest
    /// `Σ_h a[h]·max(0, u[h]·e_w)`; on a tie the lower index; all of them if there are no more than
    /// `top_k`.
    ///
    /// In a store of FP4 index rows, u is rotated (Hadamard) and rounded as the stored rows were.
    ///
    /// - `indexer`: [`Projected::indexer`] of this batch
    /// - `keys`: the index rows of each timeline in the batch, in batch order
    fn pick(&self, indexer: &Self::Query, keys: &[IndexView<'_, Self>], top_k: usize) -> Self::Picks;

    /// Attention over window rows (oldest first) and then compressed rows (ascending) in one softmax
    /// with a learned sink, and the grouped output projection:
    ///
    /// ```text
    /// s[j] = q·row[j] / sqrt(D);   m = max(max_j s[j], sink)
    /// o    = Σ_j e^(s[j]-m)·row[j] / (Σ_j e^(s[j]-m) + e^(sink-m)),  then rotated back by the row's own angle
    /// y    = out_b · concat over groups (out_a[group] · o[heads of the group])
    /// ```
    ///
    /// - `q`: `[n, heads, D]`; `caches`: the rows of each timeline in the batch, in batch order
    /// - `picks`: `None` if every visible compressed row counts
    /// - returns y `[n, d]`
    fn attend_out(
        &self,
        q: &Self::Array,
        caches: &[KvView<'_, Self>],
        picks: Option<&Self::Picks>,
        attention: &Attention<Self>,
        angles: &Angles,
    ) -> Self::Array;

    // ----- experts -----

    /// Chooses each row's experts and their shares. With `s = sqrt(softplus(gate·x))`: the `k`
    /// largest of `s + bias`, each with share `scale · s / (sum of the chosen s)`.
    ///
    /// - `x`: `[n, d]`, normed; `router.gate`: `[e, d]`; `router.bias`: `[e]`, for the choice only
    /// - `tokens`: `[n]`, read by a router that has a token table and takes its row instead
    /// - returns `k` experts a row, lower first on a tie, and shares that add up to `router.scale`
    ///
    /// Source: DeepSeek-V3 report, section 2.1.2, with sqrt(softplus) in place of the sigmoid.
    fn route(&self, x: &Self::Array, tokens: &[u32], router: &Router<Self>) -> Self::Routes;

    /// `Σ_i share_i · E_i(x) + shared(x)`, experts in ascending order of their index, with
    /// `E(x) = down · (silu(min(gate·x, clamp)) * clamp(up·x, -clamp, clamp))`.
    ///
    /// - `x`: `[n, d]`; returns `[n, d]`
    fn moe(
        &self,
        x: &Self::Array,
        routes: &Self::Routes,
        experts: &Experts<Self>,
        shared: &Expert<Self>,
    ) -> Self::Array;

    // ----- ends -----

    /// Logits of some rows: `pre = σ(z·scale + base) + eps` as in [`Ops::hc_enter`], the streams
    /// summed with these weights, normed, times the head.
    ///
    /// - `streams`: `[n, hc, d]`; `wanted`: rows, ascending
    /// - returns `[wanted, vocab]`
    fn head(&self, streams: &Self::Array, wanted: &[usize], head: &Head<Self>) -> Self::Array;

    /// The input of the MTP block: `X[j] = eh_proj · [rms(embed[token], enorm), rms(streams[j], hnorm)]`.
    ///
    /// - `streams`: `[n, hc, d]` of position p; `tokens`: `[n]`, the token at p + 1
    /// - returns streams `[n, hc, d]`
    fn mtp_enter(
        &self,
        streams: &Self::Array,
        tokens: &[u32],
        embedding: &Self::Matrix,
        entry: &MtpEntry<Self>,
    ) -> Self::Array;
}

/// Which tokens of a row of logits are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeadersAsk {
    /// How far below the largest logit a token's may be, 0 or more.
    pub margin: f32,
    /// Divides logits for the weight of the others, above 0.
    pub temperature: f32,
}

/// The most probable tokens of a row of logits: enough to choose one, mostly.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaders {
    /// Those whose logit is at least the largest minus the margin, with their logits, ascending by token. The
    /// difference is taken in f32.
    pub tokens: Vec<(u32, f32)>,
    /// `Σ e^((logit - largest) / temperature)` over all other tokens. A backend may be off by a thousandth of it.
    pub rest: f32,
}

impl Leaders {
    /// What it means: the leaders of a row on the host. `None` if a logit is NaN or positive infinity, or all are
    /// negative infinity.
    pub fn of(row: &[f32], ask: LeadersAsk) -> Option<Leaders> {
        if row.iter().any(|x| x.is_nan()) {
            return None;
        }
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !max.is_finite() {
            return None;
        }
        let least = max - ask.margin;
        let leads = |&(_, x): &(u32, &f32)| *x >= least;
        let all = || (0..).zip(row);
        let weight = |x: &f32| ((f64::from(*x) - f64::from(max)) / f64::from(ask.temperature)).exp();
        Some(Leaders {
            tokens: all().filter(leads).map(|(token, x)| (token, *x)).collect(),
            rest: all().filter(|pair| !leads(pair)).map(|(_, x)| weight(x)).sum::<f64>() as f32,
        })
    }
}

/// Which queries [`Ops::project`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// None: the rows are only to be cached.
    None,
    /// Attention's. No row of the batch sees more compressed rows than the indexer keeps.
    Attention,
    /// Attention's and the lightning indexer's.
    All,
}

/// What [`Ops::project`] returns.
pub struct Projected<A, Q = IndexQuery<A>> {
    /// `[n, heads, D]`: queries, normed and rotated, if asked for.
    pub q: Option<A>,
    /// `[n, D]`: the row to cache, normed and rotated, not yet rounded.
    pub kv: A,
    /// `[n, 2·width]`: k and g for the compressor, in layers that compress.
    pub compressor: Option<A>,
    /// `[n, 2·width]`: k and g for the indexer's own compressor, in ratio-4 layers.
    pub index_compressor: Option<A>,
    /// The indexer's query, in ratio-4 layers and only if asked for.
    pub indexer: Option<Q>,
}

/// One batch's queries to the lightning indexer, for backends that need no other form.
pub struct IndexQuery<A> {
    /// `[n, index heads, index width]`: u, rotated.
    pub u: A,
    /// `[n, index heads]`: a, with both scales applied.
    pub a: A,
}

/// Cached rows in the order of their index: blocks of equal length, then a last one of any length, also of more.
pub struct Blocks<'a, R> {
    /// The blocks: those of the pages, then the tail.
    pub blocks: Vec<&'a R>,
    /// Rows in every block but the last.
    pub block_len: usize,
}

impl<'a, R: RowStore> Blocks<'a, R> {
    /// Rows in all blocks together.
    pub fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * self.block_len + last.len())
    }

    /// The block that holds row `i`, and the row's index in it.
    pub fn find(&self, i: usize) -> (&'a R, usize) {
        let block = (i / self.block_len).min(self.blocks.len() - 1);
        (self.blocks[block], i - block * self.block_len)
    }

    /// Where each stretch of `block_len` rows begins, as [`Blocks::find`] tells; the last block has one even if it is empty.
    pub fn starts(&self) -> impl Iterator<Item = (&'a R, usize)> {
        let pieces = self.len().div_ceil(self.block_len).max(self.blocks.len());
        (0..pieces).map(|piece| self.find(piece * self.block_len))
    }

    /// Whether there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The index rows that one timeline's rows of the batch may choose from.
pub struct IndexView<'a, B: Ops> {
    /// The timeline's rows in the batch.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub start: usize,
    /// Tokens to one index row. Row w is visible at position t if `w < (t + 1) / ratio`.
    pub ratio: usize,
    /// Index rows from the first on.
    pub keys: Blocks<'a, B::Rows>,
}

/// The cached rows that one timeline's rows of the batch attend to.
pub struct KvView<'a, B: Ops> {
    /// The timeline's rows in the batch.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub start: usize,
    /// Rows of consecutive positions, from `window_base` to the batch's last.
    pub window: &'a B::Rows,
    /// Position of the first row in `window`.
    pub window_base: usize,
    /// Width of the sliding window, the row's own position included.
    pub window_len: usize,
    /// Compressed rows, if this layer compresses, and the tokens to one of them.
    pub compressed: Option<(Blocks<'a, B::Rows>, usize)>,
}

impl<B: Ops> KvView<'_, B> {
    /// Position of the oldest window row that is visible at `position`.
    pub fn first_visible(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window_len).max(self.window_base)
    }
}

/// A growable sequence of cached rows on a device, all in one [`RowLayout`].
///
/// Bytes that go in or out are always as the layout says, so a page made by one backend can be
/// loaded by another.
pub trait RowStore: Sized + Send + Sync {
    /// Rows held.
    fn len(&self) -> usize;
    /// Whether no row is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The form of each row.
    fn layout(&self) -> RowLayout;
    /// Keeps the first `len` rows.
    fn truncate(&mut self, len: usize);
    /// Forgets the first `count` rows.
    fn drop_front(&mut self, count: usize);
    /// A copy of some rows.
    fn slice(&self, range: Range<usize>) -> Self;
    /// A copy of all rows that others will be appended to.
    fn copy_to_grow(&self) -> Self {
        self.slice(0..self.len())
    }
    /// The rows as bytes, [`RowLayout::row_bytes`] each.
    fn to_bytes(&self) -> Vec<u8>;
    /// Appends rows given as bytes; their length is a multiple of [`RowLayout::row_bytes`].
    fn extend_from_bytes(&mut self, bytes: &[u8]);
    /// Device memory in use, in bytes.
    fn memory(&self) -> usize;
}
