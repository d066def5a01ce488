//! Where objects lie: a folder of this machine, or anything else that the crate `object_store` knows.
//!
//! A shelf holds objects by name, in drawers, one a model and KV format. It knows nothing of what they are. All
//! calls wait; they are made on the store's own threads.

use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

/// How many small reads are under way at once. A disk wants few, a bucket many.
const AT_ONCE: usize = 32;

/// A temporary file that nobody has written to for so long belongs to a process that is gone.
const ABANDONED: Duration = Duration::from_secs(600);

/// Where a store is.
#[derive(Clone)]
pub enum Place {
    /// A folder of this machine, made if it is not there. It and what is in it are for its owner's eyes only.
    Folder(PathBuf),
    /// Anything else, below a prefix. Who may read it is the owner's business.
    Objects(Arc<dyn ObjectStore>, ObjectPath),
}

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The folder cannot be made or read.
    #[error("the page store's folder {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The bucket's address makes no sense, or credentials are missing.
    #[error("the page store at {place}: {error}")]
    Objects {
        /// Its address.
        place: String,
        /// Why not.
        error: Error,
    },
    /// An address of a kind that this program was built without.
    #[error("{0}: this program was built without support for buckets (cargo feature s3); give a folder")]
    NoBuckets(String),
    /// No threads, or no timers.
    #[error("the page store: {0}")]
    Runtime(io::Error),
}

impl Place {
    /// A place by its address: `s3://BUCKET/PREFIX`, or a folder. Credentials and the server of a bucket come
    /// from the usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
    ///
    /// # Errors
    ///
    /// If it is a bucket and cannot be one.
    pub fn parse(address: &str) -> Result<Place, PlaceError> {
        if address.starts_with("s3://") { bucket(address) } else { Ok(Place::Folder(address.into())) }
    }
}

#[cfg(feature = "s3")]
fn bucket(address: &str) -> Result<Place, PlaceError> {
    let fail = |error| PlaceError::Objects { place: address.to_owned(), error };
    let (bucket, prefix) = address.trim_start_matches("s3://").split_once('/').unwrap_or((&address[5..], ""));
    let builder = object_store::aws::AmazonS3Builder::from_env().with_bucket_name(bucket);
    let prefix = ObjectPath::parse(prefix).map_err(|error| fail(error.into()))?;
    Ok(Place::Objects(Arc::new(builder.build().map_err(fail)?), prefix))
}

#[cfg(not(feature = "s3"))]
fn bucket(address: &str) -> Result<Place, PlaceError> {
    Err(PlaceError::NoBuckets(address.to_owned()))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Folder(path) => path.display().fmt(f),
            Place::Objects(objects, prefix) => write!(f, "{objects}, {prefix}"),
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// An object as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) drawer: String,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) written: SystemTime,
}

/// Objects by drawer and name.
pub(crate) struct Shelf {
    objects: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    folder: Option<PathBuf>,
    runtime: Runtime,
}

impl Shelf {
    /// Whether it is elsewhere than in a folder.
    pub(crate) fn is_remote(&self) -> bool {
        self.folder.is_none()
    }

    /// Goes to a place. With `make` its folder is made; without, one that is not there is an error.
    pub(crate) fn new(place: &Place, make: bool) -> Result<Shelf, PlaceError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(PlaceError::Runtime)?;
        match place {
            Place::Objects(objects, prefix) => {
                Ok(Shelf { objects: objects.clone(), prefix: prefix.clone(), folder: None, runtime })
            }
            Place::Folder(path) => {
                let fail = |error| PlaceError::Folder { path: path.clone(), error };
                if make {
                    private_folder(path).map_err(fail)?;
                }
                let files = LocalFileSystem::new_with_prefix(path).map_err(|error| fail(error.into()))?;
                let objects = Arc::new(files.with_fsync(true));
                Ok(Shelf { objects, prefix: ObjectPath::default(), folder: Some(path.clone()), runtime })
            }
        }
    }

    /// Makes a drawer ready, and throws away what a process that was killed has left half-written in it.
    pub(crate) fn open_drawer(&self, drawer: &str) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let folder = folder.join(drawer);
        private_folder(&folder)?;
        for file in std::fs::read_dir(folder)? {
            let file = file?;
            let is_temporary = file.file_name().to_string_lossy().contains('#');
            let age = || file.metadata().and_then(|data| data.modified()).map(|time| time.elapsed());
            if is_temporary && age().is_ok_and(|age| age.is_ok_and(|age| age > ABANDONED)) {
                // If another process is quicker, that is as well.
                let _ = std::fs::remove_file(file.path());
            }
        }
        Ok(())
    }

    fn path(&self, drawer: &str, name: &str) -> ObjectPath {
        self.prefix.clone().join(drawer).join(name)
    }

    /// All objects of a drawer.
    pub(crate) fn list(&self, drawer: &str) -> Result<Vec<Listed>, Error> {
        let prefix = self.prefix.clone().join(drawer);
        let depth = self.prefix.parts().count();
        let listed = self.objects.list(Some(&prefix)).try_collect::<Vec<_>>();
        let listed = self.runtime.block_on(listed)?.into_iter().filter_map(|object| {
            let parts: Vec<_> = object.location.parts().skip(depth).collect();
            let [drawer, name] = &parts[..] else { return None };
            Some(Listed {
                drawer: drawer.as_ref().to_owned(),
                name: name.as_ref().to_owned(),
                bytes: object.size,
                written: object.last_modified.into(),
            })
        });
        Ok(listed.collect())
    }

    /// The names of the folders at the place, whatever they are.
    pub(crate) fn folders(&self) -> Result<Vec<String>, Error> {
        let listed = self.runtime.block_on(self.objects.list_with_delimiter(Some(&self.prefix)))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        Ok(names.collect())
    }

    /// Whether an object is there at this moment.
    pub(crate) fn has(&self, drawer: &str, name: &str) -> Result<bool, Error> {
        match self.runtime.block_on(self.objects.head(&self.path(drawer, name))) {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All of an object, if it has at most `most` bytes.
    ///
    /// # Errors
    ///
    /// Among others [`Error::NotFound`]. `None` if it is larger.
    pub(crate) fn get(&self, drawer: &str, name: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(drawer, name);
        self.runtime.block_on(async {
            let found = self.objects.get(&path).await?;
            if found.meta.size > most {
                return Ok(None);
            }
            Ok(Some(found.bytes().await?.into()))
        })
    }

    /// The first bytes of many objects, at most `most` of each, in their order.
    pub(crate) fn beginnings(
        &self,
        drawer: &str,
        objects: &[Listed],
        most: u64,
    ) -> Vec<Result<Vec<u8>, Error>> {
        let read = |object: &Listed| {
            let (path, range) = (self.path(drawer, &object.name), 0..object.bytes.min(most));
            async move {
                match range.end {
                    0 => Ok(Vec::new()),
                    _ => self.objects.get_range(&path, range).await.map(Vec::from),
                }
            }
        };
        let reads = objects.iter().map(read).collect::<Vec<_>>();
        self.runtime.block_on(futures_util::stream::iter(reads).buffered(AT_ONCE).collect())
    }

    /// Writes an object: when this returns it is there, whole and for good, or not at all.
    pub(crate) fn put(&self, drawer: &str, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let path = self.path(drawer, name);
        self.runtime.block_on(self.objects.put(&path, PutPayload::from(bytes)))?;
        if let Some(folder) = &self.folder {
            let private = private_file(&folder.join(drawer).join(name));
            private.map_err(|error| Error::Generic { store: "folder", source: error.into() })?;
        }
        Ok(())
    }

    /// Removes an object; one that is gone already is fine.
    pub(crate) fn remove(&self, drawer: &str, name: &str) -> Result<(), Error> {
        match self.runtime.block_on(self.objects.delete(&self.path(drawer, name))) {
            Err(Error::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

#[cfg(unix)]
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if !path.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

#[cfg(unix)]
fn private_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        // Another process may have evicted it in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn private_file(_path: &Path) -> io::Result<()> {
    Ok(())
}
