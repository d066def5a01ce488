//! The contents of one file: header, metadata, tensor descriptions, and the checks on them all.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensor count  u64 key count
//! keys:    string key, u32 value type, value
//! tensors: string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset
//! zeros up to a multiple of general.alignment, then the data; offsets count from there
//! ```
//!
//! A string is a u64 length and bytes; everything is little-endian. Start at [`parse`].

use crate::cursor::{Cursor, Place};
use crate::error::Problem;
use crate::metadata::Metadata;
use crate::tensor::{MAX_DIMS, TensorInfo, TensorType, checked_size};
use crate::value::{Array, Value, ValueType};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const VERSION: u32 = 3;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u32 = 32;
const MAX_ALIGNMENT: u32 = 1 << 20;
const MAX_KEY: usize = 65535;

/// What one file says about itself, checked against its bytes.
#[derive(Debug)]
pub(crate) struct Contents {
    pub version: u32,
    pub metadata: Metadata,
    /// In the order of the file. Names may still repeat.
    pub tensors: Vec<TensorInfo>,
    pub alignment: u64,
    /// Bytes between tensors that belong to none, beyond what alignment asks for.
    pub gap_bytes: u64,
}

/// Reads all but the tensor data of one file. `shard` is noted in each [`TensorInfo`].
pub(crate) fn parse(bytes: &[u8], shard: usize) -> Result<Contents, Problem> {
    let mut cursor = Cursor::new(bytes);
    let version = check_start(&mut cursor, bytes)?;
    let tensor_count = cursor.number(&Place::Header)?;
    let key_count = cursor.number(&Place::Header)?;
    check_count("tensors", tensor_count, cursor.remaining(), 24)?;
    check_count("keys", key_count, cursor.remaining(), 13)?;

    let metadata = read_metadata(&mut cursor, key_count)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = (0..tensor_count)
        .map(|no| read_tensor(&mut cursor, shard, Place::TensorName { no, of: tensor_count }))
        .collect::<Result<Vec<_>, _>>()?;

    let data_start = cursor.position().next_multiple_of(alignment);
    let gap_bytes = place(&mut tensors, data_start, alignment, bytes.len() as u64)?;
    Ok(Contents { version, metadata, tensors, alignment, gap_bytes })
}

/// Checks magic and version, and returns the version.
fn check_start(cursor: &mut Cursor, bytes: &[u8]) -> Result<u32, Problem> {
    let found = &bytes[..bytes.len().min(4)];
    if !MAGIC.starts_with(found) || found.is_empty() {
        let found = found.escape_ascii().to_string();
        return Err(Problem::Magic { found, hint: what_else(bytes) });
    }
    cursor.number::<u32>(&Place::Header)?;
    let version = cursor.number(&Place::Header)?;
    let hint = match version {
        2 | 3 => return Ok(version),
        0 | 1 => "the file is too old, convert the model again",
        _ if version & 0xffff == 0 => "the file is for big-endian machines",
        _ => "the file is newer than this program",
    };
    Err(Problem::Version { found: version, hint })
}

/// What a file that is not GGUF may be.
fn what_else(bytes: &[u8]) -> &'static str {
    let start = bytes.trim_ascii_start();
    if bytes.is_empty() {
        "; it is empty"
    } else if start.starts_with(b"version https://git-lfs") {
        "; it is a git-LFS pointer, the model itself has not been downloaded"
    } else if start.starts_with(b"<") {
        "; it looks like a web page, perhaps an error page saved by a download"
    } else if bytes.get(8) == Some(&b'{') {
        "; it looks like safetensors, which must be converted first"
    } else {
        ""
    }
}

/// Refuses a count that the rest of the file cannot hold at `least` bytes an item.
fn check_count(what: &'static str, found: u64, remaining: u64, least: u64) -> Result<(), Problem> {
    let most = remaining / least;
    if found > most {
        return Err(Problem::Count { what, found, remaining, most });
    }
    Ok(())
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<Metadata, Problem> {
    let mut metadata = Metadata::new();
    for no in 0..count {
        let key = read_key(cursor, Place::Key { no, of: count })?;
        let value = read_value(cursor, &Place::Value(&key))?;
        if metadata.contains(&key) {
            return Err(Problem::DuplicateKey { key });
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_key(cursor: &mut Cursor, place: Place) -> Result<String, Problem> {
    let key = text(cursor.string(&place)?, &place)?;
    check_key(&key, &place)?;
    Ok(key)
}

/// Refuses keys that other readers refuse.
pub(crate) fn check_key(key: &str, place: &Place) -> Result<(), Problem> {
    let place = || place.to_string();
    match key.len() {
        0 => Err(Problem::EmptyKey { place: place() }),
        1..=MAX_KEY => Ok(()),
        len => Err(Problem::TooLong { place: place(), found: len as u64, most: MAX_KEY as u64 }),
    }
}

fn text(bytes: &[u8], place: &Place) -> Result<String, Problem> {
    let not_text = |_| Problem::NotText {
        place: place.to_string(),
        found: bytes.escape_ascii().take(200).map(char::from).collect(),
    };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
}

fn read_value(cursor: &mut Cursor, place: &Place) -> Result<Value, Problem> {
    let id = cursor.number(place)?;
    let unknown = || Problem::ValueType { place: place.to_string(), found: id };
    Ok(match ValueType::from_id(id).ok_or_else(unknown)? {
        ValueType::U8 => Value::U8(cursor.number(place)?),
        ValueType::I8 => Value::I8(cursor.number(place)?),
        ValueType::U16 => Value::U16(cursor.number(place)?),
        ValueType::I16 => Value::I16(cursor.number(place)?),
        ValueType::U32 => Value::U32(cursor.number(place)?),
        ValueType::I32 => Value::I32(cursor.number(place)?),
        ValueType::U64 => Value::U64(cursor.number(place)?),
        ValueType::I64 => Value::I64(cursor.number(place)?),
        ValueType::F32 => Value::F32(cursor.number(place)?),
        ValueType::F64 => Value::F64(cursor.number(place)?),
        ValueType::Bool => Value::Bool(cursor.number(place)?),
        ValueType::String => Value::String(cursor.string(place)?.to_vec()),
        ValueType::Array => Value::Array(read_array(cursor, place)?),
    })
}

fn read_array(cursor: &mut Cursor, place: &Place) -> Result<Array, Problem> {
    let id = cursor.number(place)?;
    let unknown = || Problem::ArrayType { place: place.to_string(), found: id };
    let kind = ValueType::from_id(id).ok_or_else(unknown)?;
    let count = cursor.number(place)?;
    Ok(match kind {
        ValueType::U8 => Array::U8(cursor.numbers(count, place)?),
        ValueType::I8 => Array::I8(cursor.numbers(count, place)?),
        ValueType::U16 => Array::U16(cursor.numbers(count, place)?),
        ValueType::I16 => Array::I16(cursor.numbers(count, place)?),
        ValueType::U32 => Array::U32(cursor.numbers(count, place)?),
        ValueType::I32 => Array::I32(cursor.numbers(count, place)?),
        ValueType::U64 => Array::U64(cursor.numbers(count, place)?),
        ValueType::I64 => Array::I64(cursor.numbers(count, place)?),
        ValueType::F32 => Array::F32(cursor.numbers(count, place)?),
        ValueType::F64 => Array::F64(cursor.numbers(count, place)?),
        ValueType::Bool => Array::Bool(cursor.numbers(count, place)?),
        ValueType::String => Array::String(cursor.strings(count, place)?),
        ValueType::Array => return Err(unknown()),
    })
}

/// The alignment of tensor data that `metadata` asks for.
pub(crate) fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(&Value::U32(x)) if x.is_power_of_two() && x <= MAX_ALIGNMENT => Ok(x.into()),
        Some(value) => Err(Problem::Alignment {
            found: format!("{value} ({})", value.kind().name()),
            most: MAX_ALIGNMENT,
        }),
    }
}

/// Reads one tensor description; its `offset` still counts from the start of the data.
fn read_tensor(cursor: &mut Cursor, shard: usize, place: Place) -> Result<TensorInfo, Problem> {
    let name = text(cursor.string(&place)?, &place)?;
    let place = Place::Tensor(&name);
    let n_dims: u32 = cursor.number(&place)?;
    if n_dims as usize > MAX_DIMS {
        return Err(Problem::DimensionCount { tensor: name, found: n_dims.into() });
    }
    let dims = cursor.numbers(n_dims.into(), &place)?;
    let id = cursor.number(&place)?;
    let offset = cursor.number(&place)?;
    let Some(kind) = TensorType::from_id(id) else {
        return Err(Problem::UnknownType { tensor: name, found: id });
    };
    let bytes = checked_size(&name, &dims, kind)?;
    Ok(TensorInfo { name, dims, kind, bytes, shard, offset })
}

/// Turns offsets into positions in the file, checks that no two tensors overlap and that all are
/// inside `file_len`, and returns how many bytes between them belong to none.
fn place(tensors: &mut [TensorInfo], data_start: u64, alignment: u64, file_len: u64) -> Result<u64, Problem> {
    for tensor in tensors.iter_mut() {
        if tensor.offset % alignment != 0 {
            let (name, offset) = (tensor.name.clone(), tensor.offset);
            return Err(Problem::Offset { tensor: name, offset, alignment });
        }
        let start = data_start.checked_add(tensor.offset);
        match start.and_then(|start| Some((start, start.checked_add(tensor.bytes)?))) {
            Some((start, _)) => tensor.offset = start,
            None => {
                let (name, dims) = (tensor.name.clone(), tensor.dims.clone());
                return Err(Problem::TooLarge { tensor: name, dims });
            }
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    check_end(&by_offset, file_len)?;
    check_neighbours(&by_offset, data_start, alignment)
}

fn check_end(by_offset: &[&TensorInfo], file_len: u64) -> Result<(), Problem> {
    match by_offset.iter().max_by_key(|tensor| tensor.end()) {
        Some(last) if last.end() > file_len => Err(Problem::Truncated {
            tensor: last.name.clone(),
            need: last.end(),
            found: file_len,
            percent: (u128::from(file_len) * 100 / u128::from(last.end())) as u64,
        }),
        _ => Ok(()),
    }
}

fn check_neighbours(by_offset: &[&TensorInfo], data_start: u64, alignment: u64) -> Result<u64, Problem> {
    let mut gaps = by_offset.first().map_or(0, |first| first.offset - data_start);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if second.offset < first.end() {
            return Err(Problem::Overlap {
                first: first.name.clone(),
                second: second.name.clone(),
                end: first.end(),
                start: second.offset,
                hint: overlap_hint(first.kind),
            });
        }
        // All offsets are multiples of the alignment, so this cannot be negative.
        gaps += second.offset - first.end().next_multiple_of(alignment);
    }
    Ok(gaps)
}

/// Some private forks use ids that ggml gave to other types, with smaller sizes.
fn overlap_hint(kind: TensorType) -> &'static str {
    match kind {
        TensorType::NVFP4 | TensorType::Q1_0 => {
            "; perhaps the file comes from a fork of ggml that uses the type's id for another type"
        }
        _ => "",
    }
}
