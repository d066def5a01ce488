//! How many rows of prompts one batch takes.
//!
//! Many make good use of each weight that is fetched; few let progress, cancellation and other conversations
//! have their say. So a batch is sized by how long it takes on this device. Results do not depend on it.

use std::time::Duration;

/// The fewest rows that are worth a batch.
const LEAST: usize = 16;

/// What a pace starts with.
const FIRST: usize = 64;

/// The most rows: a whole page. A GPU makes better use of weights then than with half of it, a CPU as good.
const MOST: usize = model::PAGE;

/// A number of rows that follows the time they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    rows: usize,
    /// The fewest rows.
    least: usize,
    /// How long a batch should take; `None` if the number of rows is fixed.
    target: Option<Duration>,
}

impl Pace {
    /// Batches that take about `target`, but have at least `worthwhile` rows.
    pub(crate) fn new(target: Duration, worthwhile: usize) -> Pace {
        let least = worthwhile.clamp(LEAST, MOST);
        Pace { rows: FIRST.max(least), least, target: Some(target) }
    }

    /// Batches of `rows` rows, however long they take.
    pub(crate) fn fixed(rows: usize) -> Pace {
        Pace { rows: rows.max(1), least: 1, target: None }
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
        } else if time < target / 2 && rows >= self.rows {
            self.rows = (self.rows * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_the_device_is_quick() {
        let check = |rows, took, seconds: f64, want| {
            let mut pace = Pace { rows, ..Pace::new(Duration::from_secs(2), 1) };
            pace.took(took, Duration::from_secs_f64(seconds));
            assert_eq!(pace.rows(), want);
        };
        check(64, 64, 0.1, 128);
        check(64, 10, 0.1, 64); // says nothing of 64
        check(512, 512, 0.1, 1024);
        check(1024, 1024, 0.1, 1024);
        check(256, 256, 2.0, 256);
        check(256, 256, 9.0, 128);
        check(16, 16, 9.0, 16);
        let mut slow = Pace::new(Duration::from_secs(2), 700);
        assert_eq!(slow.rows(), 700);
        slow.took(700, Duration::from_secs(9));
        assert_eq!(slow.rows(), 700);
        let mut fixed = Pace::fixed(7);
        fixed.took(7, Duration::ZERO);
        assert_eq!(fixed.rows(), 7);
    }
}
