//! Metadata values: what a key may hold, kept exactly as the file has it.

use std::fmt;

/// One metadata value, with the type it has in the file.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the types
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Usually UTF-8, but that is for the reader to check: vocabularies may hold any bytes.
    String(Vec<u8>),
    Array(Array),
}

/// An array of values of one type, stored without a tag for each.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the types
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
}

/// Many strings in two allocations: a vocabulary has 130 thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// The type of a value, by its id in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the types
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// Runs `$body` with `$x` bound to what is inside any variant but those listed before it.
macro_rules! for_any_variant {
    ($of:expr, $type:ident, $x:ident => $body:expr $(, $other:pat => $result:expr)*) => {
        match $of {
            $($other => $result,)*
            $type::U8($x) => $body,
            $type::I8($x) => $body,
            $type::U16($x) => $body,
            $type::I16($x) => $body,
            $type::U32($x) => $body,
            $type::I32($x) => $body,
            $type::U64($x) => $body,
            $type::I64($x) => $body,
            $type::F32($x) => $body,
            $type::F64($x) => $body,
            $type::Bool($x) => $body,
        }
    };
}
pub(crate) use for_any_variant;

impl ValueType {
    const ALL: [(Self, &str); 13] = [
        (Self::U8, "u8"),
        (Self::I8, "i8"),
        (Self::U16, "u16"),
        (Self::I16, "i16"),
        (Self::U32, "u32"),
        (Self::I32, "i32"),
        (Self::F32, "f32"),
        (Self::Bool, "bool"),
        (Self::String, "string"),
        (Self::Array, "array"),
        (Self::U64, "u64"),
        (Self::I64, "i64"),
        (Self::F64, "f64"),
    ];

    /// The type with this id.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).map(|&(kind, _)| kind)
    }

    /// The name used in messages: `u32`, `string`.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl Value {
    /// The type of this value.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
        }
    }

    /// As a whole number, if it is stored as one of any width.
    pub fn as_int(&self) -> Option<i128> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::I8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::I16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::I32(x) => Some(x.into()),
            Self::U64(x) => Some(x.into()),
            Self::I64(x) => Some(x.into()),
            _ => None,
        }
    }

    /// As f32, if it is stored as f32 or f64.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }

    /// As text, if it is a string and UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl Array {
    /// The type of an element.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        for_any_variant!(self, Self, x => x.len(), Self::String(x) => x.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i` as a value of its own.
    pub fn get(&self, i: usize) -> Option<Value> {
        Some(match self {
            Self::U8(x) => Value::U8(*x.get(i)?),
            Self::I8(x) => Value::I8(*x.get(i)?),
            Self::U16(x) => Value::U16(*x.get(i)?),
            Self::I16(x) => Value::I16(*x.get(i)?),
            Self::U32(x) => Value::U32(*x.get(i)?),
            Self::I32(x) => Value::I32(*x.get(i)?),
            Self::U64(x) => Value::U64(*x.get(i)?),
            Self::I64(x) => Value::I64(*x.get(i)?),
            Self::F32(x) => Value::F32(*x.get(i)?),
            Self::F64(x) => Value::F64(*x.get(i)?),
            Self::Bool(x) => Value::Bool(*x.get(i)?),
            Self::String(x) => Value::String(x.get(i)?.to_vec()),
        })
    }

    /// The elements, one by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value> {
        (0..self.len()).map(|i| self.get(i).expect("inside the array"))
    }
}

impl Strings {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a string at the end.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of string `i`.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).expect("inside the array"))
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        for string in strings {
            all.push(string.as_ref());
        }
        all
    }
}

macro_rules! from_rust {
    ($($type:ty => $variant:ident,)*) => {$(
        impl From<$type> for Value {
            fn from(x: $type) -> Self {
                Self::$variant(x)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(x: Vec<$type>) -> Self {
                Self::Array(Array::$variant(x))
            }
        }
    )*};
}

from_rust! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, bool => Bool,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<Strings> for Value {
    fn from(strings: Strings) -> Self {
        Self::Array(Array::String(strings))
    }
}

/// Short enough for a line of a listing or a message: long strings are cut, long arrays counted.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for_any_variant!(self, Self, x => write!(f, "{x}"),
            Self::String(x) => write_string(f, x),
            Self::Array(x) => write!(f, "{x}"))
    }
}

/// The type, the length and the first few elements.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "[{}; {}]", self.kind().name(), self.len())?;
        for (i, value) in self.iter().take(SHOWN).enumerate() {
            write!(f, "{}{value}", if i == 0 { " " } else { ", " })?;
        }
        if self.len() > SHOWN {
            f.write_str(", ...")?;
        }
        Ok(())
    }
}

fn write_string(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(bytes);
    let start: String = text.chars().take(SHOWN).collect();
    write!(f, "{start:?}")?;
    if start.len() < text.len() {
        write!(f, "... ({} bytes)", bytes.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_are_positions_in_the_table() {
        for (id, (kind, _)) in ValueType::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, id);
        }
        assert_eq!(ValueType::from_id(13), None);
    }

    #[test]
    fn strings_keep_their_bytes() {
        let words: [&[u8]; 4] = [b"", b"a", b"\xff\x00", b"bc"];
        let strings: Strings = words.iter().collect();
        assert_eq!(strings.len(), 4);
        assert!(strings.iter().eq(words));
        assert_eq!(strings.get(4), None);
    }

    #[test]
    fn a_listing_stays_short() {
        assert_eq!(Value::from(vec![1u32, 2]).to_string(), "[u32; 2] 1, 2");
        assert_eq!(Value::from(vec![0i8; 99]).to_string(), "[i8; 99] 0, 0, 0, 0, 0, 0, 0, 0, ...");
        assert_eq!(Value::from("a\n").to_string(), r#""a\n""#);
        assert!(Value::from("é".repeat(100).as_str()).to_string().ends_with("... (200 bytes)"));
    }
}
