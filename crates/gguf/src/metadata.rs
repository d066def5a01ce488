//! A file's metadata: keys in the file's order, and getters that say what they miss.

use indexmap::IndexMap;

use crate::value::{Array, Strings, Value};

/// Keys and their values, in the order of the file.
///
/// Getters take numbers in any width the publisher chose, as long as nothing is lost: an integer may
/// be signed or not, 8 to 64 bits wide, a float f32 or f64. Each getter has a twin `opt_*` for keys
/// that may be missing; a key that is there with the wrong type is an error in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: IndexMap<String, Value>,
}

/// Why a metadata value could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the message says
pub enum MetadataError {
    /// There is no such key.
    #[error("key {key} is missing, needed {needed}")]
    Missing { key: String, needed: &'static str },
    /// The key has another type, or a value out of range.
    #[error("key {key} is {found}, needed {needed}")]
    Type { key: String, found: String, needed: &'static str },
    /// A per-layer array is too short.
    #[error("key {key} has {found} elements, needed at least {needed}, one a layer")]
    Length { key: String, found: usize, needed: usize },
}

impl Metadata {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`, in place if it is there already and at the end if not.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    /// Removes `key`; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// The value of `key`, as the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Whether there is such a key.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// What `read` makes of the value of `key`, if there is one. `needed` says what `read` accepts.
    fn optional<'a, T>(
        &'a self,
        key: &str,
        needed: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || MetadataError::Type {
            key: key.to_owned(),
            found: format!("{value} ({})", value.kind().name()),
            needed,
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn required<'a, T>(
        &'a self,
        key: &str,
        needed: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, MetadataError> {
        let missing = || MetadataError::Missing { key: key.to_owned(), needed };
        self.optional(key, needed, read)?.ok_or_else(missing)
    }
}

/// A getter and its `opt_` twin.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt_name:ident -> $type:ty: $needed:literal, $read:expr;)*) => {
        impl Metadata {$(
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// If the key is missing, or its value is something else.
            pub fn $name(&self, key: &str) -> Result<$type, MetadataError> {
                self.required(key, $needed, $read)
            }

            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// If the key is there and its value is something else.
            pub fn $opt_name(&self, key: &str) -> Result<Option<$type>, MetadataError> {
                self.optional(key, $needed, $read)
            }
        )*}
    };
}

getters! {
    /// An integer from 0 to 2^32 - 1.
    u32, opt_u32 -> u32: "an integer from 0 to 2^32 - 1", integer;
    /// An integer from 0 to 2^64 - 1.
    u64, opt_u64 -> u64: "an integer from 0 to 2^64 - 1", integer;
    /// A floating-point number.
    f32, opt_f32 -> f32: "a float", Value::as_f32;
    /// A truth value.
    bool, opt_bool -> bool: "a bool", boolean;
    /// A string that is UTF-8.
    str, opt_str -> &str: "a UTF-8 string", Value::as_str;
    /// An array of strings, which may be any bytes.
    strings, opt_strings -> &Strings: "an array of strings", strings;
    /// An array of integers that fit i32.
    i32s, opt_i32s -> Vec<i32>: "an array of integers that fit i32", integers;
    /// An array of integers from 0 to 2^32 - 1.
    u32s, opt_u32s -> Vec<u32>: "an array of integers from 0 to 2^32 - 1", integers;
    /// An array of floating-point numbers.
    f32s, opt_f32s -> Vec<f32>: "an array of floats", floats;
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    T::try_from(value.as_int()?).ok()
}

fn boolean(value: &Value) -> Option<bool> {
    match *value {
        Value::Bool(x) => Some(x),
        _ => None,
    }
}

fn strings(value: &Value) -> Option<&Strings> {
    match value {
        Value::Array(Array::String(strings)) => Some(strings),
        _ => None,
    }
}

fn integers<T: TryFrom<i128>>(value: &Value) -> Option<Vec<T>> {
    elements(value, integer)
}

fn floats(value: &Value) -> Option<Vec<f32>> {
    elements(value, Value::as_f32)
}

fn elements<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(array) => array.iter().map(|x| read(&x)).collect(),
        _ => None,
    }
}

/// Values that may be given once for all layers, or layer by layer.
impl Metadata {
    /// One integer a layer: a scalar stands for all, an array must have at least `layers` elements
    /// (files may have more, for draft layers; those are left out).
    ///
    /// # Errors
    ///
    /// If the key is missing, its value is something else, or the array is too short.
    pub fn u32_per_layer(&self, key: &str, layers: usize) -> Result<Vec<u32>, MetadataError> {
        let needed = "an integer from 0 to 2^32 - 1, or an array of them";
        let read = |value: &_| PerLayer::read(value, integer);
        self.required(key, needed, read)?.spread(key, layers)
    }

    /// One float a layer, by the rules of [`u32_per_layer`](Self::u32_per_layer).
    ///
    /// # Errors
    ///
    /// If the key is missing, its value is something else, or the array is too short.
    pub fn f32_per_layer(&self, key: &str, layers: usize) -> Result<Vec<f32>, MetadataError> {
        let missing = || MetadataError::Missing { key: key.to_owned(), needed: PER_LAYER_FLOATS };
        self.opt_f32_per_layer(key, layers)?.ok_or_else(missing)
    }

    /// One float a layer, if the key is there.
    ///
    /// # Errors
    ///
    /// If the value is something else, or the array is too short.
    pub fn opt_f32_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<f32>>, MetadataError> {
        let read = |value: &_| PerLayer::read(value, Value::as_f32);
        let found = self.optional(key, PER_LAYER_FLOATS, read)?;
        found.map(|values| values.spread(key, layers)).transpose()
    }
}

const PER_LAYER_FLOATS: &str = "a float, or an array of them";

enum PerLayer<T> {
    Same(T),
    Each(Vec<T>),
}

impl<T: Clone> PerLayer<T> {
    fn read(value: &Value, one: impl Fn(&Value) -> Option<T>) -> Option<Self> {
        match value {
            Value::Array(_) => elements(value, one).map(Self::Each),
            _ => one(value).map(Self::Same),
        }
    }

    fn spread(self, key: &str, layers: usize) -> Result<Vec<T>, MetadataError> {
        match self {
            Self::Same(value) => Ok(vec![value; layers]),
            Self::Each(mut values) if values.len() >= layers => {
                values.truncate(layers);
                Ok(values)
            }
            Self::Each(values) => {
                Err(MetadataError::Length { key: key.to_owned(), found: values.len(), needed: layers })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("u32", 7u32);
        metadata.insert("i64", 8i64);
        metadata.insert("negative", -1i32);
        metadata.insert("f64", 0.5f64);
        metadata.insert("text", "é");
        metadata.insert("bytes", Value::String(vec![0xff]));
        metadata.insert("ratios", vec![0i32, 4, 128]);
        metadata.insert("limits", vec![10f32, 0.0]);
        metadata
    }

    #[test]
    fn numbers_of_any_width_are_read() {
        let metadata = sample();
        assert_eq!(metadata.u32("u32"), Ok(7));
        assert_eq!(metadata.u32("i64"), Ok(8));
        assert_eq!(metadata.u64("u32"), Ok(7));
        assert_eq!(metadata.f32("f64"), Ok(0.5));
        assert_eq!(metadata.str("text"), Ok("é"));
        assert_eq!(metadata.u32s("ratios"), Ok(vec![0, 4, 128]));
        assert_eq!(metadata.opt_u32("none"), Ok(None));
    }

    #[test]
    fn a_layer_takes_its_own_value_or_the_common_one() {
        let metadata = sample();
        assert_eq!(metadata.u32_per_layer("u32", 3), Ok(vec![7; 3]));
        assert_eq!(metadata.u32_per_layer("ratios", 2), Ok(vec![0, 4]));
        assert_eq!(metadata.f32_per_layer("limits", 2), Ok(vec![10.0, 0.0]));
        assert_eq!(metadata.opt_f32_per_layer("none", 2), Ok(None));
    }

    #[test]
    fn errors_say_what_was_found_and_needed() {
        let metadata = sample();
        let check = |error: MetadataError, want: &str| assert_eq!(error.to_string(), want);
        check(
            metadata.u32("negative").unwrap_err(),
            "key negative is -1 (i32), needed an integer from 0 to 2^32 - 1",
        );
        check(metadata.bool("none").unwrap_err(), "key none is missing, needed a bool");
        check(
            metadata.opt_str("bytes").unwrap_err(),
            "key bytes is \"\u{fffd}\" (string), needed a UTF-8 string",
        );
        check(
            metadata.f32s("ratios").unwrap_err(),
            "key ratios is [i32; 3] 0, 4, 128 (array), needed an array of floats",
        );
        check(
            metadata.u32_per_layer("ratios", 4).unwrap_err(),
            "key ratios has 3 elements, needed at least 4, one a layer",
        );
    }
}
