//! Who gets how many rows of the next batch.
//!
//! A conversation that has one token to read, because it writes or because the rest of its prompt was known,
//! always gets its row, and those of tokens that were guessed to come after it: it is what everybody waits for, and costs
//! little. What remains of the batch goes to the
//! prompts. Half of it to the one that is finished soonest, so that a newcomer with a short prompt does not wait
//! for another's long one, and not everybody is served at the very end; the other half to all of them by weight,
//! so that nobody starves.

use super::job::Priority;

/// What one conversation could use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Tokens it has to read; 0 if it waits for its caller.
    pub(super) pending: usize,
    /// Tokens that were guessed to come after its last one.
    pub(super) guesses: usize,
    /// The most it may read in one batch.
    pub(super) room: usize,
    pub(super) priority: Priority,
}

impl Want {
    /// Whether it has a single token to read.
    pub(super) fn is_single(&self) -> bool {
        self.pending == 1
    }

    fn most(&self) -> usize {
        self.pending.min(self.room)
    }

    fn weight(&self) -> usize {
        match self.priority {
            Priority::Background => 1,
            Priority::Normal => 4,
            Priority::Interactive => 16,
        }
    }
}

/// Rows for each conversation. Those that read prompts get `budget` rows together, if they can use so many.
///
/// - `wants`: in order of arrival
pub(super) fn share(wants: &[Want], budget: usize) -> Vec<usize> {
    let mut rows: Vec<usize> =
        wants.iter().map(|want| if want.is_single() { 1 + want.guesses } else { 0 }).collect();
    let mut prompts: Vec<usize> = (0..wants.len()).filter(|&i| wants[i].pending > 1).collect();
    prompts.sort_by_key(|&i| (std::cmp::Reverse(wants[i].priority), wants[i].pending, i));
    let mut left = budget;
    let mut give = |i: usize, share: usize, left: &mut usize| {
        let given = share.min(*left).min(wants[i].most() - rows[i]);
        rows[i] += given;
        *left -= given;
    };
    if let Some(&soonest) = prompts.first() {
        give(soonest, budget.div_ceil(2), &mut left);
    }
    let (second, weights) = (left, prompts.iter().map(|&i| wants[i].weight()).sum::<usize>());
    for &i in &prompts {
        give(i, (second * wants[i].weight()).div_ceil(weights), &mut left);
    }
    for &i in &prompts {
        give(i, budget, &mut left);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Want = Want { pending: 1, guesses: 0, room: 1000, priority: Priority::Normal };

    fn check(pending: &[usize], budget: usize, want: &[usize]) {
        let wants: Vec<Want> = pending.iter().map(|&pending| Want { pending, ..NORMAL }).collect();
        assert_eq!(share(&wants, budget), want, "{pending:?}");
    }

    #[test]
    fn who_writes_always_gets_a_row() {
        check(&[1, 1, 1], 0, &[1, 1, 1]);
        check(&[1, 5000, 1], 64, &[1, 64, 1]);
    }

    #[test]
    fn guesses_are_read_with_the_token_before_them() {
        let guessing = Want { guesses: 2, ..NORMAL };
        let reading = Want { pending: 900, guesses: 2, ..NORMAL };
        assert_eq!(share(&[guessing, NORMAL, reading], 64), [3, 1, 64]);
    }

    #[test]
    fn a_short_prompt_does_not_wait_for_a_long_one() {
        check(&[8000, 100], 256, &[156, 100]);
        check(&[8000, 300], 256, &[64, 192]);
    }

    #[test]
    fn a_long_prompt_does_not_starve() {
        check(&[8000, 500, 500, 500], 256, &[32, 160, 32, 32]);
    }

    #[test]
    fn no_row_is_given_to_nobody() {
        check(&[10, 20], 256, &[10, 20]);
        check(&[], 256, &[]);
        let short = Want { room: 24, pending: 900, ..NORMAL };
        assert_eq!(share(&[short, Want { pending: 900, ..NORMAL }], 256), [24, 232]);
    }

    #[test]
    fn the_important_go_first_and_the_others_go_on() {
        let want = |priority| Want { pending: 900, priority, ..NORMAL };
        let all = [Priority::Background, Priority::Normal, Priority::Interactive].map(want);
        let rows = share(&all, 210);
        assert!(rows[0] >= 5 && rows[1] > rows[0] && rows[2] > rows[1], "{rows:?}");
    }
}
