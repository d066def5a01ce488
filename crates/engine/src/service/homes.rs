//! What the name of a conversation protects.
//!
//! An agent and those it sends out often work under one name, and the agent waits for them: what it has read grows old
//! meanwhile, and a series of others that needs more memory than there is would drive it out. So each name has a
//! *home*, the longest conversation under it, and a request under the name counts as a visit there too
//! ([`Cache::visit`](crate::cache::Cache::visit)).
//!
//! That cannot be abused: a visit costs a request, keeps one conversation and no more than half of the memory, and a
//! home that nobody goes on with is given up after [`AWAY`] other requests. A name that nobody uses protects nothing.

use super::slots::Conversation;
use model::{PAGE, PageKey};
use std::collections::HashMap;

/// So many requests may be made under a name, one after another, before its home has to be gone on with.
const AWAY: usize = 512;

/// The most names that are remembered, those used last.
const NAMES: usize = 256;

/// The homes of names.
#[derive(Default)]
pub(super) struct Homes {
    by_name: HashMap<u64, Home>,
    /// Counts requests.
    clock: u64,
}

/// The longest conversation under a name.
pub(super) struct Home {
    /// Keys of its pages.
    pub(super) keys: Vec<PageKey>,
    /// Its tokens after them.
    pub(super) tail: Vec<u32>,
    /// Requests under the name since it was gone on with.
    away: usize,
    used: u64,
}

impl Home {
    fn len(&self) -> usize {
        self.keys.len() * PAGE + self.tail.len()
    }

    /// Whether a conversation goes on after this one.
    fn is_beginning_of(&self, other: &Conversation) -> bool {
        other.keys.starts_with(&self.keys) && other.tokens[self.keys.len() * PAGE..].starts_with(&self.tail)
    }
}

impl Homes {
    /// A request is begun under a name; returns the home that is to be visited.
    pub(super) fn visit(&mut self, name: u64) -> Option<&Home> {
        self.clock += 1;
        let home = self.by_name.get_mut(&name)?;
        home.used = self.clock;
        Some(home)
    }

    /// A request under a name has ended, and this is its conversation.
    pub(super) fn ended(&mut self, name: u64, conversation: &Conversation) {
        if let Some(home) = self.by_name.get_mut(&name) {
            home.away += 1;
            let stays = home.away <= AWAY && home.len() > conversation.tokens.len();
            if stays && !home.is_beginning_of(conversation) {
                return;
            }
        } else if self.by_name.len() >= NAMES {
            let oldest = self.by_name.iter().min_by_key(|(_, home)| home.used).map(|(name, _)| *name);
            oldest.map(|name| self.by_name.remove(&name));
        }
        let (keys, tail) = (conversation.keys.clone(), conversation.tail().to_vec());
        self.by_name.insert(name, Home { keys, tail, away: 0, used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(tokens: &[u32]) -> Conversation {
        Conversation { keys: Vec::new(), tokens: tokens.to_vec() }
    }

    fn home(homes: &mut Homes, name: u64) -> Option<Vec<u32>> {
        homes.visit(name).map(|home| home.tail.clone())
    }

    #[test]
    fn the_longest_conversation_is_home() {
        let mut homes = Homes::default();
        assert_eq!(home(&mut homes, 1), None);
        for (said, want) in [
            (&[1, 2][..], &[1, 2][..]),
            (&[5, 6, 7, 8], &[5, 6, 7, 8]), // longer
            (&[1, 2, 3], &[5, 6, 7, 8]),
            (&[5, 6, 7, 8, 9], &[5, 6, 7, 8, 9]), // goes on
            (&[5, 6, 7, 8], &[5, 6, 7, 8, 9]),
        ] {
            homes.ended(1, &conversation(said));
            assert_eq!(home(&mut homes, 1).unwrap(), want);
        }
        assert_eq!(home(&mut homes, 2), None, "each name has its own");
    }

    #[test]
    fn a_home_that_nobody_comes_back_to_is_given_up() {
        let mut homes = Homes::default();
        homes.ended(1, &conversation(&[1, 2, 3]));
        for _ in 0..AWAY {
            homes.ended(1, &conversation(&[4]));
            assert_eq!(home(&mut homes, 1).unwrap(), [1, 2, 3]);
        }
        homes.ended(1, &conversation(&[4]));
        assert_eq!(home(&mut homes, 1).unwrap(), [4]);
    }

    #[test]
    fn names_that_are_not_used_are_forgotten() {
        let mut homes = Homes::default();
        for name in 0..2 * NAMES as u64 {
            homes.ended(name, &conversation(&[1]));
            homes.visit(name);
            homes.visit(0);
        }
        assert_eq!(homes.by_name.len(), NAMES);
        assert!(homes.visit(0).is_some() && homes.visit(1).is_none());
    }
}
