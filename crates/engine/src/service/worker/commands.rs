//! What callers ask of slots: to save, to bring back, and to erase their conversations.

use super::Worker;
use crate::cache::TailKind;
use crate::service::fetch::{Fetched, Recall};
use crate::service::job::SlotError;
use crate::service::slots::{Command, Conversation, Done, Slot, What};
use crate::store::Saved;
use model::{Ops, PageKey};
use std::time::Instant;

impl<B: Ops + 'static> Worker<'_, B> {
    /// Does what somebody wants to be done with places.
    pub(super) fn do_commands(&mut self) {
        for command in self.inbox.take_commands() {
            let done = match command.what {
                What::Save => self.save_slot(command.slot),
                What::Erase => self.erase_slot(command.slot),
                What::Restore(key) => match self.restore_slot(command, key) {
                    Ok(()) => continue, // the answer comes later
                    Err((command, error)) => {
                        let _ = command.answer.send(Err(error));
                        continue;
                    }
                },
            };
            // Who does not listen any more does not want to know.
            let _ = command.answer.send(done);
        }
    }

    /// The last conversation of a place in which nobody is.
    fn last_of(&self, slot: usize) -> Result<Conversation, SlotError> {
        let last = self.slots.len() - 1;
        let place = self.slots.get(slot).ok_or(SlotError::NoSuchSlot { slot, last })?;
        if place.job.is_some() {
            return Err(SlotError::Busy(slot));
        }
        place.last.clone().ok_or(SlotError::Empty(slot))
    }

    /// Hands the last conversation of a place to the page store.
    fn save_slot(&mut self, slot: usize) -> Result<Done, SlotError> {
        let last = self.last_of(slot)?;
        let Some((store, _)) = &self.store else { return Err(SlotError::NoStore) };
        let root = self.cache.root();
        let (mut before, mut dropped) = (root, false);
        for (index, key) in last.keys.iter().enumerate() {
            match self.cache.page(key) {
                Some(page) => dropped |= store.save_page(&before, index, &page) == Saved::Dropped,
                None if store.entry(key).is_some() => {}
                None => return Err(SlotError::Forgotten(slot)),
            }
            before = *key;
        }
        let mut key = last.key(root);
        match self.cache.tail(&before, last.tail()) {
            Some(tail) => {
                dropped |= store.save_tail(&before, &tail) == Saved::Dropped;
                key = before.child(tail.tokens()); // another reply may have said the same and a little more
            }
            // The end of a page goes with the page.
            None if last.tail().is_empty() && !last.keys.is_empty() => {}
            None if store.entry(&key).is_some() => {}
            None => return Err(SlotError::Forgotten(slot)),
        }
        Ok(Done { key, tokens: last.tokens.len(), dropped })
    }

    /// Forgets the last conversation of a place, as far as no other one needs it.
    fn erase_slot(&mut self, slot: usize) -> Result<Done, SlotError> {
        let last = self.last_of(slot)?;
        self.cache.erase(&last.keys, &last.tokens);
        self.slots[slot] = Slot::default();
        Ok(Done { key: last.key(self.cache.root()), tokens: last.tokens.len(), dropped: false })
    }

    /// Has a conversation brought back for a place.
    fn restore_slot(&mut self, command: Command, key: PageKey) -> Result<(), (Command, SlotError)> {
        match self.last_of(command.slot) {
            Ok(_) | Err(SlotError::Empty(_)) => {}
            Err(error) => return Err((command, error)),
        }
        let Some((_, fetcher)) = &self.store else { return Err((command, SlotError::NoStore)) };
        let recall = Recall { key, command };
        fetcher.recall(recall).map_err(|recall| (recall.command, SlotError::Unknown(key)))
    }

    /// Puts a conversation that was brought back into its place.
    pub(super) fn restored(&mut self, recall: &Recall, found: Option<Fetched<B>>) -> Result<Done, SlotError> {
        let slot = recall.command.slot;
        if self.slots[slot].job.is_some() {
            return Err(SlotError::Busy(slot)); // somebody was quicker
        }
        let Some(Fetched { pages, tail: Some((before, tail)), .. }) = found else {
            return Err(SlotError::Unknown(recall.key));
        };
        let mut last = Conversation { keys: Vec::new(), tokens: Vec::new() };
        for (before, page) in pages {
            last.tokens.extend_from_slice(page.tokens());
            last.keys.push(self.cache.put_page(before, page).0);
        }
        last.tokens.extend_from_slice(tail.tokens());
        self.cache.put_tail(before, tail, TailKind::End);
        self.make_room();
        let is_there = last.keys.iter().all(|key| self.cache.has(key))
            && (last.tail().is_empty() || self.cache.tail(&before, last.tail()).is_some());
        if !is_there {
            return Err(SlotError::NoMemory);
        }
        let tokens = last.tokens.len();
        self.slots[slot] = Slot { job: None, last: Some(last), affinity: None, used: Some(Instant::now()) };
        Ok(Done { key: recall.key, tokens, dropped: false })
    }
}
