//! Files for their owner's eyes only, complete or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// What files begin with while they are written; one that stays was left by a process that was killed.
const UNFINISHED: &str = ".ds4-unfinished-";

/// Nobody takes so long to write a file.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Removes what processes that were killed have left half-written in a folder, as far as that can be done.
pub fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        let written = entry.metadata().and_then(|data| data.modified());
        if is_ours && written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes a file: when this returns it is there, whole and for good, or as it was before. Only its owner can read it.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(path: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)?;
    Ok(())
}

/// Makes it last that a file has a name in a folder, or has none any more.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere folders cannot be synced, nor need be.
#[cfg(not(unix))]
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a folder, and those above it, that only its owner can look into.
///
/// # Errors
///
/// If it is not there and cannot be made.
#[cfg(unix)]
pub fn folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if !path.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// Makes a folder, and those above it.
///
/// # Errors
///
/// If it is not there and cannot be made.
#[cfg(not(unix))]
pub fn folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// A new file that only its owner can read, or the one that is there.
///
/// # Errors
///
/// If it cannot be opened for writing.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
