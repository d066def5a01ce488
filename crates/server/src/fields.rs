//! The fields of a request, read one by one.
//!
//! Clients disagree about almost every type: numbers come as strings, `null` means absent, fields are added
//! every month. So a body is read into JSON first and asked for what we know: an unknown field is ignored, a
//! wrong one is refused by its name.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeBounds;

/// An object of a request, and where it stands in it.
#[derive(Clone, Copy)]
pub struct Fields<'v> {
    object: &'v Map<String, Value>,
    /// What comes before a field's name in messages: empty, or `reasoning.`.
    path: &'v str,
}

impl<'v> Fields<'v> {
    /// The fields of a body.
    ///
    /// # Errors
    ///
    /// If it is no object.
    pub fn of_body(body: &'v Value) -> Result<Self, ApiError> {
        let object = body
            .as_object()
            .ok_or_else(|| ApiError::new(crate::error::Fault::Invalid, "the body must be a JSON object"))?;
        Ok(Fields { object, path: "" })
    }

    /// The fields of an object at `path`, which ends in a dot.
    pub fn new(object: &'v Map<String, Value>, path: &'v str) -> Self {
        Fields { object, path }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// A field that is neither absent nor null.
    pub fn get(&self, field: &str) -> Option<&'v Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// The first of several names of one field.
    pub fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &'v Value)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn text(&self, field: &str) -> Result<Option<&'v str>, ApiError> {
        self.read(field, "a string", Value::as_str)
    }

    /// A yes or no.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ApiError> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// A list.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn list(&self, field: &str) -> Result<Option<&'v Vec<Value>>, ApiError> {
        self.read(field, "an array", Value::as_array)
    }

    /// An object.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn object(&self, field: &str) -> Result<Option<&'v Map<String, Value>>, ApiError> {
        self.read(field, "an object", Value::as_object)
    }

    /// A number in a range.
    ///
    /// # Errors
    ///
    /// If it is none, or out of range.
    pub fn number(&self, field: &str, range: impl RangeBounds<f64>) -> Result<Option<f64>, ApiError> {
        // A number that no float holds is as far out of range as can be.
        let read = |value: &Value| match value {
            Value::Number(number) => Some(number.as_f64().unwrap_or(f64::INFINITY)),
            _ => None,
        };
        let number = self.read(field, "a number", read)?;
        self.in_range(field, number, range)
    }

    /// A whole number in a range; `4096.0` is one.
    ///
    /// # Errors
    ///
    /// If it is none, or out of range.
    pub fn whole(&self, field: &str, range: impl RangeBounds<i64>) -> Result<Option<i64>, ApiError> {
        let number = self.read(field, "an integer", whole)?;
        self.in_range(field, number, range)
    }

    fn read<T>(
        &self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let refuse = || {
            ApiError::invalid(&self.name(field), format!("{} is given, {expected} was expected", kind(value)))
        };
        read(value).map(Some).ok_or_else(refuse)
    }

    fn in_range<T: PartialOrd + Display>(
        &self,
        field: &str,
        number: Option<T>,
        range: impl RangeBounds<T>,
    ) -> Result<Option<T>, ApiError> {
        match number {
            Some(number) if !range.contains(&number) => {
                let bound = |bound, open| match bound {
                    std::ops::Bound::Included(x) => format!("{x}"),
                    std::ops::Bound::Excluded(x) => format!("{x} (not included)"),
                    std::ops::Bound::Unbounded => String::from(open),
                };
                let (low, high) = (bound(range.start_bound(), "any"), bound(range.end_bound(), "any"));
                let problem = format!("{number} is out of range; from {low} to {high} is allowed");
                Err(ApiError::invalid(&self.name(field), problem))
            }
            number => Ok(number),
        }
    }
}

/// A number without fraction, of 64 bits.
pub fn whole(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    if let Some(number) = number.as_i64() {
        return Some(number);
    }
    let number = number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9.2e18)?;
    Some(number as i64)
}

/// What a value is, for messages; never the value itself, which may be private.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_field_is_refused_by_its_name() {
        let body = json!({"a": "x", "b": 3.5, "c": null, "d": 1e300, "e": 4096.0, "f": [1]});
        let fields = Fields::of_body(&body).unwrap();
        let said = |error: ApiError| (error.param.unwrap(), error.message);
        assert_eq!(
            said(fields.number("a", 0.0..=2.0).unwrap_err()),
            ("a".into(), "a: a string is given, a number was expected".into())
        );
        assert_eq!(
            said(fields.number("b", 0.0..=2.0).unwrap_err()).1,
            "b: 3.5 is out of range; from 0 to 2 is allowed"
        );
        assert_eq!(
            said(fields.whole("b", 0..).unwrap_err()).1,
            "b: a number is given, an integer was expected"
        );
        assert_eq!(fields.whole("c", 0..).unwrap(), None);
        assert!(fields.whole("d", 0..).is_err());
        assert_eq!(fields.whole("e", 0..).unwrap(), Some(4096));
        assert!(fields.text("f").is_err() && fields.text("none").unwrap().is_none());
    }
}
