//! Writing models, of any size: data is asked for tensor by tensor and goes straight to the disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::cursor::{Number, Place};
use crate::error::Problem;
use crate::metadata::Metadata;
use crate::parse::{ALIGNMENT_KEY, MAGIC, VERSION, alignment, check_key};
use crate::shards;
use crate::tensor::{MAX_DIMS, MAX_NAME, TensorInfo, TensorType, checked_size};
use crate::value::{Array, Value, for_any_variant};

const ARCHITECTURE_KEY: &str = "general.architecture";
/// Writes to the disk are gathered into pieces of this many bytes.
const BUFFER: usize = 1 << 20;
/// The longest tensor description, in bytes: name, dimensions, type, offset.
const DESCRIPTION_LEN: u64 = (8 + MAX_NAME + 4 + 8 * MAX_DIMS + 4 + 8) as u64;
/// More data than any disk holds, and far enough from 2^64 that sums cannot wrap.
const MAX_DATA: u64 = 1 << 62;

/// Writes a GGUF file, or several.
///
/// Keys are written in the order of the metadata, `general.architecture` before all others; tensors
/// in the order they were announced, each at a multiple of `general.alignment`. Values are written
/// with the types and bytes they have, so reading a file and writing it again loses no key.
///
/// A file appears under its name when it is complete and on the disk, replacing what was there, and
/// not at all if something fails.
///
/// ```
/// use gguf::{Gguf, GgufWriter, Metadata, TensorType};
/// use std::io::Write;
///
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "toy");
/// let mut writer = GgufWriter::new(metadata)?;
/// writer.tensor("output.weight", &[2, 1], TensorType::F32)?;
/// let bytes = writer.write_vec(|_tensor, out| {
///     out.write_all(&1f32.to_le_bytes())?;
///     out.write_all(&2f32.to_le_bytes())
/// })?;
/// assert_eq!(Gguf::from_vec(bytes)?.tensors().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufWriter {
    metadata: Metadata,
    alignment: u64,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
    data_bytes: u64,
    max_file_bytes: u64,
}

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A file could not be created, written or renamed, or the caller could not supply its data.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file under its final name.
        file: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A tensor or a key that no reader would accept.
    #[error("cannot be written: {0}")]
    Invalid(#[from] Problem),
    /// The caller supplied too few bytes, or too many.
    #[error("tensor {tensor}: {found} bytes supplied, needed {needed}")]
    Size {
        /// Name of the tensor.
        tensor: String,
        /// How many bytes there were; counting stops at the first piece that is too much.
        found: u64,
        /// How many its dimensions and type need.
        needed: u64,
    },
    /// A shard with this tensor alone is larger than a shard may be.
    #[error("tensor {tensor} needs a file of {need} bytes, more than the limit of {limit} a shard")]
    ShardTooSmall {
        /// Name of the tensor.
        tensor: String,
        /// Size of a file that holds it.
        need: u64,
        /// The limit given to [`GgufWriter::max_file_bytes`].
        limit: u64,
    },
    /// The number of shards does not fit the format.
    #[error("{count} shards, at most 65535 possible: a larger limit a shard is needed")]
    ShardCount {
        /// How many there would be.
        count: usize,
    },
}

/// What supplies the data of a tensor: writes exactly its bytes.
type Fill<'a> = dyn FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()> + 'a;

/// A file to be written: all that comes before the data, and which tensors follow.
struct Plan<'a> {
    head: Vec<u8>,
    tensors: &'a [TensorInfo],
}

impl GgufWriter {
    /// Starts a file with this metadata. Keys that describe shards (`split.*`) are left out: whether
    /// there are any is decided here.
    ///
    /// # Errors
    ///
    /// If a key is empty or too long, or `general.alignment` is none.
    pub fn new(mut metadata: Metadata) -> Result<Self, WriteError> {
        for key in [shards::NO_KEY, shards::COUNT_KEY, shards::TENSORS_KEY] {
            metadata.remove(key);
        }
        for (no, (key, _)) in metadata.iter().enumerate() {
            check_key(key, &Place::Key { no: no as u64, of: metadata.len() as u64 })?;
        }
        let alignment = alignment(&metadata)?;
        let (tensors, names) = (Vec::new(), HashSet::new());
        Ok(Self { metadata, alignment, tensors, names, data_bytes: 0, max_file_bytes: u64::MAX })
    }

    /// Splits the model into files of at most this many bytes, if it is larger than that.
    pub fn max_file_bytes(&mut self, bytes: u64) -> &mut Self {
        self.max_file_bytes = bytes;
        self
    }

    /// Announces the next tensor. `dims` are in ggml's order, the fastest-varying axis first.
    ///
    /// # Errors
    ///
    /// If the name is taken, empty or too long, or the dimensions do not fit the type.
    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: TensorType) -> Result<&mut Self, WriteError> {
        let bytes = checked_size(name, dims, kind)?;
        let (name, dims) = (name.to_owned(), dims.to_vec());
        if !self.names.insert(name.clone()) {
            return Err(Problem::DuplicateTensor { tensor: name }.into());
        }
        let end = self.data_bytes.checked_add(bytes).filter(|&end| end <= MAX_DATA);
        let Some(end) = end else {
            return Err(Problem::TooLarge { tensor: name, dims }.into());
        };
        let offset = self.data_bytes;
        self.data_bytes = end.next_multiple_of(self.alignment);
        self.tensors.push(TensorInfo { name, dims, kind, bytes, shard: 0, offset });
        Ok(self)
    }

    /// The tensors announced so far, with offsets as if they were in one file without metadata.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes the model to `path`, and returns the files written. `fill` is called once for each
    /// tensor, in order, and writes exactly its bytes.
    ///
    /// If the model needs several files and `path` is `DIR/X.gguf`, they are
    /// `DIR/X-00001-of-0000N.gguf` and so on, each with whole tensors, the metadata in the first.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, `fill` fails or writes another number of bytes, or a tensor does
    /// not fit a shard. Nothing is left behind then, unless a rename fails after others succeeded.
    pub fn write(
        &self,
        path: &Path,
        mut fill: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
    ) -> Result<Vec<PathBuf>, WriteError> {
        let plans = self.plans()?;
        let paths = file_names(path, plans.len() as u64);
        let mut complete = Vec::new();
        for (plan, path) in plans.iter().zip(&paths) {
            complete.push(self.write_beside(path, plan, &mut fill)?);
        }
        for (file, path) in complete.into_iter().zip(&paths) {
            file.persist(path).map_err(|failed| io_error(path, failed.error))?;
            sync_folder(path).map_err(|source| io_error(path, source))?;
        }
        Ok(paths)
    }

    /// Writes the model into memory, as one file.
    ///
    /// # Errors
    ///
    /// If `fill` fails or writes another number of bytes than the tensor has.
    pub fn write_vec(
        &self,
        mut fill: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
    ) -> Result<Vec<u8>, WriteError> {
        let mut bytes = Vec::new();
        self.write_file(Path::new("model in memory"), &self.whole(), &mut bytes, &mut fill)?;
        Ok(bytes)
    }

    /// Writes the file that will be `path` under a temporary name in the same folder.
    fn write_beside(&self, path: &Path, plan: &Plan, fill: &mut Fill) -> Result<NamedTempFile, WriteError> {
        let file = temporary_beside(path).map_err(|source| io_error(path, source))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        self.write_file(path, plan, &mut out, fill)?;
        let file = out.into_inner().map_err(|error| io_error(path, error.into_error()))?;
        file.as_file().sync_all().map_err(|source| io_error(path, source))?;
        Ok(file)
    }

    /// Writes the file that `plan` describes to `out`; `path` is for messages.
    fn write_file(
        &self,
        path: &Path,
        plan: &Plan,
        out: &mut dyn Write,
        fill: &mut Fill,
    ) -> Result<(), WriteError> {
        out.write_all(&plan.head).map_err(|source| io_error(path, source))?;
        for tensor in plan.tensors {
            let mut data = Counted { out, written: 0, limit: tensor.bytes };
            let filled = fill(tensor, &mut data);
            let (found, needed) = (data.written, tensor.bytes);
            if found > needed || (filled.is_ok() && found < needed) {
                return Err(WriteError::Size { tensor: tensor.name.clone(), found, needed });
            }
            filled
                .and_then(|()| out.write_all(&vec![0; self.padding(needed)]))
                .map_err(|source| io_error(path, source))?;
        }
        out.flush().map_err(|source| io_error(path, source))
    }

    /// Everything in one file.
    fn whole(&self) -> Plan<'_> {
        Plan { head: self.head(&self.metadata, &self.tensors), tensors: &self.tensors }
    }

    /// Which tensors go into which file.
    fn plans(&self) -> Result<Vec<Plan<'_>>, WriteError> {
        let whole = self.whole();
        if whole.head.len() as u64 + self.data_bytes <= self.max_file_bytes {
            return Ok(vec![whole]);
        }
        let ranges = self.split()?;
        let count = ranges.len();
        let count = u16::try_from(count).map_err(|_| WriteError::ShardCount { count })?;
        let plan = |(no, range): (usize, Range<usize>)| {
            let tensors = &self.tensors[range];
            Plan { head: self.head(&self.shard_metadata(no as u16, count), tensors), tensors }
        };
        Ok(ranges.into_iter().enumerate().map(plan).collect())
    }

    /// Cuts the list of tensors into ranges that fit the limit. The first may be empty, if the
    /// metadata leaves no room for a tensor.
    fn split(&self) -> Result<Vec<Range<usize>>, WriteError> {
        let (mut ranges, mut start) = (Vec::new(), 0);
        let mut size = self.head(&self.shard_metadata(0, 2), &[]).len() as u64;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let more = (DESCRIPTION_LEN + tensor.bytes).next_multiple_of(self.alignment);
            if size + more > self.max_file_bytes {
                ranges.push(start..i);
                start = i;
                size = self.head(&self.shard_metadata(1, 2), &[]).len() as u64;
            }
            if size + more > self.max_file_bytes {
                let (tensor, need, limit) = (tensor.name.clone(), size + more, self.max_file_bytes);
                return Err(WriteError::ShardTooSmall { tensor, need, limit });
            }
            size += more;
        }
        ranges.push(start..self.tensors.len());
        Ok(ranges)
    }

    /// All metadata in the first shard; in the others what a reader of one file needs.
    fn shard_metadata(&self, no: u16, count: u16) -> Metadata {
        let mut metadata = if no == 0 { self.metadata.clone() } else { Metadata::new() };
        if let Some(alignment) = self.metadata.get(ALIGNMENT_KEY) {
            metadata.insert(ALIGNMENT_KEY, alignment.clone());
        }
        metadata.insert(shards::NO_KEY, no);
        metadata.insert(shards::COUNT_KEY, count);
        metadata.insert(shards::TENSORS_KEY, self.tensors.len() as i32);
        metadata
    }

    /// Header, metadata, tensor descriptions and the padding after them.
    fn head(&self, metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(MAGIC);
        VERSION.put_le(&mut head);
        (tensors.len() as u64).put_le(&mut head);
        (metadata.len() as u64).put_le(&mut head);
        let first = metadata.get(ARCHITECTURE_KEY).map(|value| (ARCHITECTURE_KEY, value));
        let others = metadata.iter().filter(|(key, _)| *key != ARCHITECTURE_KEY);
        for (key, value) in first.into_iter().chain(others) {
            put_string(key.as_bytes(), &mut head);
            put_value(value, &mut head);
        }
        let data_start = tensors.first().map_or(0, |first| first.offset);
        for tensor in tensors {
            put_string(tensor.name.as_bytes(), &mut head);
            (tensor.dims.len() as u32).put_le(&mut head);
            put_numbers(&tensor.dims, &mut head);
            tensor.kind.id().put_le(&mut head);
            (tensor.offset - data_start).put_le(&mut head);
        }
        head.resize(head.len() + self.padding(head.len() as u64), 0);
        head
    }

    /// Zero bytes needed after `len` bytes.
    fn padding(&self, len: u64) -> usize {
        (len.next_multiple_of(self.alignment) - len) as usize
    }
}

fn put_string(string: &[u8], out: &mut Vec<u8>) {
    (string.len() as u64).put_le(out);
    out.extend(string);
}

fn put_numbers<T: Number>(numbers: &[T], out: &mut Vec<u8>) {
    numbers.iter().for_each(|number| number.put_le(out));
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    (value.kind() as u32).put_le(out);
    for_any_variant!(value, Value, x => x.put_le(out),
        Value::String(string) => put_string(string, out),
        Value::Array(array) => put_array(array, out));
}

fn put_array(array: &Array, out: &mut Vec<u8>) {
    (array.kind() as u32).put_le(out);
    (array.len() as u64).put_le(out);
    for_any_variant!(array, Array, numbers => put_numbers(numbers, out),
        Array::String(strings) => strings.iter().for_each(|string| put_string(string, out)));
}

/// Passes bytes on, counts them, and stops at the first piece that is too much.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
    limit: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.limit.saturating_sub(self.written) {
            self.written += bytes.len() as u64;
            return Err(io::Error::other("more bytes than the tensor has"));
        }
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // the whole file is flushed at its end
    }
}

fn io_error(path: &Path, source: io::Error) -> WriteError {
    WriteError::Io { file: path.to_owned(), source }
}

/// The files that a model written to `path` in `count` parts consists of.
fn file_names(path: &Path, count: u64) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    let prefix = if is_gguf { path.with_extension("") } else { path.to_owned() };
    (0..count).map(|no| shards::path(&prefix, no, count)).collect()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A new file in the folder of `path`, removed when dropped, readable as other new files are.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".gguf.part"); // no name under which a model is looked for
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder(path))
}

/// Makes a rename survive a power cut, where the system can.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}
