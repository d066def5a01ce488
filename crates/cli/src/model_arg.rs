//! `-m`: which model, for every command that runs one.
//!
//! The first of these that is there: `-m`, `$DS4_MODEL`, the newest model in the models folder, the model
//! built into the program. Whoever did not say which model they want is told which one they got.

use crate::folders;
use anyhow::Context;
use gguf::Gguf;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The model that is part of the program.
static POCKET: &[u8] = include_bytes!("../../../models/pocket.gguf");

/// Which model to run.
#[derive(clap::Args)]
pub struct ModelArg {
    /// The model, a GGUF file (of a split model any part). Default: $DS4_MODEL, else the newest model in
    /// $DS4_HOME/models, else the small model built into ds4
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
}

/// Where the model comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Flag(PathBuf),
    Environment(PathBuf),
    Folder(PathBuf),
    BuiltIn,
}

impl ModelArg {
    /// Whether the command line names a model.
    pub fn is_given(&self) -> bool {
        self.model.is_some()
    }

    /// Opens the model and, if nobody named it, says on standard error which one it is.
    pub fn open(&self) -> anyhow::Result<Gguf> {
        let source = choose(self.model.clone(), env::var_os("DS4_MODEL"), models_folder().as_deref());
        match &source {
            Source::Flag(_) => {}
            Source::Environment(path) => eprintln!("model: {} ($DS4_MODEL)", path.display()),
            Source::Folder(path) => eprintln!("model: {}", path.display()),
            Source::BuiltIn => eprintln!("model: the small one built into ds4 (-m FILE runs another)"),
        }
        match source {
            Source::Flag(path) | Source::Environment(path) | Source::Folder(path) => {
                Gguf::open(&path).context("opening the model")
            }
            Source::BuiltIn => Gguf::from_static(POCKET).context("opening the built-in model"),
        }
    }
}

fn choose(flag: Option<PathBuf>, variable: Option<OsString>, folder: Option<&Path>) -> Source {
    if let Some(path) = flag {
        return Source::Flag(path);
    }
    if let Some(path) = variable.filter(|value| !value.is_empty()) {
        return Source::Environment(path.into());
    }
    folder.and_then(newest_model).map_or(Source::BuiltIn, Source::Folder)
}

/// Where fetched models are kept.
fn models_folder() -> Option<PathBuf> {
    folders::data().map(|home| home.join("models"))
}

/// The GGUF file that was changed last; of a split model its first part.
fn newest_model(folder: &Path) -> Option<PathBuf> {
    let changed =
        |path: &PathBuf| path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_file() && is_model(path)).max_by_key(|path| (changed(path), path.clone()))
}

fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(stem) = name.strip_suffix(".gguf") else {
        return false;
    };
    match stem.rsplit_once("-of-") {
        Some((first, count)) if count.len() == 5 && count.bytes().all(|b| b.is_ascii_digit()) => {
            first.ends_with("-00001")
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, create_dir};
    use std::time::Duration;

    #[test]
    fn a_named_model_comes_before_a_fetched_one() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("fetched.gguf")).unwrap();
        let check = |flag: Option<&str>, variable: Option<&str>, want| {
            let got = choose(flag.map(PathBuf::from), variable.map(OsString::from), Some(dir.path()));
            assert_eq!(got, want);
        };
        check(Some("a.gguf"), Some("b.gguf"), Source::Flag("a.gguf".into()));
        check(None, Some("b.gguf"), Source::Environment("b.gguf".into()));
        check(None, Some(""), Source::Folder(dir.path().join("fetched.gguf")));
        check(None, None, Source::Folder(dir.path().join("fetched.gguf")));
        assert_eq!(choose(None, None, Some(&dir.path().join("none"))), Source::BuiltIn);
        assert_eq!(choose(None, None, None), Source::BuiltIn);
    }

    #[test]
    fn the_newest_model_is_a_whole_file_or_a_first_part() {
        let dir = tempfile::tempdir().unwrap();
        let newest_first = ["notes.txt", "new-00002-of-00002.gguf", "new-00001-of-00002.gguf", "old.gguf"];
        for (age, name) in newest_first.into_iter().enumerate() {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60 * age as u64)).unwrap();
        }
        create_dir(dir.path().join("folder.gguf")).unwrap();
        assert_eq!(newest_model(dir.path()), Some(dir.path().join("new-00001-of-00002.gguf")));
    }
}
