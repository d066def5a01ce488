//! How much memory a model takes for a context, and how much of it a token reads.
//!
//! The weights stay in the mapped file. What grows is the KV cache, in one of three formats; its rows and
//! pages are those of [`model::timeline`]:
//!
//! | part | rows | of what |
//! |---|---|---|
//! | window | `window` | a row, in every layer |
//! | CSA, HCA | `context / 4`, `context / 128` | a row, in layers of that ratio |
//! | index | `context / 4` | an index key, in CSA layers |
//! | frontiers | 7 (CSA), 127 (HCA) | f32 inputs of a compressor, k and g |
//! | page ends | `window - 1`, and 4 of a CSA frontier | what each page of 1024 tokens keeps to go on from it |

use gguf::{Gguf, TensorInfo};
use model::{Config, KvFormat, PAGE, Ratio};
use serde::Serialize;

/// Memory and reading of a model at one context length. All sizes in bytes.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Tokens of context.
    pub context: usize,
    /// The files, mapped: the system keeps of them in memory what it has room for.
    pub weights: u64,
    /// Weights that one token needs, when it is computed alone. Memory bandwidth over this is the
    /// limit of the speed of decoding.
    pub weights_read_per_token: u64,
    /// The KV cache in each format.
    pub kv_cache: Vec<Cache>,
}

/// The KV cache of one conversation.
#[derive(Debug, Serialize)]
pub struct Cache {
    /// Name of the format.
    pub format: &'static str,
    /// Its size, or why the model cannot use the format.
    #[serde(flatten)]
    pub size: CacheSize,
}

/// See [`Cache`].
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CacheSize {
    /// The format suits the model.
    Parts(Parts),
    /// It does not.
    Unsuitable {
        /// What is in the way.
        reason: String,
    },
}

/// The parts of a KV cache, in bytes; see the table at the top of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parts {
    pub window: u64,
    pub csa: u64,
    pub hca: u64,
    pub index: u64,
    pub frontiers: u64,
    pub page_ends: u64,
    pub total: u64,
}

impl Plan {
    /// The plan for `context` tokens.
    pub fn new(gguf: &Gguf, config: &Config, context: usize) -> Self {
        let cache = |format: KvFormat| Cache {
            format: format.name(),
            size: match format.check(config) {
                Ok(()) => CacheSize::Parts(Parts::new(config, format, context)),
                Err(error) => CacheSize::Unsuitable { reason: error.to_string() },
            },
        };
        Self {
            context,
            weights: gguf.file_len(),
            weights_read_per_token: gguf.tensors().map(|tensor| read_per_token(tensor, config)).sum(),
            kv_cache: [KvFormat::F32, KvFormat::F16, KvFormat::F8].map(cache).into(),
        }
    }
}

impl Parts {
    /// The cache of `context` tokens in a format that suits the model.
    pub fn new(config: &Config, format: KvFormat, context: usize) -> Self {
        let layers = |ratio| config.ratios.iter().filter(|&&r| r == ratio).count();
        let (csa_layers, hca_layers) = (layers(Ratio::Csa), layers(Ratio::Hca));
        let row = format.latent(config).row_bytes();
        let index_row = format.index(config).row_bytes();

        // One token's k and g for rows of `width`, in f32.
        let inputs = |ratio: Ratio, width| 2 * size_of::<f32>() * ratio.inner_width(width);
        let csa_inputs = inputs(Ratio::Csa, config.head_dim) + inputs(Ratio::Csa, config.index_dim);
        let hca_inputs = inputs(Ratio::Hca, config.head_dim);
        let page_end = config.layers() * (config.window - 1) * row + csa_layers * 4 * csa_inputs;

        let [window, csa, hca, index, frontiers, page_ends] = [
            config.layers() * config.window * row,
            csa_layers * (context / 4) * row,
            hca_layers * (context / 128) * row,
            csa_layers * (context / 4) * index_row,
            csa_layers * 7 * csa_inputs + hca_layers * 127 * hca_inputs,
            context / PAGE * page_end,
        ]
        .map(|bytes| bytes as u64);
        let total = window + csa + hca + index + frontiers + page_ends;
        Self { window, csa, hca, index, frontiers, page_ends, total }
    }

    /// The parts with their names, the total last.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("window rows", self.window),
            ("CSA rows", self.csa),
            ("HCA rows", self.hca),
            ("index keys", self.index),
            ("frontiers", self.frontiers),
            ("page ends", self.page_ends),
            ("total", self.total),
        ]
    }
}

/// Bytes of `tensor` that computing one token reads; drafting is left out.
fn read_per_token(tensor: &TensorInfo, config: &Config) -> u64 {
    let name = tensor.name.as_str();
    let draft = format!("blk.{}.", config.layers());
    if name.starts_with(&draft) {
        0
    } else if name == "token_embd.weight" || name.ends_with("tid2eid.weight") {
        tensor.bytes / config.vocab as u64
    } else if name.contains("_exps.") {
        tensor.bytes / config.experts as u64 * config.experts_used as u64
    } else {
        tensor.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::Reference;
    use forge::synth::{Recipe, Synthetic};
    use model::{Entry, NoTap, Timeline, Wanted, forward};

    fn config(description: &Synthetic) -> Config {
        let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
        model::load::check(&gguf).unwrap().config
    }

    /// Flash with its real layers and widths, of which nothing else is read here.
    fn flash() -> Config {
        let mut flash = config(&Synthetic::tiny(Recipe::Q8, 1));
        flash.ratios = (0..43).map(|l| [Ratio::Csa, Ratio::Hca][l % 2]).collect();
        flash.ratios[..2].fill(Ratio::None);
        Config { head_dim: 512, rope_dim: 64, index_dim: 128, window: 128, ..flash }
    }

    /// Rows of Flash as other people count them, in units of 1e5 bytes at 8192 tokens.
    #[test]
    fn the_rows_of_flash_are_as_published() {
        let check = |format, want| {
            let parts = Parts::new(&flash(), format, 8192);
            let found = [parts.window, parts.csa, parts.hca, parts.index];
            assert_eq!(found.map(|bytes| (bytes as f64 / 1e5).round()), want, "{format:?}");
        };
        check(KvFormat::F32, [113., 881., 26., 220.]);
        check(KvFormat::F16, [56., 440., 13., 110.]);
        check(KvFormat::F8, [32., 251., 7., 29.]);
        let frontiers = Parts::new(&flash(), KvFormat::F8, 8192).frontiers;
        assert_eq!((frontiers as f64 / 1e5).round(), 119.);
    }

    /// What the plan says of whole pages is what a page takes, to the byte.
    #[test]
    fn a_page_takes_the_memory_planned() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
        let model = model::load(&Reference, &gguf).unwrap();
        for format in [KvFormat::F32, KvFormat::F16] {
            let mut timeline = Timeline::new(&Reference, &model.config, format);
            let tokens: Vec<u32> = (0..PAGE as u32).map(|i| i % 500).collect();
            let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::None }];
            forward(&model, &Reference, &mut batch, &mut NoTap).unwrap();

            let plan = Parts::new(&model.config, format, PAGE);
            let [page] = timeline.pages() else { panic!("one page") };
            let planned = plan.csa + plan.hca + plan.index + plan.page_ends;
            assert_eq!(page.memory() as u64, planned, "{format:?}: {plan:?}");
        }
    }
}
