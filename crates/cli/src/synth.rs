//! `ds4 synth`: models with random weights, to test and to measure with.

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use forge::synth::{Recipe, Sizes, Synthetic, byte_vocab, write_vocab};
use gguf::Gguf;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write a model with random weights, to test or to measure speed with.
///
/// What such a model says means nothing. Its layers, formats and shapes are those of the real one, so it
/// loads, runs and takes as long. The same options and seed give the same bytes on any machine.
#[derive(clap::Args)]
pub struct Synth {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    FlashSlice(FlashSlice),
    Tiny(Tiny),
    Vocab(VocabFile),
}

impl Synth {
    /// Writes the file.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.what {
            What::FlashSlice(args) => args.run(out),
            What::Tiny(args) => args.run(out),
            What::Vocab(args) => args.run(out),
        }
    }
}

/// The first layers of DeepSeek V4 Flash in their published shapes, with fewer experts: for benchmarks.
///
/// The whole model has 43 layers of 256 experts and 81 GiB in recipe q2; 6 layers of 32 experts have
/// 3.7 GiB. A token takes as long in a layer of few experts as in one of many, as 6 are used in both.
#[derive(clap::Args)]
struct FlashSlice {
    /// Layers: window, window, then CSA and HCA in turn; the first three choose experts by token id.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=43))]
    layers: u32,
    /// Experts a layer. At most 6 of them are used for a token.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    experts: u32,
    /// Formats: f32, bf16 everything; q2 experts IQ2_XXS and Q2_K; q4 Q4_K; mxfp4 MXFP4; q8 Q8_0; mix
    /// every format somewhere. From q2 to q8 the other matrices are Q8_0 and F16, as in published files
    #[arg(long, default_value = "q2", value_parser = recipe_parser())]
    recipe: Recipe,
    /// Add a block that drafts a further token (MTP), which is as large as a layer. Its guesses are random, too
    #[arg(long)]
    mtp: bool,
    /// A tokenizer.json of the model family. Without one: bytes and syllables, padded with unused tokens
    /// to the 129280 of the published vocabulary.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgs,
}

impl FlashSlice {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let vocab = vocab(self.tokenizer.as_deref(), 129_280)?;
        let layers = self.layers as usize;
        let mut slice = Synthetic::flash_slice(layers, self.experts, self.recipe, vocab, self.file.seed);
        slice.sizes.mtp = self.mtp;
        self.file.write(&slice, out)
    }
}

/// A few small layers of every kind: for tests. Every size can be changed.
#[derive(clap::Args)]
struct Tiny {
    /// Formats: f32, bf16, q2, q4, mxfp4, q8 or mix. Those with blocks of 256 weights (q2, q4, mix) start
    /// from sizes with rows that long; if a row is shorter all the same, it is stored as Q8_0 or F16
    #[arg(long, default_value = "f32", value_parser = recipe_parser())]
    recipe: Recipe,
    /// Add a block that drafts a further token (MTP).
    #[arg(long)]
    mtp: bool,
    /// A tokenizer.json of the model family, instead of bytes and syllables.
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    tokenizer: Option<PathBuf>,
    /// Tokens of the vocabulary.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(272..=1_000_000))]
    vocab: u32,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    sizes: SizeArgs,
}

impl Tiny {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut tiny = Synthetic::tiny(self.recipe, self.file.seed);
        tiny.vocab = vocab(self.tokenizer.as_deref(), self.vocab as usize)?;
        tiny.sizes.mtp = self.mtp;
        self.sizes.apply(&mut tiny.sizes);
        self.file.write(&tiny, out)
    }
}

/// A tokenizer without a model.
#[derive(clap::Args)]
struct VocabFile {
    /// A tokenizer.json of the model family. Without one: 512 tokens, bytes and syllables.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where to write the file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl VocabFile {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let vocab = vocab(self.tokenizer.as_deref(), 512)?;
        write_vocab(&vocab, &self.out).context("writing the vocabulary")?;
        writeln!(out, "{}: {} tokens", self.out.display(), vocab.tokens.len())?;
        Ok(())
    }
}

/// What to call the file, and which of all models of a description it holds.
#[derive(clap::Args)]
struct FileArgs {
    /// Where to write the model.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Another seed gives other weights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Split the model into files of at most this many MiB: FILE-00001-of-0000N.gguf and so on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    part_mib: Option<u32>,
}

impl FileArgs {
    fn write(&self, description: &Synthetic, out: &mut dyn Write) -> anyhow::Result<()> {
        let style =
            ProgressStyle::with_template("{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left")?;
        let bar = ProgressBar::new(description.data_bytes()?).with_style(style);
        let part_bytes = self.part_mib.map(|mib| u64::from(mib) << 20);
        let files =
            description.write(&self.out, part_bytes, |bytes| bar.inc(bytes)).context("writing the model")?;
        bar.finish_and_clear();

        let gguf = Gguf::open(&files[0]).context("opening what was written")?;
        for file in &files {
            writeln!(out, "{}", file.display())?;
        }
        writeln!(out, "{} tensors, {}", gguf.tensors().len(), BinaryBytes(gguf.file_len()))?;
        Ok(())
    }
}

/// Sizes that differ from the tiny model's own. Their meaning is that of the metadata keys under
/// `deepseek4.`
#[derive(clap::Args)]
#[command(next_help_heading = "Sizes, if they are to differ")]
struct SizeArgs {
    /// Layers: window, then CSA and HCA in turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    layers: Option<u32>,
    /// Tokens that each layer compresses into a row: 0, 4 or 128 a layer.
    #[arg(long, value_name = "N,N", value_delimiter = ',', conflicts_with = "layers")]
    ratios: Option<Vec<u32>>,
    /// Longest context.
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Width of the streams.
    #[arg(long, value_name = "N")]
    embedding: Option<u32>,
    /// Residual streams.
    #[arg(long, value_name = "N")]
    streams: Option<u32>,
    /// Sinkhorn rounds of a hyper-connection.
    #[arg(long, value_name = "N")]
    sinkhorn: Option<u32>,
    /// Query heads.
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Width of a head.
    #[arg(long, value_name = "N")]
    head_dim: Option<u32>,
    /// How many components of a head, at its end, carry the rotary embedding.
    #[arg(long, value_name = "N")]
    rope_dim: Option<u32>,
    /// Rank of the query projection.
    #[arg(long, value_name = "N")]
    q_lora: Option<u32>,
    /// Groups of the output projection.
    #[arg(long, value_name = "N")]
    out_groups: Option<u32>,
    /// Rank of the output projection in each group.
    #[arg(long, value_name = "N")]
    out_lora: Option<u32>,
    /// Sliding window in tokens.
    #[arg(long, value_name = "N")]
    window: Option<u32>,
    /// Heads of the indexer.
    #[arg(long, value_name = "N")]
    index_heads: Option<u32>,
    /// Width of an index key.
    #[arg(long, value_name = "N")]
    index_dim: Option<u32>,
    /// Compressed rows that the indexer keeps.
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Experts a layer.
    #[arg(long, value_name = "N")]
    experts: Option<u32>,
    /// Experts used for a token.
    #[arg(long, value_name = "N")]
    experts_used: Option<u32>,
    /// Inner width of an expert.
    #[arg(long, value_name = "N")]
    expert_width: Option<u32>,
    /// Layers, from the first, that choose experts by token id.
    #[arg(long, value_name = "N")]
    hash_layers: Option<u32>,
    /// SwiGLU limit; 0 for none.
    #[arg(long, value_name = "X")]
    clamp: Option<f32>,
    /// How many times the original context YaRN extends.
    #[arg(long, value_name = "X")]
    yarn_factor: Option<f32>,
    /// Context before it was extended.
    #[arg(long, value_name = "N")]
    original_context: Option<u32>,
}

impl SizeArgs {
    fn apply(&self, sizes: &mut Sizes) {
        fn set<T: Clone>(size: &mut T, wanted: &Option<T>) {
            if let Some(wanted) = wanted {
                size.clone_from(wanted);
            }
        }
        set(&mut sizes.ratios, &self.layers.map(|layers| tiny_ratios(layers as usize)));
        set(&mut sizes.ratios, &self.ratios);
        set(&mut sizes.context, &self.context);
        set(&mut sizes.width, &self.embedding);
        set(&mut sizes.hc, &self.streams);
        set(&mut sizes.sinkhorn, &self.sinkhorn);
        set(&mut sizes.heads, &self.heads);
        set(&mut sizes.head_dim, &self.head_dim);
        set(&mut sizes.rope_dim, &self.rope_dim);
        set(&mut sizes.q_lora, &self.q_lora);
        set(&mut sizes.out_groups, &self.out_groups);
        set(&mut sizes.out_lora, &self.out_lora);
        set(&mut sizes.window, &self.window);
        set(&mut sizes.index_heads, &self.index_heads);
        set(&mut sizes.index_dim, &self.index_dim);
        set(&mut sizes.top_k, &self.top_k);
        set(&mut sizes.experts, &self.experts);
        set(&mut sizes.experts_used, &self.experts_used);
        set(&mut sizes.expert_width, &self.expert_width);
        set(&mut sizes.hash_layers, &self.hash_layers);
        set(&mut sizes.clamp, &self.clamp);
        set(&mut sizes.yarn_factor, &self.yarn_factor);
        set(&mut sizes.original_context, &self.original_context);
    }
}

/// One window layer, then CSA and HCA in turn, as in the tiny model.
fn tiny_ratios(layers: usize) -> Vec<u32> {
    [0].into_iter().chain([4, 128].into_iter().cycle()).take(layers).collect()
}

fn recipe_parser() -> impl TypedValueParser<Value = Recipe> {
    let known = |name: String| Recipe::from_name(&name).expect("one of the possible values");
    PossibleValuesParser::new(Recipe::ALL.map(Recipe::name)).map(known)
}

/// The vocabulary of a tokenizer.json, or one of `size` tokens.
fn vocab(tokenizer: Option<&Path>, size: usize) -> anyhow::Result<text::Vocab> {
    let Some(path) = tokenizer else {
        return Ok(byte_vocab(size));
    };
    let reading = || format!("reading {}", path.display());
    let json = std::fs::read(path).with_context(reading)?;
    text::Vocab::from_hf_json(&json).with_context(reading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        synth: Synth,
    }

    /// Runs `synth` with `args`, returns what it printed.
    fn run(args: &[&str]) -> anyhow::Result<String> {
        let mut out = Vec::new();
        Cli::try_parse_from([&["synth"], args].concat())?.synth.run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn every_size_of_a_tiny_model_can_be_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let sizes = "--ratios 4,0 --context 100 --embedding 64 --streams 2 --sinkhorn 3 --heads 6 \
            --head-dim 96 --rope-dim 16 --q-lora 32 --out-groups 3 --out-lora 96 --window 8 \
            --index-heads 2 --index-dim 32 --top-k 5 --experts 7 --experts-used 4 --expert-width 160 \
            --hash-layers 1 --clamp 3 --yarn-factor 8 --original-context 50 --vocab 300 --mtp --recipe q8";
        let mut args: Vec<_> = ["tiny", "--out", path.to_str().unwrap()].into();
        args.extend(sizes.split_whitespace());
        run(&args).unwrap();

        let config = model::load::check(&Gguf::open(&path).unwrap()).unwrap().config;
        use model::Ratio::{Csa, None};
        assert_eq!((config.ratios, config.context, config.width), (vec![Csa, None], 100, 64));
        assert_eq!((config.hc, config.sinkhorn, config.heads), (2, 3, 6));
        assert_eq!((config.head_dim, config.rope_dim, config.q_lora), (96, 16, 32));
        assert_eq!((config.out_groups, config.out_lora, config.window), (3, 96, 8));
        assert_eq!((config.index_heads, config.index_dim, config.top_k), (2, 32, 5));
        assert_eq!((config.experts, config.experts_used, config.hash_layers), (7, 4, 1));
        assert_eq!((config.expert_width, config.clamp), (vec![160; 3], vec![3.0; 3]));
        assert_eq!((config.vocab, config.mtp), (300, true));
        let yarn = config.yarn.unwrap();
        assert_eq!((yarn.factor, yarn.original_context), (8.0, 50));
    }

    #[test]
    fn it_says_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let path = path.to_str().unwrap();
        assert_eq!(run(&["tiny", "--out", path]).unwrap(), format!("{path}\n154 tensors, 6.58 MiB\n"));
        let parts = run(&["tiny", "--part-mib", "4", "--out", path]).unwrap();
        assert!(parts.contains("m-00001-of-00002.gguf\n"), "{parts}");
        assert_eq!(run(&["vocab", "--out", path]).unwrap(), format!("{path}: 512 tokens\n"));
    }

    #[test]
    fn an_impossible_model_is_refused_and_nothing_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let error = run(&["tiny", "--heads", "3", "--out", path.to_str().unwrap()]).unwrap_err();
        assert!(format!("{error:#}").contains("deepseek4.attention.output_group_count is 2"), "{error:#}");
        assert!(!path.exists());
    }

    #[test]
    fn another_tokenizer_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, r#"{"model": {}}"#).unwrap();
        let error = run(&["vocab", "--tokenizer", path.to_str().unwrap(), "--out", "none"]).unwrap_err();
        assert!(format!("{error:#}").contains("tokenizer.json: not a tokenizer.json"), "{error:#}");
    }
}
