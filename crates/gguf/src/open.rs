//! Opening a model: one file or several, mapped and checked before anything is used.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::error::{GgufError, Problem, ShardProblem};
use crate::metadata::Metadata;
use crate::parse::{Contents, parse};
use crate::shards;
use crate::tensor::TensorInfo;

/// An open model: metadata, tensors and their data.
///
/// Everything that was read from the file has been checked: each tensor's data lies inside its file,
/// no two overlap, no name occurs twice. What the model needs is for others to ask.
///
/// Invariant: `by_name` lists the indices of `tensors` in the order of their names.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    version: u32,
    alignment: u64,
    files: Vec<ModelFile>,
    tensors: Vec<TensorInfo>,
    by_name: Vec<usize>,
    /// How many of the tensors are the model's own: those after them are of files that were joined.
    own: usize,
    warnings: Vec<Warning>,
}

/// One file of a model, or memory in place of one.
#[derive(Debug)]
struct ModelFile {
    path: PathBuf,
    /// Kept open to see whether it changes; none for memory.
    handle: Option<File>,
    bytes: Bytes,
}

/// Something odd about a file that does not keep it from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Bytes between tensors that belong to none. Usual writers leave no such gaps.
    Gaps {
        /// The file.
        file: PathBuf,
        /// How many bytes in all.
        bytes: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaps { file, bytes } => {
                write!(f, "{}: {bytes} bytes between tensors belong to none", file.display())
            }
        }
    }
}

impl Gguf {
    /// Opens the model in `path`. If that is one shard of several, opens them all.
    ///
    /// Reads the metadata and maps the rest; see [`Bytes`] for what a mapping means.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is not a sound GGUF file, or a shard is missing or of another set.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (file, contents) = ModelFile::open(path, 0)?;
        let count = shards::count(path, &contents.metadata)?;
        if count == 1 {
            return Self::assemble(vec![(file, contents)]);
        }
        let paths = shards::siblings(path, &contents.metadata, count)?;
        let mut parts = Vec::new();
        for (no, path) in paths.iter().enumerate() {
            let (file, contents) = ModelFile::open(path, no)?;
            shards::check(path, &contents.metadata, no as u64, count)?;
            parts.push((file, contents));
        }
        let total: u64 = parts.iter().map(|(_, contents)| contents.tensors.len() as u64).sum();
        shards::check_total(&paths[0], &parts[0].1.metadata, total)?;
        Self::assemble(parts)
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    ///
    /// If `bytes` are not a sound GGUF file, or one shard of several.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, GgufError> {
        Self::from_memory(bytes.into())
    }

    /// Opens a model that was made in memory.
    ///
    /// # Errors
    ///
    /// If `bytes` are not a sound GGUF file, or one shard of several.
    pub fn from_vec(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::from_memory(bytes.into())
    }

    fn from_memory(bytes: Bytes) -> Result<Self, GgufError> {
        let path = PathBuf::from("model in memory");
        let part = ModelFile { path, handle: None, bytes }.parsed(0)?;
        let count = shards::count(&part.0.path, &part.1.metadata)?;
        if count > 1 {
            let (file, problem) = (part.0.path, ShardProblem::InMemory { count });
            return Err(GgufError::Shards { file, problem });
        }
        Self::assemble(vec![part])
    }

    /// One model out of its parts, of which the first has the metadata.
    fn assemble(parts: Vec<(ModelFile, Contents)>) -> Result<Self, GgufError> {
        let (mut files, mut tensors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = None;
        for (file, contents) in parts {
            if contents.gap_bytes > 0 {
                let file = file.path.clone();
                warnings.push(Warning::Gaps { file, bytes: contents.gap_bytes });
            }
            files.push(file);
            tensors.extend(contents.tensors);
            first.get_or_insert((contents.metadata, contents.version, contents.alignment));
        }
        let by_name = sorted_names(&tensors, &files)?;
        let (metadata, version, alignment) = first.expect("at least one part");
        let own = tensors.len();
        Ok(Self { metadata, version, alignment, files, tensors, by_name, own, warnings })
    }

    /// Adds tensors of another file, as if they were in one more shard. The metadata stays what it is.
    ///
    /// - `name`: what a tensor of the other file is called here; `None` leaves it out
    ///
    /// # Errors
    ///
    /// If there are two tensors of one name then.
    pub fn join(mut self, other: Gguf, name: impl Fn(&str) -> Option<String>) -> Result<Self, GgufError> {
        let shards = self.files.len();
        self.files.extend(other.files);
        self.tensors.extend(other.tensors.into_iter().filter_map(|info| {
            Some(TensorInfo { name: name(&info.name)?, shard: shards + info.shard, ..info })
        }));
        self.warnings.extend(other.warnings);
        self.by_name = sorted_names(&self.tensors, &self.files)?;
        Ok(self)
    }

    /// The tensors of the model's own files, without those of others that were joined.
    pub fn own_tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors[..self.own].iter()
    }

    /// The keys and values of the model, those of the first shard.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Version of the format: 2 or 3, which differ in nothing that is read here.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor offsets in the first file are a multiple of, in bytes. May be as small as 1.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All tensors, shard by shard in the order of the files, those that were joined at the end.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let by_name = |&i: &usize| self.tensors[i].name.as_str().cmp(name);
        let found = self.by_name.binary_search_by(by_name).ok()?;
        Some(&self.tensors[self.by_name[found]])
    }

    /// The data of `tensor`, not copied.
    ///
    /// # Panics
    ///
    /// If `tensor` is of another model, and not inside this one.
    pub fn data(&self, tensor: &TensorInfo) -> Bytes {
        let range = tensor.offset as usize..tensor.end() as usize;
        self.files[tensor.shard].bytes.slice(range)
    }

    /// The files of the model, the first shard first; behind them those that were joined.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Size of all files together, in bytes.
    pub fn file_len(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }

    /// What is odd about the files.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Checks that no file has changed its length since it was opened. Worth asking after a long
    /// load: the weights just read may be those of a file still being written.
    ///
    /// # Errors
    ///
    /// If one has, or cannot be measured.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        self.files.iter().try_for_each(ModelFile::check_unchanged)
    }
}

/// The indices of `tensors` by name, or the error that a name occurs twice.
fn sorted_names(tensors: &[TensorInfo], files: &[ModelFile]) -> Result<Vec<usize>, GgufError> {
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_by_key(|&i| (&tensors[i].name, i));
    let twice = by_name
        .windows(2)
        .map(|pair| (&tensors[pair[0]], &tensors[pair[1]]))
        .find(|(first, second)| first.name == second.name);
    let Some((first, second)) = twice else {
        return Ok(by_name);
    };
    let (tensor, file) = (second.name.clone(), files[second.shard].path.clone());
    Err(if first.shard == second.shard {
        GgufError::File { file, problem: Problem::DuplicateTensor { tensor } }
    } else {
        let problem = ShardProblem::DuplicateTensor { tensor, first: first.shard + 1 };
        GgufError::Shards { file, problem }
    })
}

impl ModelFile {
    fn open(path: &Path, shard: usize) -> Result<(Self, Contents), GgufError> {
        let io = |source| GgufError::Io { file: path.to_owned(), source };
        // Looked at before it is opened: opening a pipe would wait for someone to write.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufError::File { file: path.to_owned(), problem: Problem::NotAFile });
        }
        let handle = File::open(path).map_err(io)?;
        let bytes = Bytes::map(&handle).map_err(io)?;
        let (file, contents) = Self { path: path.to_owned(), handle: Some(handle), bytes }.parsed(shard)?;
        file.check_unchanged()?;
        Ok((file, contents))
    }

    fn parsed(self, shard: usize) -> Result<(Self, Contents), GgufError> {
        match parse(&self.bytes, shard) {
            Ok(contents) => Ok((self, contents)),
            Err(problem) => Err(GgufError::File { file: self.path, problem }),
        }
    }

    fn check_unchanged(&self) -> Result<(), GgufError> {
        let Some(handle) = &self.handle else {
            return Ok(());
        };
        let io = |source| GgufError::Io { file: self.path.clone(), source };
        let (before, now) = (self.bytes.len() as u64, handle.metadata().map_err(io)?.len());
        if before != now {
            let problem = Problem::Changed { before, now };
            return Err(GgufError::File { file: self.path.clone(), problem });
        }
        Ok(())
    }
}
