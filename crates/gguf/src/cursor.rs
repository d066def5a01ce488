//! Reading little-endian numbers and strings one after the other, never past the end.

use std::fmt;

use crate::error::Problem;
use crate::value::Strings;

/// Longest string accepted, in bytes.
const MAX_STRING: u64 = 1 << 30;
/// Longest array accepted, in elements.
const MAX_ARRAY: u64 = 1 << 30;

/// A position in the bytes of a file.
///
/// Lengths are checked against what remains before anything is allocated, so a file can make the
/// reader use memory in proportion to its own size and no more.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What is being read, for messages.
pub(crate) enum Place<'a> {
    Header,
    Key { no: u64, of: u64 },
    Value(&'a str),
    TensorName { no: u64, of: u64 },
    Tensor(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::Key { no, of } => write!(f, "key {} of {of}", no + 1),
            Self::Value(key) => write!(f, "the value of key {key}"),
            Self::TensorName { no, of } => write!(f, "the name of tensor {} of {of}", no + 1),
            Self::Tensor(name) => write!(f, "the description of tensor {name}"),
        }
    }
}

/// A number as it lies in the file.
pub(crate) trait Number: Sized {
    const SIZE: usize;
    fn from_le(bytes: &[u8]) -> Self;
    fn put_le(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            const SIZE: usize = size_of::<Self>();
            fn from_le(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("SIZE bytes"))
            }
            fn put_le(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }

impl Number for bool {
    const SIZE: usize = 1;
    fn from_le(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
    fn put_le(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn position(&self) -> u64 {
        self.at as u64
    }

    pub fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes.
    fn take(&mut self, len: u64, place: &Place) -> Result<&'a [u8], Problem> {
        if len > self.remaining() {
            return Err(Problem::Cut {
                place: place.to_string(),
                need: len,
                offset: self.position(),
                end: self.bytes.len() as u64,
            });
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.bytes[start..self.at])
    }

    pub fn number<T: Number>(&mut self, place: &Place) -> Result<T, Problem> {
        self.take(T::SIZE as u64, place).map(T::from_le)
    }

    pub fn numbers<T: Number>(&mut self, count: u64, place: &Place) -> Result<Vec<T>, Problem> {
        at_most(count, MAX_ARRAY, place)?;
        let bytes = self.take(count * T::SIZE as u64, place)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::from_le).collect())
    }

    pub fn string(&mut self, place: &Place) -> Result<&'a [u8], Problem> {
        let len = self.number(place)?;
        at_most(len, MAX_STRING, place)?;
        self.take(len, place)
    }

    pub fn strings(&mut self, count: u64, place: &Place) -> Result<Strings, Problem> {
        at_most(count, MAX_ARRAY, place)?;
        let mut strings = Strings::default();
        for _ in 0..count {
            strings.push(self.string(place)?); // the count is not trusted: it allocates nothing
        }
        Ok(strings)
    }
}

fn at_most(found: u64, most: u64, place: &Place) -> Result<(), Problem> {
    if found > most {
        return Err(Problem::TooLong { place: place.to_string(), found, most });
    }
    Ok(())
}
