//! From the device to those who choose tokens: as few logits as they can do with.

use crate::generate::Writer;
use model::Ops;
use model::ops::{DeviceError, Leaders};

/// What the host knows of the logits of a pass.
pub(crate) enum Fetched {
    /// All: `[rows, vocab]`.
    Whole(Vec<f32>),
    /// The leaders of each row, and they suffice.
    Leaders(Vec<Leaders>),
}

/// What was fetched, and whether it was more than was asked for.
pub(crate) struct Logits {
    pub(crate) fetched: Fetched,
    /// All logits had to be read though every writer hoped for less.
    pub(crate) fell_back: bool,
}

/// Fetches logits for writers, of whom each chooses from one row.
///
/// - `logits`: `[rows, vocab]`; `writers`: `[rows]`, or `None` if one of them chooses from several
///
/// # Errors
///
/// If the device failed.
pub(crate) fn fetch_logits<B: Ops>(
    ops: &B,
    logits: &B::Array,
    writers: Option<&mut [&mut Writer<'_>]>,
) -> Result<Logits, DeviceError> {
    let mut fell_back = false;
    if let Some(writers) = writers {
        let asks: Option<Vec<_>> = writers.iter().map(|writer| writer.ask()).collect();
        let leaders = asks.map(|asks| ops.read_leaders(logits, &asks)).transpose()?.flatten();
        if let Some(leaders) = leaders {
            let leaders: Option<Vec<Leaders>> = leaders.into_iter().collect();
            let suffice = |leaders: &Vec<Leaders>| {
                writers.iter_mut().zip(leaders).all(|(writer, leaders)| writer.suffice(leaders))
            };
            match leaders.filter(suffice) {
                Some(leaders) => return Ok(Logits { fetched: Fetched::Leaders(leaders), fell_back }),
                None => fell_back = true,
            }
        }
    }
    Ok(Logits { fetched: Fetched::Whole(ops.read(logits)?), fell_back })
}
