//! Sizes and times as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

/// A number of bytes: `20G`, `500M`, `0`; without a letter in MiB.
///
/// # Errors
///
/// If it is anything else.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(name, bytes)| Some((upper.strip_suffix(name)?, *bytes)));
    let (number, unit) = unit.unwrap_or((&upper, 1 << 20));
    let number: f64 =
        number.parse().map_err(|_| "a size is a number and K, M, G or T, like 20G".to_owned())?;
    let bytes = number * unit as f64;
    match (0.0..2f64.powi(63)).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err("a size is between 0 and 8388607T".into()),
    }
}

/// A time span: `30d`, `12h`, `90m`, `2w`.
///
/// # Errors
///
/// If it is anything else.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let seconds = [("w", 7 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)];
    let unit = seconds.iter().find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)));
    let parsed = unit.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| "an age is a whole number and m, h, d or w, like 30d".into())
}

/// Bytes for people: `5.6 MiB`.
pub fn size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}iB", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// How long ago something was, for people: `5 min ago`.
///
/// - `milliseconds`: since 1970
pub fn ago(milliseconds: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let seconds = now.saturating_sub(milliseconds) / 1000;
    match seconds {
        0..60 => "just now".into(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_size("1.5k"), Ok(1536));
        assert_eq!(parse_size("3"), Ok(3 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        for wrong in ["", "G", "-1G", "1 G", "inf", "nanM", "1e30T", "1GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let shown = [0, 1023, 1024, 5_872_026, 20 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "5.6 MiB", "20.0 GiB"]);
    }

    #[test]
    fn ages_are_read_and_shown() {
        assert_eq!(parse_age("2w"), Ok(Duration::from_secs(14 * 86400)));
        assert_eq!(parse_age("90m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "d", "5", "1.5h", "-1d", "9999999999999999999w"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let shown = [999_990, 999_000, 990_000, 500_000, 2_000_000].map(|at| ago(at * 1000, now));
        assert_eq!(shown, ["just now", "16 min ago", "2 h ago", "5 d ago", "just now"]);
    }
}
