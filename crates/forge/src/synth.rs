//! Models with random weights: the real architecture, formats and shapes, and nothing learned.
//!
//! What they say means nothing, but every part of an engine works on them as on a published model:
//! they have window, CSA and HCA layers, both ways of routing, sinks, biases and hyper-connections,
//! with numbers of a size that keeps activations as alive as in a trained one.
//!
//! Start at [`Synthetic`]. A model is a function of its description: the numbers of each tensor come
//! from the seed and the tensor's name alone, so no number of threads and no order changes a byte.
//!
//! The list of tensors and their shapes is [`model::load::inventory`], so a model made here is by
//! construction one that the engine loads; a description that it would refuse is refused here, by the
//! same check, before anything is written.

mod blocks;
mod law;
mod metadata;
mod recipe;
mod sizes;
mod stream;
mod vocab;

use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use gguf::{Gguf, GgufWriter, Metadata, TensorInfo, TensorType, WriteError};
use model::load::{Kind, Tensor, inventory};
use model::{Config, LoadError};

use law::Law;
pub use recipe::Recipe;
pub use sizes::Sizes;
use stream::Stream;
pub use vocab::byte_vocab;

/// Bytes that one thread makes at a time, about. Part of what a seed means: each piece has random
/// numbers of its own.
const PIECE: usize = 1 << 20;

/// The description of a model with random weights.
///
/// ```
/// use forge::synth::{Recipe, Synthetic};
///
/// let mut description = Synthetic::tiny(Recipe::Q8, 7);
/// description.sizes.mtp = true;
/// let gguf = gguf::Gguf::from_vec(description.to_vec()?)?;
/// assert!(model::load::check(&gguf)?.config.mtp);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// `general.name`.
    pub name: String,
    /// Layers, widths, counts.
    pub sizes: Sizes,
    /// Which tensor has which format.
    pub recipe: Recipe,
    /// The tokenizer; one embedding row a token.
    pub vocab: text::Vocab,
    /// Another seed gives another model of the same description.
    pub seed: u64,
}

/// Why a model could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// The sizes do not make a model that the engine would load.
    #[error("no such model: {0}")]
    Sizes(#[from] LoadError),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Synthetic {
    /// A few small layers of every kind and a vocabulary of 512 tokens: for tests.
    pub fn tiny(recipe: Recipe, seed: u64) -> Self {
        let sizes = if recipe.has_blocks_of_256() { Sizes::tiny_with_long_rows() } else { Sizes::tiny() };
        Self { name: "tiny".into(), sizes, recipe, vocab: byte_vocab(512), seed }
    }

    /// The first `layers` layers of DeepSeek V4 Flash with `experts` experts each, in their published
    /// shapes: for benchmarks.
    pub fn flash_slice(layers: usize, experts: u32, recipe: Recipe, vocab: text::Vocab, seed: u64) -> Self {
        let name = format!("Flash slice, {layers} layers of {experts} experts");
        Self { name, sizes: Sizes::flash(layers, experts), recipe, vocab, seed }
    }

    /// Size of all tensor data in bytes.
    ///
    /// # Errors
    ///
    /// If the sizes make no model.
    pub fn data_bytes(&self) -> Result<u64, SynthError> {
        Ok(self.writer()?.tensors().iter().map(|tensor| tensor.bytes).sum())
    }

    /// Writes the model to `path`, in parts of at most `part_bytes` if that is given, and returns the
    /// files. `progress` hears how many bytes of data were made since it last heard.
    ///
    /// # Errors
    ///
    /// If the sizes make no model, or a file cannot be written.
    pub fn write(
        &self,
        path: &Path,
        part_bytes: Option<u64>,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<PathBuf>, SynthError> {
        let mut writer = self.writer()?;
        writer.max_file_bytes(part_bytes.unwrap_or(u64::MAX));
        Ok(writer.write(path, |tensor, out| self.fill(tensor, out, &mut progress))?)
    }

    /// The model as the bytes of a GGUF file.
    ///
    /// # Errors
    ///
    /// If the sizes make no model.
    pub fn to_vec(&self) -> Result<Vec<u8>, SynthError> {
        Ok(self.writer()?.write_vec(|tensor, out| self.fill(tensor, out, &mut |_| ()))?)
    }

    /// Metadata and tensors, without data.
    fn writer(&self) -> Result<GgufWriter, SynthError> {
        let metadata = metadata::of(self);
        let config = self.read_back(&metadata)?;
        let mut writer = GgufWriter::new(metadata)?;
        for tensor in inventory(&config).into_iter().chain(draft_norm(&config)) {
            let dims: Vec<u64> = tensor.shape.iter().rev().map(|&len| len as u64).collect();
            let kind = match tensor.kind {
                Kind::Matrix | Kind::Vector => self.recipe.type_of(&tensor.name, dims[0]),
                Kind::Table => TensorType::I32,
            };
            writer.tensor(&tensor.name, &dims, kind)?;
        }
        Ok(writer)
    }

    /// What the engine makes of `metadata`. It tells what a file is by two tensors, which this one has
    /// in place of all.
    fn read_back(&self, metadata: &Metadata) -> Result<Config, SynthError> {
        let mut writer = GgufWriter::new(metadata.clone())?;
        writer.tensor("blk.0.attn_norm.weight", &[], TensorType::F32)?;
        if self.sizes.mtp {
            let draft = format!("blk.{}.nextn.eh_proj.weight", self.sizes.layers());
            writer.tensor(&draft, &[], TensorType::F32)?;
        }
        let bytes = writer.write_vec(|_, out| out.write_all(&[0; 4]))?;
        let gguf = Gguf::from_vec(bytes).expect("our own file opens");
        Ok(Config::read(&gguf)?)
    }

    /// Makes the data of `tensor`, a piece on each thread at a time.
    fn fill(
        &self,
        tensor: &TensorInfo,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let law = Law::of(tensor, self.sizes.experts);
        let piece = PIECE.next_multiple_of(law.unit_bytes());
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let make = |bytes: &mut [u8], no| law.fill(bytes, &mut Stream::new(self.seed, &tensor.name, no));

        let mut left = tensor.bytes as usize;
        let mut buffer = vec![0; left.min(threads * piece)];
        let mut numbers = 0..;
        while left > 0 {
            let wave = left.min(buffer.len());
            thread::scope(|scope| {
                for (bytes, no) in buffer[..wave].chunks_mut(piece).zip(&mut numbers) {
                    scope.spawn(move || make(bytes, no));
                }
            });
            out.write_all(&buffer[..wave])?;
            progress(wave as u64);
            left -= wave;
        }
        Ok(())
    }
}

/// Writes a file with a tokenizer and no model: enough to tokenize with.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_vocab(vocab: &text::Vocab, path: &Path) -> Result<(), SynthError> {
    let writer = GgufWriter::new(metadata::of_vocab(vocab))?;
    writer.write(path, |_, _| Ok(()))?;
    Ok(())
}

/// The final norm that an MTP block may have of its own; ours has one.
fn draft_norm(config: &Config) -> Option<Tensor> {
    let name = format!("blk.{}.nextn.shared_head_norm.weight", config.layers());
    config.mtp.then(|| Tensor { name, shape: vec![config.width], kind: Kind::Vector })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn flash(recipe: Recipe) -> GgufWriter {
        Synthetic::flash_slice(43, 256, recipe, byte_vocab(129_280), 0).writer().unwrap()
    }

    fn gib(writer: &GgufWriter) -> f64 {
        writer.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>() as f64 / (1u64 << 30) as f64
    }

    /// The published files of the whole model have 80.8 and 153.3 GiB.
    #[test]
    fn a_slice_of_everything_is_as_large_as_the_published_model() {
        for (recipe, want) in [(Recipe::Q2, 80.8), (Recipe::Q4, 153.3), (Recipe::Mxfp4, 145.3)] {
            let found = gib(&flash(recipe));
            assert!((found - want).abs() < 0.05, "{recipe:?}: {found} GiB");
        }
    }

    /// Counts from the header of a published q2 file.
    #[test]
    fn it_has_as_many_tensors_of_each_type() {
        let writer = flash(Recipe::Q2);
        let mut counts = BTreeMap::new();
        for tensor in writer.tensors() {
            *counts.entry(tensor.kind.name()).or_insert(0) += 1;
        }
        let want = [("F16", 359), ("F32", 492), ("I32", 3), ("IQ2_XXS", 86), ("Q2_K", 43), ("Q8_0", 345)];
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), want);
    }
}
