//! A model ready for service: its weights on a backend, and the tokenizer that belongs to them.

use crate::constraint::Constraints;
use crate::vocabulary::{VocabularyError, vocabulary};
use gguf::{Gguf, GgufError};
use model::{KvFormat, LoadError, Model, Ops};
use std::sync::Arc;
use text::chat::Profile;
use text::{Marker, Tokenizer, VocabError};

/// A model in service. Immutable; sessions share it.
pub struct LoadedModel<B: Ops> {
    /// Where it is computed.
    pub ops: B,
    /// What the file calls itself, or its file's name.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// The formats of the weights, those that take most first: `iq2_xxs/q2_k/q8_0`.
    pub quant: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Configuration and weights.
    pub model: Model<B>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Makes constraints for replies in this vocabulary.
    pub constraints: Constraints,
    /// Which checkpoint's words prompts are written in.
    pub profile: Profile,
    /// What is odd about the file, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is not a model we can run.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The file's tokenizer is not one we know.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The file's tokenizer contradicts itself.
    #[error("the tokenizer: {0}")]
    Tokenizer(#[from] VocabError),
    /// The file was being written while we read it.
    #[error(transparent)]
    Changed(#[from] GgufError),
}

/// How far the loading of a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// What is being done.
    pub phase: LoadPhase,
    /// Bytes of weights that are where they are computed with, and of how many; 0 outside of [`LoadPhase::Weights`].
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// What is being done while a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadPhase {
    /// The file is opened and compared with what a model has.
    #[default]
    Checking,
    /// The tokenizer is made.
    Tokenizer,
    /// The weights go to the device.
    Weights,
    /// The rest: the page store, the engine.
    Starting,
    /// Kernels for usual batches are compiled, on devices that do that.
    Kernels,
}

impl Loading {
    /// How much of the work is done, 0 to 1. The weights are most of it.
    pub fn part(&self) -> f32 {
        match self.phase {
            LoadPhase::Checking => 0.0,
            LoadPhase::Tokenizer => 0.02,
            LoadPhase::Weights => 0.05 + 0.9 * (self.done as f64 / self.total.max(1) as f64) as f32,
            LoadPhase::Starting => 0.95,
            LoadPhase::Kernels => 0.96,
        }
    }
}

impl LoadPhase {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            LoadPhase::Checking => "checking",
            LoadPhase::Tokenizer => "tokenizer",
            LoadPhase::Weights => "weights",
            LoadPhase::Starting => "starting",
            LoadPhase::Kernels => "kernels",
        }
    }
}

impl<B: Ops> LoadedModel<B> {
    /// Loads a model onto a backend. Without a `profile` the file decides.
    ///
    /// # Errors
    ///
    /// If the file is not a model of ours, its tokenizer cannot be used, or the backend has no room.
    pub fn load(ops: B, gguf: &Gguf, profile: Option<Profile>) -> Result<Self, OpenError> {
        LoadedModel::load_watched(ops, gguf, profile, &|_: Loading| {})
    }

    /// The same, for somebody who wants to know how far it is: `progress` hears it at the beginning of each part of the
    /// work, and after each matrix.
    ///
    /// # Errors
    ///
    /// As [`LoadedModel::load`].
    pub fn load_watched(
        ops: B,
        gguf: &Gguf,
        profile: Option<Profile>,
        progress: &dyn Fn(Loading),
    ) -> Result<Self, OpenError> {
        let part = |phase| progress(Loading { phase, ..Loading::default() });
        part(LoadPhase::Checking);
        let checked = model::load::check(gguf)?;
        part(LoadPhase::Tokenizer);
        let tokenizer = Arc::new(Tokenizer::new(vocabulary(gguf.metadata())?)?);
        let warnings = warnings(gguf, &checked.unused, &tokenizer);
        let weights = |done, total| progress(Loading { phase: LoadPhase::Weights, done, total });
        let model = checked.load(&ops, &weights)?;
        part(LoadPhase::Starting);
        gguf.check_unchanged()?;
        let profile = profile.unwrap_or_else(|| detect_profile(gguf));
        let name = name(gguf);
        let constraints = Constraints::new(tokenizer.clone());
        let (bytes, quant) = (gguf.file_len(), quant(gguf));
        let parameters = gguf.tensors().map(gguf::TensorInfo::elements).sum();
        Ok(LoadedModel {
            ops,
            name,
            bytes,
            quant,
            parameters,
            model,
            tokenizer,
            constraints,
            profile,
            warnings,
        })
    }

    /// Lets the backend get ready for usual batches, if it has to: see [`Ops::rehearse`]. Then `progress` hears of it.
    ///
    /// - `conversations`: the most at once
    pub fn rehearse(&self, kv: KvFormat, conversations: usize, progress: &dyn Fn(Loading)) {
        self.ops.rehearse(&mut || {
            progress(Loading { phase: LoadPhase::Kernels, ..Loading::default() });
            model::rehearsal(&self.model, &self.ops, kv, conversations);
        });
    }

    /// The KV format for everyday use: the smallest that suits the model.
    pub fn usual_kv(&self) -> KvFormat {
        KvFormat::usual(&self.model.config)
    }
}

/// `general.name`, or the name of the first file.
fn name(gguf: &Gguf) -> String {
    let named = gguf.metadata().opt_str("general.name").ok().flatten().map(str::to_owned);
    let file = || gguf.files().next()?.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    named.filter(|name| !name.is_empty()).or_else(file).unwrap_or_else(|| "unnamed".to_owned())
}

/// The formats of matrices, those that take most bytes first, at most three.
fn quant(gguf: &Gguf) -> String {
    let mut formats: Vec<(&str, u64)> = Vec::new();
    for tensor in gguf.tensors().filter(|tensor| tensor.dims.len() > 1) {
        let name = tensor.kind.name();
        match formats.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += tensor.bytes,
            None => formats.push((name, tensor.bytes)),
        }
    }
    formats.sort_by_key(|&(name, bytes)| (std::cmp::Reverse(bytes), name));
    formats.iter().take(3).map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>().join("/")
}

/// The checkpoint's profile, from its chat template, its name and the name of its first file.
fn detect_profile(gguf: &Gguf) -> Profile {
    let text = |key| gguf.metadata().opt_str(key).ok().flatten();
    let file = gguf.files().next().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
    let names: Vec<&str> = [&*file].into_iter().chain(text("general.name")).collect();
    Profile::detect(text("tokenizer.chat_template"), &names)
}

fn warnings(gguf: &Gguf, unused: &[String], tokenizer: &Tokenizer) -> Vec<String> {
    let mut warnings: Vec<String> = gguf.warnings().iter().map(ToString::to_string).collect();
    if let [first, more @ ..] = unused {
        let others = if more.is_empty() { String::new() } else { format!(" and {} others", more.len()) };
        warnings.push(format!("not used: tensor {first}{others}"));
    }
    let needed = [Marker::Bos, Marker::User, Marker::Assistant, Marker::ThinkOpen, Marker::ThinkClose];
    for marker in needed.into_iter().filter(|&marker| tokenizer.marker_id(marker).is_none()) {
        warnings.push(format!("no chat with this model: its vocabulary lacks {marker}"));
    }
    warnings
}
