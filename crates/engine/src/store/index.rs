//! What is in the store, in memory: a tree of pages and tails, and which of them to give up first.
//!
//! A conversation can be taken up where its state is complete: at a tail, or at a page that was saved with its
//! end. Such *places* are what is worth something; pages are there for the places behind them. So eviction
//! weighs places, and takes with one the pages that then lead nowhere.

use model::snapshot::Head;
use model::{PAGE, PageKey};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A page or tail in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it holds and what comes before it.
    pub key: PageKey,
    /// Key of the page before it, or of no tokens.
    pub parent: PageKey,
    /// Whether it is a page, or else a tail.
    pub is_page: bool,
    /// Pages before it.
    pub pages: usize,
    /// Its tokens: a page's worth, or for a tail fewer, even none: then it is the end of the page before it.
    pub tokens: Arc<[u32]>,
    /// Whether a conversation can go on right after it.
    pub has_end: bool,
    /// By how many tokens it can be cut back.
    pub slack: usize,
    /// Its size.
    pub bytes: u64,
    /// When it was written or last read, in milliseconds since 1970.
    pub used: u64,
}

impl Entry {
    pub(crate) fn new(head: Head, used: u64) -> Entry {
        let Head { is_page, parent, key, pages, tokens, has_end, slack, bytes } = head;
        Entry { key, parent, is_page, pages, tokens: tokens.into(), has_end, slack, bytes, used }
    }

    /// Tokens of the conversation up to its end.
    pub fn position(&self) -> usize {
        self.pages * PAGE + self.tokens.len()
    }
}

/// How much less a place is worth that has others behind it: hardly anybody comes back to just there.
const INNER: f64 = 0.25;

/// Age is counted from this many milliseconds, so that a place that was used just now is not worth everything.
const YOUNG: f64 = 60e3;

/// For so many milliseconds a page may wait for the place behind it to be written.
const GRACE: u64 = 600_000;

/// Everything in the store that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: HashMap<PageKey, Entry>,
    children: HashMap<PageKey, Vec<PageKey>>,
    bytes: u64,
}

impl Index {
    pub(crate) fn insert(&mut self, entry: Entry) {
        let (key, parent) = (entry.key, entry.parent);
        self.bytes += entry.bytes;
        match self.entries.insert(key, entry) {
            Some(old) => self.bytes -= old.bytes,
            None => self.children.entry(parent).or_default().push(key),
        }
    }

    pub(crate) fn remove(&mut self, key: &PageKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        if let Some(siblings) = self.children.get_mut(&entry.parent) {
            siblings.retain(|sibling| sibling != key);
            if siblings.is_empty() {
                self.children.remove(&entry.parent);
            }
        }
        Some(entry)
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn touch(&mut self, key: &PageKey, now: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = entry.used.max(now);
        }
    }

    /// What follows a page, or begins a conversation.
    pub(crate) fn children(&self, key: &PageKey) -> impl Iterator<Item = &Entry> {
        self.children.get(key).into_iter().flatten().map(|child| &self.entries[child])
    }

    /// The pages from the first to the one before an entry; `None` if one is missing.
    pub(crate) fn path(&self, entry: &Entry, root: &PageKey) -> Option<Vec<PageKey>> {
        let mut path = Vec::new();
        let mut at = entry.parent;
        while at != *root {
            let page = self.entries.get(&at).filter(|page| page.is_page)?;
            path.push(at);
            at = page.parent;
        }
        path.reverse();
        (path.len() == entry.pages).then_some(path)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to remove, in this order, to free `excess` bytes: what leads nowhere, then the places that save
    /// the fewest tokens for their bytes, the older the sooner. What is behind something goes before it, so that
    /// being killed half-way leaves nothing behind that leads nowhere.
    pub(crate) fn victims(&self, root: &PageKey, now: u64, excess: u64) -> Vec<PageKey> {
        self.ranked_victims(root, now, excess).into_iter().map(|(_, key)| key).collect()
    }

    /// As [`Index::victims`], each with what the place is worth for which it goes; that never falls.
    pub(crate) fn ranked_victims(&self, root: &PageKey, now: u64, excess: u64) -> Vec<(f64, PageKey)> {
        let mut gone = HashSet::new();
        let mut victims = Vec::new();
        let mut freed = 0;
        let mut places: Vec<(f64, &Entry)> = Vec::new();
        for entry in self.entries.values() {
            let young = now.saturating_sub(entry.used) < GRACE;
            let leads_on = self.children(&entry.key).next().is_some();
            if entry.has_end && self.path(entry, root).is_some() {
                places.push((self.worth(self.saved(entry, root), entry, now), entry));
            } else if !leads_on || !entry.is_page {
                // A page whose place is still to be written, or something that nobody can get to.
                places.push((if young { self.worth(PAGE, entry, now) } else { 0.0 }, entry));
            }
        }
        places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.key.cmp(&b.1.key)));
        for (worth, entry) in places {
            if freed >= excess {
                break;
            }
            let mut at = Some(entry);
            while let Some(entry) = at {
                let leads_on = self.children(&entry.key).any(|child| !gone.contains(&child.key));
                if leads_on || !gone.insert(entry.key) {
                    break;
                }
                victims.push((worth, entry.key));
                freed += entry.bytes;
                at = self.entries.get(&entry.parent).filter(|page| !page.has_end);
            }
        }
        victims
    }

    /// What to remove, in this order, so that what was not used since then is gone, with the pages that then lead
    /// nowhere.
    pub(crate) fn unused_since(&self, since: u64, now: u64) -> Vec<PageKey> {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        // What is behind something comes before it.
        entries.sort_by_key(|entry| (std::cmp::Reverse(entry.pages), entry.is_page, entry.key));
        let mut gone = HashSet::new();
        let mut old = Vec::new();
        for entry in entries {
            let mut behind = self.children(&entry.key).peekable();
            let lost_all = behind.peek().is_some();
            if behind.any(|child| !gone.contains(&child.key)) {
                continue;
            }
            let goes = match entry.has_end {
                true => entry.used < since,
                // What leads nowhere is of no use at any age, but its place may be still to be written.
                false => (entry.used < since || lost_all) && now.saturating_sub(entry.used) >= GRACE,
            };
            if goes {
                gone.insert(entry.key);
                old.push(entry.key);
            }
        }
        old
    }

    /// Tokens that need not be read again because of this place.
    fn saved(&self, place: &Entry, root: &PageKey) -> usize {
        // A tail of no tokens is the end of the page before it, so it is the one before that which counts.
        let mut at = match place.is_page || !place.tokens.is_empty() {
            true => Some(place.parent),
            false => self.entries.get(&place.parent).map(|page| page.parent),
        };
        // The nearest page at whose end one could go on as well.
        while let Some(key) = at.filter(|key| key != root) {
            let Some(page) = self.entries.get(&key) else { break };
            let ends =
                page.has_end || self.children(&key).any(|child| !child.is_page && child.tokens.is_empty());
            if ends {
                return place.position() - page.position();
            }
            at = Some(page.parent);
        }
        place.position()
    }

    fn worth(&self, saved: usize, entry: &Entry, now: u64) -> f64 {
        let page = if entry.is_page { entry.key } else { entry.parent };
        let is_inner = entry.tokens.is_empty() && self.children(&page).any(|child| child.is_page);
        let weight =
            if is_inner || (entry.is_page && self.children(&page).next().is_some()) { INNER } else { 1.0 };
        let age = now.saturating_sub(entry.used) as f64;
        weight * saved as f64 / (entry.bytes.max(1) as f64 * (YOUNG + age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    struct Tree {
        root: PageKey,
        index: Index,
    }

    impl Tree {
        fn new() -> Self {
            Tree { root: PageKey([0; 32]), index: Index::default() }
        }

        /// A page of 1 MB after another one.
        fn page(&mut self, parent: PageKey, first: u32, age: u64) -> PageKey {
            self.add(parent, true, vec![first; PAGE], age)
        }

        /// A tail of 1 MB.
        fn tail(&mut self, parent: PageKey, tokens: usize, age: u64) -> PageKey {
            self.add(parent, false, vec![7; tokens], age)
        }

        fn add(&mut self, parent: PageKey, is_page: bool, tokens: Vec<u32>, age: u64) -> PageKey {
            let key = parent.child(&tokens);
            let pages = self.index.get(&parent).map_or(0, |page| page.pages + 1);
            let (has_end, slack, bytes, used) = (!is_page, 0, 1 << 20, NOW - 1000 * age);
            let tokens = tokens.into();
            self.index.insert(Entry { key, parent, is_page, pages, tokens, has_end, slack, bytes, used });
            key
        }

        fn victims(&self, megabytes: u64) -> Vec<PageKey> {
            self.index.victims(&self.root, NOW, megabytes << 20)
        }
    }

    #[test]
    fn the_way_to_an_entry_is_all_its_pages() {
        let mut tree = Tree::new();
        let a = tree.page(tree.root, 1, 0);
        let b = tree.page(a, 2, 0);
        let tail = tree.tail(b, 10, 0);
        let entry = tree.index.get(&tail).unwrap().clone();
        assert_eq!(tree.index.path(&entry, &tree.root), Some(vec![a, b]));
        assert_eq!(entry.position(), 2 * PAGE + 10);
        tree.index.remove(&a);
        assert_eq!(tree.index.path(&entry, &tree.root), None);
        assert_eq!(tree.index.bytes(), 2 << 20);
    }

    /// The older of two conversations goes first, with the pages that nobody else needs.
    #[test]
    fn an_old_conversation_goes_with_its_own_pages() {
        let mut tree = Tree::new();
        let shared = tree.page(tree.root, 1, 9000);
        let old = tree.page(shared, 2, 9000);
        let old_tail = tree.tail(old, 500, 9000);
        let new = tree.page(shared, 3, 100);
        let new_tail = tree.tail(new, 500, 100);
        assert_eq!(tree.victims(1), [old_tail, old]);
        assert_eq!(tree.victims(2), [old_tail, old]);
        assert_eq!(tree.victims(3), [old_tail, old, new_tail, new, shared]);
    }

    #[test]
    fn a_place_that_saves_more_stays_longer() {
        let mut tree = Tree::new();
        let page = tree.page(tree.root, 1, 50);
        let small = tree.tail(page, 10, 50);
        let large = tree.tail(page, 900, 50);
        let _end = tree.tail(page, 0, 50);
        assert_eq!(tree.victims(1), [small]);
        assert_eq!(tree.victims(2), [small, large]);
    }

    /// Inside a conversation the ends of pages are worth less than the last one.
    #[test]
    fn inner_ends_go_before_the_last_one() {
        let mut tree = Tree::new();
        let a = tree.page(tree.root, 1, 50);
        let a_end = tree.tail(a, 0, 50);
        let b = tree.page(a, 2, 50);
        let b_end = tree.tail(b, 0, 50);
        assert_eq!(tree.victims(1), [a_end]);
        assert_eq!(tree.victims(2), [a_end, b_end, b, a]);
    }

    /// What was not used goes with its own pages; a shared page stays, and so does one that is waiting for its end.
    #[test]
    fn what_was_not_used_goes_with_its_own_pages() {
        let mut tree = Tree::new();
        let shared = tree.page(tree.root, 1, 9000);
        let old = tree.page(shared, 2, 9000);
        let inner = tree.tail(old, 0, 9000);
        let older = tree.page(old, 3, 9000);
        let old_tail = tree.tail(older, 500, 9000);
        let _new_tail = tree.tail(shared, 500, 100);
        let _waits = tree.page(shared, 4, 1);
        let gone = tree.index.unused_since(NOW - 5_000_000, NOW);
        assert_eq!(gone, [old_tail, inner, older, old]);
        assert_eq!(tree.index.unused_since(NOW - 10_000_000, NOW), []);
    }

    #[test]
    fn what_leads_nowhere_goes_first_unless_it_is_new() {
        let mut tree = Tree::new();
        let lost = tree.page(PageKey([9; 32]), 1, 9000);
        let page = tree.page(tree.root, 2, 100_000);
        let tail = tree.tail(page, 900, 100_000);
        let fresh = tree.page(page, 3, 1);
        assert_eq!(tree.victims(1), [lost]);
        assert_eq!(tree.victims(2), [lost, tail]);
        assert_eq!(tree.victims(3), [lost, tail, fresh, page]);
    }
}
