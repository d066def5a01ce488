//! Who of those that wait goes first.
//!
//! A job is *due* at the time it came, plus the time that the unread rest of its prompt takes, plus a handicap by its
//! priority; the one that is due first goes first. So one whose prompt is known to the cache overtakes one that has
//! much to read, and those with as much to read keep their order.
//!
//! **Nobody waits for ever**, because time works for whoever waits: a job that has `w` seconds to read is overtaken
//! only by those that come less than `w` seconds after it, and never by one that comes [`MOST`] later, if priorities are
//! the same. A lower priority adds the difference of the handicaps to that.

use super::job::Priority;
use std::time::{Duration, Instant};

/// A long prompt counts as if it took so long to read, and not longer.
pub(super) const MOST: Duration = Duration::from_secs(60);

/// When a job is due.
///
/// - `unread`: tokens of its prompt that have to be read
/// - `rate`: how many are read in a second; while that was not measured, it is 0, and jobs go in the order they came in
pub(super) fn due(submitted: Instant, priority: Priority, unread: usize, rate: f64) -> Instant {
    let seconds = if rate > 0.0 { unread as f64 / rate } else { 0.0 };
    submitted + handicap(priority) + Duration::from_secs_f64(seconds.min(MOST.as_secs_f64()))
}

/// By how much later a job counts as having come. Between two priorities lies more than any prompt takes.
fn handicap(priority: Priority) -> Duration {
    match priority {
        Priority::Interactive => Duration::ZERO,
        Priority::Normal => 2 * MOST,
        Priority::Background => 10 * MOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody who waits: when they came, in seconds, how much they have to read, and who they are.
    type Waiting = (u64, usize, Priority);

    const RATE: f64 = 100.0;

    /// The order in which they go, if all are there.
    fn check(waiting: &[Waiting], rate: f64, want: &[usize]) {
        let start = Instant::now();
        let due = |&(came, unread, priority): &Waiting| {
            due(start + Duration::from_secs(came), priority, unread, rate)
        };
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        order.sort_by_key(|&i| due(&waiting[i]));
        assert_eq!(order, want, "{waiting:?}");
    }

    #[test]
    fn who_has_little_to_read_overtakes() {
        use Priority::Normal;
        check(&[(0, 3000, Normal), (1, 10, Normal)], RATE, &[1, 0]);
        check(&[(0, 3000, Normal), (1, 10, Normal), (2, 500, Normal), (3, 20, Normal)], RATE, &[1, 3, 2, 0]);
        check(&[(0, 500, Normal), (1, 500, Normal), (2, 500, Normal)], RATE, &[0, 1, 2]);
        check(&[(0, 500, Normal), (9, 10, Normal)], RATE, &[0, 1]); // it has waited for longer than it reads
        check(&[(0, 3000, Normal), (1, 10, Normal)], 0.0, &[0, 1]); // nobody knows how long that takes
        check(&[(0, 1 << 20, Normal), (61, 0, Normal)], RATE, &[0, 1]);
    }

    #[test]
    fn who_is_important_overtakes_who_is_not() {
        use Priority::{Background, Interactive, Normal};
        check(&[(0, 0, Background), (5, 0, Normal), (9, 1 << 20, Interactive)], RATE, &[2, 1, 0]);
        check(&[(0, 0, Background), (601, 0, Normal)], RATE, &[0, 1]);
    }

    /// Somebody with a short prompt comes every second, for ever, and is answered in a second; the long one has its turn
    /// once it has waited as long as it reads, or for [`MOST`].
    #[test]
    fn a_long_prompt_has_its_turn() {
        for (unread, wait) in [(1000, 10), (50_000, 60), (1 << 20, 60)] {
            let start = Instant::now();
            let due =
                |came: u64, unread| due(start + Duration::from_secs(came), Priority::Normal, unread, RATE);
            let mut waiting = vec![due(0, unread)];
            let long = waiting[0];
            let begun = (0..).find(|&now| {
                waiting.push(due(now, 1));
                let first = (0..waiting.len()).min_by_key(|&i| (waiting[i], i)).unwrap();
                waiting.remove(first) == long
            });
            assert_eq!(begun, Some(wait), "{unread} tokens");
        }
    }
}
