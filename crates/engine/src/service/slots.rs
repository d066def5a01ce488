//! The places in which conversations are worked on, and what can be done with the last one of each: saved, brought
//! back, forgotten.
//!
//! What was read belongs to nobody: pages and tails are shared by all conversations ([`crate::cache`]), and which place
//! a job gets changes neither its reply nor what need not be read. A place is how an operator points at a
//! conversation. So a conversation that goes on gets its old place, a new one an empty place, and the place of the
//! one that was left longest ago is taken last.

use super::job::SlotError;
use model::{PAGE, PageKey};
use std::sync::mpsc::Sender;
use std::time::Instant;

/// A place for one conversation at a time.
#[derive(Default)]
pub(super) struct Slot {
    /// The job that is in it.
    pub(super) job: Option<u64>,
    /// The last conversation that was in it.
    pub(super) last: Option<Conversation>,
    /// What its caller calls the conversation; see [`super::Job::affinity`].
    pub(super) affinity: Option<u64>,
    /// When something was last done in it.
    pub(super) used: Option<Instant>,
}

/// A conversation, as it lies in the cache or did.
#[derive(Clone)]
pub(super) struct Conversation {
    /// Keys of its pages.
    pub(super) keys: Vec<PageKey>,
    /// All its tokens that were read.
    pub(super) tokens: Vec<u32>,
}

impl Conversation {
    /// The tokens after its last page.
    pub(super) fn tail(&self) -> &[u32] {
        &self.tokens[self.keys.len() * PAGE..]
    }

    /// The key of its end, if `root` is that of no tokens.
    pub(super) fn key(&self, root: PageKey) -> PageKey {
        self.keys.last().copied().unwrap_or(root).child(self.tail())
    }
}

/// What somebody wants to be done with a place.
pub(super) struct Command {
    /// Which place.
    pub(super) slot: usize,
    pub(super) what: What,
    pub(super) answer: Sender<Result<Done, SlotError>>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Save,
    Restore(PageKey),
    Erase,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// The key of the conversation's end.
    pub(super) key: PageKey,
    /// Tokens of the conversation.
    pub(super) tokens: usize,
    /// Whether something was not taken by the page store, and may be later.
    pub(super) dropped: bool,
}

/// The place for a job whose prompt is `tokens`: that of the conversation it goes on with, the longest of them; else
/// that of a conversation which begins with all of it, of which the end is asked for once more; else
/// the last one of the same caller's conversation; else an empty one; else the one that was left longest ago.
///
/// # Panics
///
/// If none is free: there are as many places as jobs may be worked on.
pub(super) fn choose(slots: &[Slot], tokens: &[u32], affinity: Option<u64>) -> usize {
    let free = || slots.iter().enumerate().filter(|(_, slot)| slot.job.is_none());
    let length = |slot: &Slot| slot.last.as_ref().map_or(0, |last| last.tokens.len());
    let goes_on = |slot: &Slot| slot.last.as_ref().is_some_and(|last| tokens.starts_with(&last.tokens));
    let grown = free().filter(|(_, slot)| goes_on(slot)).max_by_key(|(_, slot)| length(slot));
    let known = || free().filter(|(_, slot)| affinity.is_some() && slot.affinity == affinity);
    let oldest = || free().min_by_key(|(_, slot)| slot.used);
    let again =
        || free().find(|(_, slot)| slot.last.as_ref().is_some_and(|last| last.tokens.starts_with(tokens)));
    grown
        .or_else(again)
        .or_else(|| known().max_by_key(|(_, slot)| slot.used))
        .or_else(oldest)
        .expect("as many places as jobs")
        .0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn slot(tokens: &[u32], affinity: Option<u64>, age: u64) -> Slot {
        let last = Some(Conversation { keys: Vec::new(), tokens: tokens.to_vec() });
        let used = Instant::now().checked_sub(Duration::from_secs(age));
        Slot { job: None, last, affinity, used }
    }

    #[test]
    fn a_conversation_that_goes_on_has_its_old_place() {
        let mut slots = vec![
            slot(&[1, 2], Some(7), 50),
            slot(&[1, 2, 3], None, 90),
            slot(&[1, 2, 9], Some(8), 10),
            Slot::default(),
        ];
        assert_eq!(choose(&slots, &[1, 2, 3, 4], None), 1, "the longest beginning");
        assert_eq!(choose(&slots, &[1, 2, 3, 4], Some(8)), 1, "what is said counts more than a name");
        assert_eq!(choose(&slots, &[1], Some(8)), 0, "a reply that is asked for once more");
        assert_eq!(choose(&slots, &[5, 6], Some(8)), 2, "a name breaks the tie");
        assert_eq!(choose(&slots, &[5, 6], Some(99)), 3, "a name that nobody knows costs nothing");
        assert_eq!(choose(&slots, &[1, 7], None), 3, "a common beginning alone takes no place away");
        slots[3].job = Some(1);
        assert_eq!(choose(&slots, &[5, 6], None), 1, "the one left longest ago");
        slots[1].job = Some(2);
        assert_eq!(choose(&slots, &[1, 2, 3, 4], None), 0, "a place that is taken is none");
    }
}
