//! An MTP block in a file of its own.
//!
//! [`join_mtp`] gives its tensors the names that they have inside a model's file, so that nobody else needs to know where they
//! came from. There are two kinds of such files: llama.cpp's, a model of one layer, and those of the C engine ds4, whose
//! tensors are called `mtp.0...`. Dimensions are the model's in both cases, and are compared with the block's when it is
//! loaded.

use crate::config::Config;
use crate::load::LoadError;
use gguf::{Gguf, GgufError, GgufWriter, Metadata, TensorInfo, WriteError};

/// Why a file cannot give a model its MTP block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what the fields are
pub enum JoinError {
    #[error("the model: {0}")]
    Model(#[from] LoadError),
    #[error("the model's file has an MTP block already: leave --mtp-file out")]
    Twice,
    #[error(
        "the MTP file holds a DSpark draft model, which is made for the 0731 checkpoint; ds4 does not run those yet"
    )]
    DSpark,
    #[error("the MTP file holds no MTP block: neither blk.{layers}.nextn.eh_proj nor mtp.0.e_proj is in it")]
    NoBlock { layers: usize },
    #[error("the MTP file's block comes after {found} layers, but this model has {need}")]
    Layers { found: String, need: usize },
    #[error("the MTP file has a vocabulary of {found} tokens, and the model one of {need}")]
    Vocabulary { found: usize, need: usize },
    #[error("the MTP file's tensors mtp.0.e_proj and mtp.0.h_proj are no two square matrices of one type")]
    Projections,
    #[error("the MTP file: {0}")]
    Gguf(#[from] GgufError),
    #[error("the MTP block's projection: {0}")]
    Write(#[from] WriteError),
}

/// A model with the MTP block of another file.
///
/// # Errors
///
/// If the model has one, or the file holds none that is made for such a model. Shapes are compared by [`crate::load::check`].
pub fn join_mtp(model: Gguf, file: Gguf) -> Result<Gguf, JoinError> {
    let config = Config::read(&model)?;
    if config.mtp {
        return Err(JoinError::Twice);
    }
    let layers = config.layers();
    if let Ok(tokens) = file.metadata().strings("tokenizer.ggml.tokens")
        && tokens.len() != config.vocab
    {
        return Err(JoinError::Vocabulary { found: tokens.len(), need: config.vocab });
    }
    let eh_proj = format!("blk.{layers}.nextn.eh_proj.weight");
    if file.tensor(&eh_proj).is_some() {
        return Ok(model.join(file, |name| inside(name, layers))?);
    }
    let [Some(e), Some(h)] = ["e", "h"].map(|part| file.tensor(&format!("mtp.0.{part}_proj.weight"))) else {
        return Err(what_else(&file, layers));
    };
    let both = side_by_side(&file, e, h, &eh_proj)?;
    let model = model.join(file, |name| renamed(name, layers))?;
    Ok(model.join(both, |name| Some(name.to_owned()))?)
}

/// The name inside a model of a tensor in a file of llama.cpp's kind, which repeats the model's embedding, output matrix and
/// final norm, if not all of the model; the collapse of the streams is the block's own.
fn inside(name: &str, layers: usize) -> Option<String> {
    match name.strip_prefix("output_hc_") {
        Some(part) => Some(format!("blk.{layers}.nextn.hc_head_{part}")),
        None => name.starts_with(&format!("blk.{layers}.")).then(|| name.to_owned()),
    }
}

/// The name inside a model of a tensor of ds4's kind.
fn renamed(name: &str, layers: usize) -> Option<String> {
    let name = name.strip_prefix("mtp.0.")?;
    match name {
        "e_proj.weight" | "h_proj.weight" => None, // one matrix inside a model
        "norm.weight" => Some(format!("blk.{layers}.nextn.shared_head_norm.weight")),
        "enorm.weight" | "hnorm.weight" => Some(format!("blk.{layers}.nextn.{name}")),
        _ if name.starts_with("hc_head_") => Some(format!("blk.{layers}.nextn.{name}")),
        _ => Some(format!("blk.{layers}.{name}")),
    }
}

/// Why a file without a block for this model is of no use.
fn what_else(file: &Gguf, layers: usize) -> JoinError {
    let names = || file.tensors().map(|tensor| tensor.name.as_str());
    if names().any(|name| name.contains("main_proj") || name.contains("markov")) {
        return JoinError::DSpark;
    }
    let other = names().find_map(|name| name.strip_prefix("blk.")?.strip_suffix(".nextn.eh_proj.weight"));
    match other {
        Some(found) => JoinError::Layers { found: found.to_owned(), need: layers },
        None => JoinError::NoBlock { layers },
    }
}

/// A file with one tensor, `[e | h]`: each row of `e` and then that of `h`.
fn side_by_side(file: &Gguf, e: &TensorInfo, h: &TensorInfo, name: &str) -> Result<Gguf, JoinError> {
    let [width, rows] = e.dims[..] else { return Err(JoinError::Projections) };
    if e.dims != h.dims || e.kind != h.kind || width != rows || width == 0 {
        return Err(JoinError::Projections);
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    let mut writer = GgufWriter::new(metadata)?;
    writer.tensor(name, &[2 * width, rows], e.kind)?;
    let (first, second) = (file.data(e), file.data(h));
    let row = first.len() / rows as usize;
    let bytes = writer.write_vec(|_, out| {
        let mut rows = first.chunks_exact(row).zip(second.chunks_exact(row));
        rows.try_for_each(|(e, h)| out.write_all(e).and_then(|()| out.write_all(h)))
    })?;
    Ok(Gguf::from_vec(bytes)?)
}
