//! How many rows of prompts one batch takes.
//!
//! Many make good use of each weight that is fetched; few let progress, cancellation and other conversations
//! have their say. So a batch is sized by how long it takes on this device. Results do not depend on it.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The fewest rows that are worth a batch.
const LEAST: usize = 16;

/// What a pace starts with.
const FIRST: usize = 64;

/// A number of rows that follows the time they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    rows: usize,
    /// The fewest rows, and the most.
    least: usize,
    most: usize,
    /// How long a batch should take; `None` if the number of rows is fixed.
    target: Option<Duration>,
}

impl Pace {
    /// Batches that take about `target`, with as many rows as are `worthwhile`.
    pub(crate) fn new(target: Duration, worthwhile: RangeInclusive<usize>) -> Pace {
        let most = *worthwhile.end();
        let least = LEAST.max(*worthwhile.start()).min(most);
        Pace { rows: FIRST.clamp(least, most), least, most, target: Some(target) }
    }

    /// Batches of `rows` rows, however long they take.
    pub(crate) fn fixed(rows: usize) -> Pace {
        Pace { rows: rows.max(1), least: 1, most: rows.max(1), target: None }
    }

    /// Rows for the next batch.
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    /// Takes note that a batch of `rows` rows took so long.
    pub(crate) fn took(&mut self, rows: usize, time: Duration) {
        let Some(target) = self.target else { return };
        if time > 2 * target {
            self.rows = (self.rows / 2).max(self.least);
        } else if rows >= self.rows {
            // More rows take at most as much longer as they are more.
            let times = target.as_micros() / time.as_micros().max(1);
            let doublings = times.checked_ilog2().unwrap_or(0);
            self.rows = self.rows.saturating_mul(1 << doublings.min(16)).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_the_device_is_quick() {
        let check = |rows, took, seconds: f64, want| {
            let mut pace = Pace { rows, ..Pace::new(Duration::from_secs(2), 1..=4096) };
            pace.took(took, Duration::from_secs_f64(seconds));
            assert_eq!(pace.rows(), want);
        };
        check(64, 64, 0.7, 128);
        check(64, 64, 0.1, 1024);
        check(64, 10, 0.1, 64); // says nothing of 64
        check(64, 64, 0.0, 4096);
        check(512, 512, 0.4, 2048);
        check(4096, 4096, 0.1, 4096);
        check(256, 256, 2.0, 256);
        check(256, 256, 1.1, 256);
        check(256, 256, 9.0, 128);
        check(16, 16, 9.0, 16);
        let mut slow = Pace::new(Duration::from_secs(2), 700..=1024);
        assert_eq!(slow.rows(), 700);
        slow.took(700, Duration::from_secs(9));
        assert_eq!(slow.rows(), 700);
        let mut fixed = Pace::fixed(7);
        fixed.took(7, Duration::ZERO);
        assert_eq!(fixed.rows(), 7);
    }
}
