//! What is forgotten when memory is short: what saves the fewest tokens for the bytes it takes, seen from how
//! likely somebody is to come back to it, how long ago somebody did, and how often.

use super::{Cache, Kept, Node, TailKind};
use model::{Ops, PAGE, Page, PageKey, Tail};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Something that was forgotten, for whoever wants to keep it elsewhere.
pub(crate) enum Evicted<B: Ops> {
    /// A page, with the key of the page before it and how many there are before it.
    Page { parent: PageKey, index: usize, page: Arc<Page<B>> },
    /// A tail, with the key of the page before it, and what it was kept for.
    Tail { parent: PageKey, tail: Arc<Tail<B>>, kind: TailKind },
}

/// Something that can be forgotten.
enum Item {
    /// The whole page: nothing follows it.
    Leaf(PageKey),
    /// Only its end.
    End(PageKey),
    /// The tail of a number, of those that hang there.
    Tail(PageKey, u64),
}

/// Coming back more often than this makes no difference: a conversation that was long has to be forgotten one day.
const OFTEN: u32 = 7;

/// How likely somebody comes back to a place, compared with others of the same age.
fn likely(kind: TailKind) -> f64 {
    match kind {
        TailKind::Inside => 0.1,
        TailKind::LastTurn => 0.5,
        TailKind::End => 1.0,
        TailKind::System => 2.0,
    }
}

impl<B: Ops> Cache<B> {
    /// Forgets things until `excess` bytes are free, or nothing is left that would free memory. Pages in use
    /// stay.
    pub(crate) fn free(&mut self, excess: u64) -> Vec<Evicted<B>> {
        let (mut freed, mut evicted) = (0, Vec::new());
        while freed < excess {
            let mut items = self.items();
            if items.is_empty() {
                break;
            }
            items.sort_by(|a, b| a.0.total_cmp(&b.0));
            // Forgetting changes what else is worth: a page becomes the last one. So not all at once.
            let some = items.len().div_ceil(8);
            for (_, item) in items.into_iter().take(some) {
                if freed >= excess {
                    break;
                }
                freed += self.forget(item, &mut evicted);
                self.evicted += 1;
            }
        }
        evicted
    }

    /// Everything, for whoever wants to keep it elsewhere; pages before what follows them.
    pub(crate) fn all(&self) -> Vec<Evicted<B>> {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|(_, node)| node.depth);
        let mut all = Vec::new();
        for (key, node) in nodes {
            if let (Some(page), Some(parent)) = (&node.page, node.parent) {
                all.push(Evicted::Page { parent, index: node.depth - 1, page: page.clone() });
            }
            all.extend(node.tails.iter().map(|kept| kept.evicted(*key)));
        }
        all
    }

    /// What could be forgotten, with what it is worth: tokens saved a byte.
    fn items(&self) -> Vec<(f64, Item)> {
        let mut items = Vec::new();
        for (&key, node) in &self.nodes {
            for kept in &node.tails {
                let saved = kept.spelling.len().max(1) as f64 * likely(kept.kind);
                items
                    .push((self.worth(saved, kept.memory(), kept.used, kept.uses), Item::Tail(key, kept.id)));
            }
            let Some(page) = &node.page else { continue };
            if Arc::strong_count(page) > 1 {
                continue; // somebody holds it, end and all
            }
            if node.is_leaf() && !page.is_shared() {
                items.push((
                    self.worth(PAGE as f64, node.memory as usize, node.used, node.uses),
                    Item::Leaf(key),
                ));
            } else if page.has_end() && !node.is_leaf() {
                let ways = node.children.len() + node.tails.len();
                let saved =
                    PAGE as f64 * likely(if ways > 1 { TailKind::LastTurn } else { TailKind::Inside });
                items.push((self.worth(saved, page.end_memory(), node.used, node.uses), Item::End(key)));
            }
        }
        items
    }

    /// What was come back to several times is worth as much as what is several times as young, up to [`OFTEN`].
    fn worth(&self, saved: f64, bytes: usize, used: u64, uses: u32) -> f64 {
        let age = (self.clock - used) as f64;
        saved * f64::from(1 + uses.min(OFTEN)) / (bytes.max(1) as f64 * (1.0 + age))
    }

    /// Forgets one thing; returns how many bytes that frees.
    fn forget(&mut self, item: Item, evicted: &mut Vec<Evicted<B>>) -> u64 {
        match item {
            Item::Tail(key, id) => {
                let node = self.nodes.get_mut(&key).expect("it was listed");
                let nth = node.tails.iter().position(|kept| kept.id == id).expect("it was listed");
                let kept = node.tails.swap_remove(nth);
                let bytes = kept.memory() as u64;
                self.ghosts.add(key.child(kept.tail.tokens()));
                evicted.push(kept.evicted(key));
                bytes
            }
            Item::End(key) => {
                let node = self.nodes.get_mut(&key).expect("it was listed");
                let page = node.page.as_mut().expect("a page");
                let bytes = page.end_memory() as u64;
                *page = Arc::new(page.without_end());
                node.memory -= bytes;
                bytes
            }
            Item::Leaf(key) => {
                let node = self.nodes.remove(&key).expect("it was listed");
                let Node { page, memory, parent, depth, .. } = node;
                let (page, parent) = (page.expect("a page"), parent.expect("it has a parent"));
                let before = self.nodes.get_mut(&parent).expect("the way to the root is there");
                before.children.retain(|child| *child != key);
                self.ghosts.add(key);
                evicted.push(Evicted::Page { parent, index: depth - 1, page });
                memory
            }
        }
    }
}

impl<B: Ops> Kept<B> {
    fn evicted(&self, parent: PageKey) -> Evicted<B> {
        Evicted::Tail { parent, tail: self.tail.clone(), kind: self.kind }
    }
}

impl<B: Ops> Node<B> {
    pub(super) fn is_leaf(&self) -> bool {
        self.children.is_empty() && self.tails.is_empty()
    }
}

/// Keys of what was evicted, so that a miss can say so. The oldest are forgotten.
#[derive(Default)]
pub(super) struct Ghosts {
    known: HashSet<PageKey>,
    order: VecDeque<PageKey>,
}

impl Ghosts {
    const MOST: usize = 1 << 16;

    fn add(&mut self, key: PageKey) {
        if self.known.insert(key) {
            self.order.push_back(key);
        }
        while self.order.len() > Self::MOST {
            let oldest = self.order.pop_front().expect("there are too many");
            self.known.remove(&oldest);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn has(&self, key: &PageKey) -> bool {
        self.known.contains(key)
    }

    pub(super) fn forget(&mut self, key: &PageKey) {
        self.known.remove(key);
    }
}
