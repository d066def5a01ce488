//! From the device to those who choose tokens: as few logits as they can do with.

use crate::generate::Writer;
use model::Ops;
use model::ops::{DeviceError, Leaders};
use std::iter::repeat_n;

/// What the host knows of the logits of a pass.
pub(crate) enum Fetched {
    /// All: `[rows, vocab]`.
    Whole(Vec<f32>),
    /// The leaders of each row.
    Leaders(Vec<Leaders>),
}

/// What is known of a row of logits.
pub(crate) enum Row<'a> {
    /// All of it.
    Whole(&'a mut [f32]),
    /// Its leaders.
    Leaders(&'a Leaders),
}

impl Fetched {
    /// Row by row, each of `vocab` logits.
    pub(crate) fn rows(&mut self, vocab: usize) -> Box<dyn Iterator<Item = Row<'_>> + '_> {
        match self {
            Fetched::Whole(logits) => Box::new(logits.chunks_exact_mut(vocab).map(Row::Whole)),
            Fetched::Leaders(leaders) => Box::new(leaders.iter().map(Row::Leaders)),
        }
    }
}

/// What was fetched, and whether it was more than was asked for.
pub(crate) struct Logits {
    pub(crate) fetched: Fetched,
    /// All logits had to be read though every writer hoped for less.
    pub(crate) fell_back: bool,
}

/// Who chooses tokens, and from how many rows one after the other, at least one.
pub(crate) type Chooser<'c, 'm> = (&'c mut Writer<'m>, usize);

/// Fetches logits for writers. What they get suffices for the first row of each; what a writer will need of the others is
/// known only when it has chosen from those before.
///
/// - `logits`: `[rows, vocab]`, those of each chooser in turn
///
/// # Errors
///
/// If the device failed.
pub(crate) fn fetch_logits<B: Ops>(
    ops: &B,
    logits: &B::Array,
    choosers: &mut [Chooser<'_, '_>],
) -> Result<Logits, DeviceError> {
    let mut fell_back = false;
    let asks: Option<Vec<_>> =
        choosers.iter().map(|(writer, rows)| Some(repeat_n(writer.ask()?, *rows))).collect();
    let asks = asks.map(|asks| asks.into_iter().flatten().collect::<Vec<_>>());
    let leaders = asks.map(|asks| ops.read_leaders(logits, &asks)).transpose()?.flatten();
    if let Some(leaders) = leaders {
        let leaders: Option<Vec<Leaders>> = leaders.into_iter().collect();
        let suffice = |leaders: &Vec<Leaders>| {
            let mut first = 0;
            choosers.iter_mut().all(|(writer, rows)| {
                let suffices = writer.suffice(&leaders[first]);
                first += *rows;
                suffices
            })
        };
        match leaders.filter(suffice) {
            Some(leaders) => return Ok(Logits { fetched: Fetched::Leaders(leaders), fell_back }),
            None => fell_back = true,
        }
    }
    Ok(Logits { fetched: Fetched::Whole(ops.read(logits)?), fell_back })
}
