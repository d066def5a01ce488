//! What the model's operations cost: bytes that are read, products that are added up.
//!
//! Start at [`Cost::work`]: one operation in one layer, for one batch of consecutive tokens. Everything is
//! reckoned from the tensors in the file and from the positions, so it holds for any backend. What is
//! counted is what the model asks for: a matrix once for the batch, an expert once if any row goes to it,
//! cached rows once for the batch, and every product.

use gguf::Gguf;
use model::load::{Kind, inventory};
use model::{Config, KvFormat, Ratio};
use quants::Format;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Range};

/// An operation of the forward pass, as far as it can be told apart from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Looking up the tokens, and entering the first layer.
    Embed,
    /// From attention to experts: hyper-connection and norm.
    ToExperts,
    /// From experts to the next layer's attention, or out of the last one.
    ToNext,
    /// Queries, the row to cache, compressor inputs, the indexer's query.
    Project,
    /// Appending to the cache, and compressing.
    Cache,
    /// The indexer's choice.
    Pick,
    /// Attention and its output projection.
    Attend,
    /// The router.
    Route,
    /// Routed experts and the shared one.
    Experts,
    /// From streams to logits.
    Head,
    /// What is left: preparing a batch, handing logits over.
    Rest,
}

impl Op {
    /// All of them, in the order of a pass.
    pub const ALL: [Op; 11] = [
        Op::Embed,
        Op::Project,
        Op::Cache,
        Op::Pick,
        Op::Attend,
        Op::ToExperts,
        Op::Route,
        Op::Experts,
        Op::ToNext,
        Op::Head,
        Op::Rest,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Op::Embed => "embed",
            Op::ToExperts => "to experts",
            Op::ToNext => "to next layer",
            Op::Project => "project",
            Op::Cache => "cache",
            Op::Pick => "pick",
            Op::Attend => "attend",
            Op::Route => "route",
            Op::Experts => "experts",
            Op::Head => "head",
            Op::Rest => "rest",
        }
    }
}

/// What is read and computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of cached rows.
    pub cached: u64,
    /// Products of quantized weights with activations: those that can be computed in 8 bits.
    pub int8: u64,
    /// All other products: float weights, and attention.
    pub float: u64,
}

impl Work {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weights + self.cached
    }

    /// The work of a matrix on `n` rows, when it is read once; without rows it is not read.
    fn on(self, n: u64) -> Work {
        match n {
            0 => Work::default(),
            _ => Work { int8: self.int8 * n, float: self.float * n, ..self },
        }
    }
}

impl Add for Work {
    type Output = Work;
    fn add(self, b: Work) -> Work {
        Work {
            weights: self.weights + b.weights,
            cached: self.cached + b.cached,
            int8: self.int8 + b.int8,
            float: self.float + b.float,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, b: Work) {
        *self = *self + b;
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        all.fold(Work::default(), Add::add)
    }
}

/// Some consecutive tokens of one timeline, fed together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Their positions.
    pub positions: Range<usize>,
    /// How many of the last ones logits are wanted of.
    pub wanted: usize,
}

/// What a model's operations cost.
pub struct Cost {
    config: Config,
    /// Bytes of a cached row, and of an index key.
    row_bytes: [u64; 2],
    layers: Vec<Layer>,
    embedding_row: u64,
    head: Work,
}

/// The matrices of a layer, each for one row of a batch.
#[derive(Default)]
struct Layer {
    attn_hc: Work,
    ffn_hc: Work,
    /// Rows to cache and compressor inputs.
    project: Work,
    /// Attention's queries.
    query: Work,
    /// The indexer's query, which is not computed while all compressed rows count.
    index_query: Work,
    output: Work,
    route: Work,
    /// One routed expert.
    expert: Work,
    shared: Work,
}

impl Cost {
    /// Reckons from the tensors of a file that was checked.
    pub fn new(gguf: &Gguf, config: &Config, kv: KvFormat) -> Cost {
        let mut layers: Vec<Layer> = config.ratios.iter().map(|_| Layer::default()).collect();
        let (mut head, mut embedding_row) = (Work::default(), 0);
        for tensor in inventory(config).iter().filter(|t| t.kind == Kind::Matrix) {
            let info = gguf.tensor(&tensor.name).expect("the file was checked");
            let work = of_matrix(Format::from_ggml_id(info.kind.id()), info.bytes, info.elements());
            let name = tensor.name.as_str();
            match layer_of(name) {
                None if name.starts_with("token_embd") => embedding_row = info.bytes / config.vocab as u64,
                None => head += work,
                // The draft block is no part of a pass.
                Some((layer, part)) if layer < layers.len() => {
                    layers[layer].add(part, work, config.experts as u64);
                }
                Some(_) => {}
            }
        }
        let row_bytes = [kv.latent(config), kv.index(config)].map(|row| row.row_bytes() as u64);
        Cost { config: config.clone(), row_bytes, layers, embedding_row, head }
    }

    /// How a layer sees its past.
    pub fn ratio(&self, layer: usize) -> Ratio {
        self.config.ratios[layer]
    }

    /// The work of an operation for a batch.
    ///
    /// - `layer`: `None` before the first layer and after the last
    /// - `distinct`: how many experts any row of the batch goes to
    pub fn work(&self, op: Op, layer: Option<usize>, batch: &Batch, distinct: usize) -> Work {
        let n = batch.positions.len() as u64;
        match (op, layer) {
            (Op::Embed, _) => {
                let rows = Work { weights: self.embedding_row * n, ..Work::default() };
                rows + self.layers[0].attn_hc.on(n)
            }
            (Op::Head, _) => match batch.wanted {
                0 => Work::default(),
                wanted => self.head.on(wanted as u64),
            },
            (_, Some(layer)) => self.in_layer(op, layer, batch, distinct),
            _ => Work::default(),
        }
    }

    /// The work of a whole pass, with experts chosen evenly.
    pub fn pass(&self, batch: &Batch) -> Work {
        let distinct = self.expected_experts(batch.positions.len());
        let once = [Op::Embed, Op::Head].into_iter().map(|op| self.work(op, None, batch, 0));
        let layers = (0..self.layers.len())
            .flat_map(|layer| Op::ALL.map(|op| (op, layer)))
            .filter(|(op, _)| !matches!(op, Op::Embed | Op::Head))
            .map(|(op, layer)| self.work(op, Some(layer), batch, distinct));
        once.chain(layers).sum()
    }

    /// How many different experts `n` rows go to, on average, if each choice is as likely as any other.
    pub fn expected_experts(&self, n: usize) -> usize {
        let (all, used) = (self.config.experts as f64, self.config.experts_used as f64);
        (all * (1.0 - (1.0 - used / all).powi(n as i32))).round() as usize
    }

    fn in_layer(&self, op: Op, layer: usize, batch: &Batch, distinct: usize) -> Work {
        let (l, c) = (&self.layers[layer], &self.config);
        let all = batch;
        // Of the last layer, rows of which nothing is wanted are only cached.
        let batch = &match layer + 1 == self.layers.len() {
            true => Batch { positions: all.positions.end - all.wanted..all.positions.end, ..*all },
            false => all.clone(),
        };
        let n = batch.positions.len() as u64;
        match op {
            Op::Project => {
                let query =
                    l.query + if self.selects(layer, batch) { l.index_query } else { Work::default() };
                l.project.on(all.positions.len() as u64) + query.on(n)
            }
            _ if n == 0 => Work::default(),
            Op::Pick if self.selects(layer, batch) => {
                let keys: usize = batch.positions.clone().map(|p| (p + 1) / 4).sum();
                Work {
                    cached: (batch.positions.end / 4) as u64 * self.row_bytes[1],
                    float: (keys * c.index_heads * c.index_dim) as u64,
                    ..Work::default()
                }
            }
            Op::Attend => {
                let seen: usize = batch.positions.clone().map(|p| self.seen(layer, p)).sum();
                // Rows that several tokens see are counted once.
                let last = batch.positions.end - 1;
                let window = (c.window + batch.positions.len() - 1).min(last + 1);
                let rows = (self.compressed(layer, last) + window).min(seen);
                let attention = Work {
                    cached: rows as u64 * self.row_bytes[0],
                    float: (2 * seen * c.heads * c.head_dim) as u64,
                    ..Work::default()
                };
                l.output.on(n) + attention
            }
            Op::Route => l.route.on(n),
            Op::Experts => {
                let pairs = n * c.experts_used as u64;
                let weights = l.expert.weights * pairs.min(distinct as u64);
                Work { weights, ..l.expert.on(pairs) } + l.shared.on(n)
            }
            Op::ToExperts => l.ffn_hc.on(n),
            Op::ToNext => self.layers.get(layer + 1).map_or(Work::default(), |next| next.attn_hc.on(n)),
            _ => Work::default(),
        }
    }

    /// Whether the indexer has to choose for a row of this batch.
    fn selects(&self, layer: usize, batch: &Batch) -> bool {
        self.ratio(layer) == Ratio::Csa && batch.positions.end / 4 > self.config.top_k
    }

    /// Rows that attention reads at a position.
    fn seen(&self, layer: usize, position: usize) -> usize {
        self.config.window.min(position + 1) + self.compressed(layer, position)
    }

    fn compressed(&self, layer: usize, position: usize) -> usize {
        match self.ratio(layer) {
            Ratio::None => 0,
            Ratio::Csa => ((position + 1) / 4).min(self.config.top_k),
            Ratio::Hca => (position + 1) / 128,
        }
    }
}

impl Layer {
    /// Adds a matrix by its name inside the layer.
    fn add(&mut self, part: &str, work: Work, experts: u64) {
        let one_of = |work: Work| Work {
            weights: work.weights / experts,
            int8: work.int8 / experts,
            float: work.float / experts,
            ..work
        };
        match part {
            _ if part.starts_with("hc_attn") => self.attn_hc += work,
            _ if part.starts_with("hc_ffn") => self.ffn_hc += work,
            _ if part.starts_with("attn_output") => self.output += work,
            "indexer.attn_q_b.weight" | "indexer.proj.weight" => self.index_query += work,
            "attn_q_a.weight" | "attn_q_b.weight" => self.query += work,
            _ if part.starts_with("ffn_gate_inp") => self.route += work,
            _ if part.contains("_exps.") => self.expert += one_of(work),
            _ if part.contains("_shexp.") => self.shared += work,
            _ => self.project += work,
        }
    }
}

/// A matrix read once and multiplied by one row.
fn of_matrix(format: Option<Format>, bytes: u64, elements: u64) -> Work {
    let float = matches!(format, Some(Format::F32 | Format::F16 | Format::BF16));
    let (int8, float) = if float { (0, elements) } else { (elements, 0) };
    Work { weights: bytes, cached: 0, int8, float }
}

/// `blk.3.attn_kv.weight` is `attn_kv.weight` of layer 3.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge::synth::{Recipe, Synthetic};

    fn tiny() -> (Gguf, Config) {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q2, 1).to_vec().unwrap()).unwrap();
        let config = model::load::check(&gguf).unwrap().config;
        (gguf, config)
    }

    /// A single token at the start needs no indexer; past the point where it chooses, it does.
    #[test]
    fn a_token_reads_the_matrices_and_its_own_experts() {
        let (gguf, config) = tiny();
        let cost = Cost::new(&gguf, &config, KvFormat::F16);
        let read = |name: &dyn Fn(&str) -> bool| -> u64 {
            let matrices = inventory(&config);
            let of = |t: &model::load::Tensor| gguf.tensor(&t.name).unwrap().bytes;
            matrices.iter().filter(|t| t.kind == Kind::Matrix && name(&t.name)).map(of).sum()
        };
        let query = |name: &str| name.contains("indexer.attn_q_b") || name.contains("indexer.proj");
        let routed = |name: &str| name.contains("_exps.");
        let embedding = |name: &str| name.starts_with("token_embd");
        let dense = read(&|name| !query(name) && !routed(name) && !embedding(name));
        let share = read(&routed) / config.experts as u64 * config.experts_used as u64;
        let row = read(&embedding) / config.vocab as u64;
        let at = |p: usize| cost.pass(&Batch { positions: p..p + 1, wanted: 1 }).weights;
        assert_eq!(at(0), dense + share + row);
        assert_eq!(at(4 * config.top_k + 4), dense + share + row + read(&query));
    }

    /// What nobody wants of the last layer is not computed, but for what later tokens attend to.
    #[test]
    fn of_the_last_layer_only_what_is_wanted_counts() {
        let (gguf, config) = tiny();
        let cost = Cost::new(&gguf, &config, KvFormat::F16);
        let last = config.layers() - 1;
        let at = |op, layer, wanted| cost.work(op, Some(layer), &Batch { positions: 0..64, wanted }, 3);
        for op in [Op::Attend, Op::Route, Op::Experts, Op::ToExperts] {
            assert_eq!(at(op, last, 0), Work::default(), "{op:?}");
            assert!(at(op, last, 1).int8 + at(op, last, 1).float > 0, "{op:?}");
            assert!(2 * at(op, last, 1).float <= at(op, last, 64).float, "{op:?}");
            assert_eq!(at(op, last - 1, 0), at(op, last - 1, 64), "{op:?}");
        }
        let experts = |distinct| {
            cost.work(Op::Experts, Some(last), &Batch { positions: 0..64, wanted: 1 }, distinct).weights
        };
        assert_eq!(experts(config.experts), experts(config.experts_used), "those of one row");
        let [none, one, all] = [0, 1, 64].map(|wanted| at(Op::Project, last, wanted).int8);
        assert_eq!(all - none, 64 * (one - none));
        assert!(none > 0 && one > none);
    }

    /// Weights are read once for a chunk, and multiplied by every row of it.
    #[test]
    fn a_chunk_shares_its_weights() {
        let (gguf, config) = tiny();
        let cost = Cost::new(&gguf, &config, KvFormat::F16);
        let one = cost.work(Op::Project, Some(0), &Batch { positions: 0..1, wanted: 0 }, 0);
        let many = cost.work(Op::Project, Some(0), &Batch { positions: 0..64, wanted: 0 }, 0);
        assert_eq!(many, Work { int8: 64 * one.int8, float: 64 * one.float, ..one });
        let experts = cost.work(Op::Experts, Some(0), &Batch { positions: 0..64, wanted: 0 }, 3);
        let single =
            cost.work(Op::Experts, Some(0), &Batch { positions: 0..1, wanted: 0 }, config.experts_used);
        assert_eq!(experts.int8, 64 * single.int8);
        assert!(experts.weights < 2 * single.weights);
    }

    #[test]
    fn attention_reads_its_window_and_what_was_compressed() {
        let (gguf, config) = tiny();
        let cost = Cost::new(&gguf, &config, KvFormat::F16);
        let row = 2 * config.head_dim as u64;
        for layer in 0..config.layers() {
            let batch = Batch { positions: 4095..4096, wanted: 1 };
            let seen = config.window
                + match config.ratios[layer] {
                    Ratio::None => 0,
                    Ratio::Csa => config.top_k.min(1024),
                    Ratio::Hca => 32,
                };
            assert_eq!(cost.work(Op::Attend, Some(layer), &batch, 0).cached, seen as u64 * row);
        }
    }
}
