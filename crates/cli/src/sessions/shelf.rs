//! Where sessions lie: a folder with a file a session, and beside it a lock, so that only one process at a time talks
//! in it.

use super::{Name, Record};
use crate::{folders, private};
use anyhow::{Context, bail};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// All sessions of a user.
pub struct Shelf {
    folder: PathBuf,
}

/// One session, while this process alone may change it.
pub struct Held {
    /// What it is called.
    pub name: Name,
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as the file is open, so also a process that is killed lets go of it.
    _lock: File,
}

impl Shelf {
    /// The user's sessions.
    ///
    /// # Errors
    ///
    /// If nobody can say where they are.
    pub fn open() -> anyhow::Result<Shelf> {
        let data = folders::data().context("there is no home folder to keep sessions in; set DS4_HOME")?;
        Ok(Shelf { folder: data.join("sessions") })
    }

    /// Where a session's file is.
    pub fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// The names of all sessions.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read; if there is none, there are no sessions.
    pub fn names(&self) -> anyhow::Result<Vec<Name>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", self.folder.display())),
        };
        let files = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<Name> =
            files.filter_map(|file| file.strip_suffix(".json")?.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Reads a session.
    ///
    /// # Errors
    ///
    /// If there is none of this name, or it cannot be read.
    pub fn read(&self, name: &Name) -> anyhow::Result<Record> {
        let path = self.path(name);
        if !path.exists() {
            bail!("there is no session {name}; `ds4 sessions ls` lists them");
        }
        Record::read(&path)
    }

    /// Takes a session, new or old, for this process alone.
    ///
    /// # Errors
    ///
    /// If another process has it.
    pub fn take(&self, name: &Name) -> anyhow::Result<Held> {
        private::folder(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        private::sweep(&self.folder);
        let lock_path = self.folder.join(format!("{name}.lock"));
        let lock = loop {
            let lock =
                private::open(&lock_path).with_context(|| format!("opening {}", lock_path.display()))?;
            match lock.try_lock() {
                // Whoever removed the session in the meantime removed the file that we locked.
                Ok(()) if is_at(&lock, &lock_path) => break lock,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!("session {name} is open in another ds4: end that one, or use another name")
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", lock_path.display()));
                }
            }
        };
        Ok(Held { name: name.clone(), path: self.path(name), lock_path, _lock: lock })
    }
}

impl Held {
    /// What was said in it; `None` if it is new.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(&self) -> anyhow::Result<Option<Record>> {
        if self.path.exists() { Record::read(&self.path).map(Some) } else { Ok(None) }
    }

    /// Replaces it.
    ///
    /// # Errors
    ///
    /// If it cannot be written; then it is as it was.
    pub fn write(&self, record: &Record) -> anyhow::Result<()> {
        record.write(&self.path)
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn remove(self) -> anyhow::Result<()> {
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("removing {}", path.display())),
        };
        remove(&self.path)?;
        remove(&self.lock_path)
    }
}

/// Whether an open file is the one at a path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |data: std::fs::Metadata| (data.dev(), data.ino());
    let there = path.metadata().map(number);
    file.metadata().map(number).is_ok_and(|ours| there.is_ok_and(|there| there == ours))
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}
