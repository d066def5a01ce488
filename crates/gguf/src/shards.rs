//! A model in several files: `PREFIX-00001-of-00003.gguf` and its siblings.
//!
//! Each shard is a whole GGUF file with tensors of its own. Three keys in each say which one it is;
//! only the first has the model's metadata.

use std::path::{Path, PathBuf};

use crate::error::{GgufError, ShardProblem};
use crate::metadata::Metadata;

/// u16: this shard's number, from 0.
pub(crate) const NO_KEY: &str = "split.no";
/// u16: how many shards there are.
pub(crate) const COUNT_KEY: &str = "split.count";
/// i32: tensors in all shards together.
pub(crate) const TENSORS_KEY: &str = "split.tensors.count";

/// The file name of shard `no` (from 0) of `count`; file names count from 1.
pub(crate) fn path(prefix: &Path, no: u64, count: u64) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!("-{:05}-of-{count:05}.gguf", no + 1));
    path.into()
}

/// How many shards the model has that a file with this metadata belongs to; 1 if it is not split.
pub(crate) fn count(file: &Path, metadata: &Metadata) -> Result<u64, GgufError> {
    Ok(read_key(file, metadata, COUNT_KEY, 2)?.unwrap_or(0).max(1))
}

/// The files of a model in `count` shards, of which `file` is one.
pub(crate) fn siblings(file: &Path, metadata: &Metadata, count: u64) -> Result<Vec<PathBuf>, GgufError> {
    let no = read_key(file, metadata, NO_KEY, 0)?.unwrap_or(0);
    let wrong_name = || {
        let problem = ShardProblem::Name { no: no.saturating_add(1), count };
        GgufError::Shards { file: file.to_owned(), problem }
    };
    let suffix = path(Path::new(""), no.min(count - 1), count);
    let suffix = suffix.to_str().expect("ASCII");
    let name = file.file_name().and_then(|name| name.to_str()).ok_or_else(wrong_name)?;
    let prefix = file.with_file_name(name.strip_suffix(suffix).ok_or_else(wrong_name)?);
    (0..count)
        .map(|no| {
            let sibling = path(&prefix, no, count);
            let missing = ShardProblem::Missing { no: no + 1, count };
            match sibling.try_exists() {
                Ok(false) => Err(GgufError::Shards { file: sibling, problem: missing }),
                _ => Ok(sibling), // if it cannot be looked at, opening it says why
            }
        })
        .collect()
}

/// Checks that `file` says that it is shard `no` of `count`.
pub(crate) fn check(file: &Path, metadata: &Metadata, no: u64, count: u64) -> Result<(), GgufError> {
    for (key, needed) in [(NO_KEY, no), (COUNT_KEY, count)] {
        if read_key(file, metadata, key, needed)? != Some(needed) {
            return Err(wrong_key(file, metadata, key, needed));
        }
    }
    Ok(())
}

/// Checks the total number of tensors, `found`, against the key in the first shard.
pub(crate) fn check_total(file: &Path, metadata: &Metadata, found: u64) -> Result<(), GgufError> {
    match read_key(file, metadata, TENSORS_KEY, found)? {
        Some(needed) if needed != found => Err(GgufError::Shards {
            file: file.to_owned(),
            problem: ShardProblem::TensorCount { found, needed },
        }),
        _ => Ok(()),
    }
}

/// A key that is a non-negative integer, if it is there. `needed` is for the message if it is not.
fn read_key(
    file: &Path,
    metadata: &Metadata,
    key: &'static str,
    needed: u64,
) -> Result<Option<u64>, GgufError> {
    metadata.opt_u64(key).map_err(|_| wrong_key(file, metadata, key, needed))
}

fn wrong_key(file: &Path, metadata: &Metadata, key: &'static str, needed: u64) -> GgufError {
    let found = metadata.get(key).map_or("missing".to_owned(), |value| value.to_string());
    let problem = ShardProblem::Key { key, found, needed };
    GgufError::Shards { file: file.to_owned(), problem }
}
