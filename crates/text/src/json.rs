//! JSON text as the model reads it: what Python's `json.dumps(value, ensure_ascii=False)` writes.
//!
//! The prompts that the model was trained on were written by Python, and the prefix cache compares
//! bytes, so it has to be exactly this. Numbers come from `serde_json` as the literals that they
//! were (`arbitrary_precision`), objects in the order that they had (`preserve_order`).

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// Writes a value with `, ` and `: ` between things and nothing but what must be escaped escaped.
pub fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_json(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => write_object(members, out),
    }
}

/// [`write_json`] of an object.
pub fn write_object(members: &Map<String, Value>, out: &mut String) {
    out.push('{');
    for (at, (key, member)) in members.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        write_string(key, out);
        out.push_str(": ");
        write_json(member, out);
    }
    out.push('}');
}

/// [`write_json`] into a new string.
pub fn to_json(value: &Value) -> String {
    let mut out = String::new();
    write_json(value, &mut out);
    out
}

/// Writes a quoted string.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    write_escaped(text, out);
    out.push('"');
}

/// Writes the inside of a quoted string.
pub(crate) fn write_escaped(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{C}' => out.push_str("\\f"),
            control @ '\0'..='\u{1F}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
}

/// Integers keep their digits, however many; all else is a double.
fn write_number(number: &Number, out: &mut String) {
    match number.as_str() {
        "-0" => out.push('0'),
        integer if is_integer(integer) => out.push_str(integer),
        literal => write_double(to_double(literal), out),
    }
}

fn is_integer(literal: &str) -> bool {
    !literal.contains(['.', 'e', 'E'])
}

fn to_double(literal: &str) -> f64 {
    literal.parse().expect("a JSON number is a Rust number")
}

/// Python's `repr`: shortest digits that read back the same; decimal notation for exponents -4 to
/// 15, always with a point; otherwise scientific with at least two digits of exponent.
fn write_double(double: f64, out: &mut String) {
    if double.is_sign_negative() {
        out.push('-');
    }
    if double.is_infinite() {
        return out.push_str("Infinity");
    }
    let scientific = format!("{:e}", double.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a small integer");
    if (-4..16).contains(&exponent) {
        let decimal = double.abs().to_string();
        out.push_str(&decimal);
        out.push_str(if decimal.contains('.') { "" } else { ".0" });
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

/// Whether two values are equal to a program that reads them: the order of keys does not matter and
/// numbers count by value, two integers by their digits, otherwise as doubles.
pub(crate) fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a.as_str(), b.as_str()),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_value(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &str, b: &str) -> bool {
    let both_zero = || to_double(a) == 0.0 && to_double(b) == 0.0;
    if is_integer(a) && is_integer(b) {
        a == b || both_zero()
    } else {
        let (x, y) = (to_double(a), to_double(b));
        a == b || (x == y && x.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        assert_eq!(to_json(&serde_json::from_str(json).unwrap()), expected);
    }

    #[test]
    fn layout_is_pythons() {
        check(
            r#"{"b":[1,2,{}],"a":[],"c":null,"d":[true,false]}"#,
            r#"{"b": [1, 2, {}], "a": [], "c": null, "d": [true, false]}"#,
        );
        check(r#"{"a":1,"b":2,"a":3}"#, r#"{"a": 3, "b": 2}"#);
    }

    #[test]
    fn only_what_must_be_is_escaped() {
        check(
            r#""\u0001\u001f\b\f\n\r\t\"\\\/<\u007f\u2028ü🦀""#,
            "\"\\u0001\\u001f\\b\\f\\n\\r\\t\\\"\\\\/<\u{7f}\u{2028}ü🦀\"",
        );
    }

    /// The right sides are what Python 3 prints.
    #[test]
    fn numbers_are_pythons() {
        for (literal, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-7", "-7"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("1.10", "1.1"),
            ("1E5", "100000.0"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("2.5e-7", "2.5e-07"),
            ("999999999999999.9", "999999999999999.9"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("12345678901234567.0", "1.2345678901234568e+16"),
            ("1e22", "1e+22"),
            ("-1.5e300", "-1.5e+300"),
            ("5e-324", "5e-324"),
            ("1e400", "Infinity"),
        ] {
            check(literal, expected);
        }
    }

    #[test]
    fn values_are_compared_as_a_program_would() {
        let same = |a: &str, b: &str| {
            same_value(&serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap())
        };
        assert!(same(r#"{"a": 1, "b": [2.0]}"#, r#"{"b": [2], "a": 1.0}"#));
        assert!(same("1e2", "100"));
        assert!(same("-0", "0"));
        assert!(!same("1", "true"));
        assert!(!same("12345678901234567890", "12345678901234567891"));
        assert!(!same("1e400", "1e500"));
        assert!(!same(r#"{"a": 1}"#, r#"{"a": 1, "b": 1}"#));
        assert!(!same("[1, 2]", "[2, 1]"));
    }
}
