//! What was read before, kept for whoever comes next: nothing is read twice.
//!
//! Finished pages form a tree, shared by all conversations: a page's parent is the page before it. At a page, or
//! at the root, hang tails: ends of conversations, and checkpoints, which are states inside of them that somebody
//! may go back to. Start at [`Cache::find`] (in [`find`]), which starts a prompt where the cache ends; what is
//! forgotten when memory is short is in [`evict`].
//!
//! **Invariant:** the pages on the way from the root to a tail or page are all there.

mod evict;
mod find;
mod spelling;

pub(crate) use evict::Evicted;
pub(crate) use find::Found;
pub(crate) use spelling::Spelling;

use evict::Ghosts;
use model::{Ops, PAGE, Page, PageKey, Tail};
use std::collections::HashMap;
use std::sync::Arc;
use text::Tokenizer;

/// Pages and tails in memory.
pub(crate) struct Cache<B: Ops> {
    tokenizer: Arc<Tokenizer>,
    root: PageKey,
    /// The root has a node too, without a page.
    nodes: HashMap<PageKey, Node<B>>,
    ghosts: Ghosts,
    /// Counts searches: what age is measured in.
    clock: u64,
    next_id: u64,
    evicted: u64,
}

/// A page, and what follows it.
struct Node<B: Ops> {
    page: Option<Arc<Page<B>>>,
    spelling: Spelling,
    parent: Option<PageKey>,
    /// Pages up to its end.
    depth: usize,
    /// Memory of the page and its spelling.
    memory: u64,
    children: Vec<PageKey>,
    tails: Vec<Kept<B>>,
    used: u64,
    /// How often somebody went on from here or from what follows.
    uses: u32,
}

/// A tail that is kept.
struct Kept<B: Ops> {
    /// Its number among all.
    id: u64,
    tail: Arc<Tail<B>>,
    spelling: Spelling,
    kind: TailKind,
    used: u64,
    /// How often somebody went on from here.
    uses: u32,
}

/// What a tail is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TailKind {
    /// Somewhere inside: an edited message.
    Inside,
    /// The last message, or the end of the prompt: a retried or edited last turn.
    LastTurn,
    /// The end of the conversation: it goes on.
    End,
    /// The end of the system prompt: another conversation.
    System,
}

/// Memory that is taken, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) pages: u64,
    pub(crate) tails: u64,
    /// Those pages that somebody else holds too.
    pub(crate) shared: u64,
}

impl Memory {
    pub(crate) fn all(self) -> u64 {
        self.pages + self.tails
    }
}

impl TailKind {
    /// What it is once the conversation has gone on after it.
    fn passed(self) -> TailKind {
        match self {
            TailKind::End => TailKind::LastTurn,
            TailKind::LastTurn => TailKind::Inside,
            kind => kind,
        }
    }
}

impl<B: Ops> Cache<B> {
    /// An empty cache. `root` is the key of no tokens.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, root: PageKey) -> Self {
        let node = Node {
            page: None,
            spelling: Spelling::default(),
            parent: None,
            depth: 0,
            memory: 0,
            children: Vec::new(),
            tails: Vec::new(),
            used: 0,
            uses: 0,
        };
        let ghosts = Ghosts::default();
        Cache {
            tokenizer,
            root,
            nodes: HashMap::from([(root, node)]),
            ghosts,
            clock: 0,
            next_id: 0,
            evicted: 0,
        }
    }

    /// The key of no tokens.
    pub(crate) fn root(&self) -> PageKey {
        self.root
    }

    /// Keeps a page. If it is there already, the one that is there is returned, so that all share it.
    ///
    /// # Panics
    ///
    /// If the page before it is not there.
    pub(crate) fn put_page(&mut self, parent: PageKey, page: Arc<Page<B>>) -> (PageKey, Arc<Page<B>>) {
        let key = parent.child(page.tokens());
        let used = self.clock;
        if let Some(node) = self.nodes.get_mut(&key) {
            node.used = used;
            let kept = node.page.as_mut().expect("only the root has none");
            if page.has_end() && !kept.has_end() {
                node.memory += page.end_memory() as u64;
                *kept = page;
            }
            return (key, kept.clone());
        }
        let spelling = Spelling::new(&self.tokenizer, page.tokens().to_vec());
        let before = self.nodes.get_mut(&parent).expect("the page before is there");
        before.children.push(key);
        let depth = before.depth + 1;
        let (children, tails) = (Vec::new(), Vec::new());
        let memory = (page.memory() + spelling.memory()) as u64;
        let (kept, parent) = (Some(page.clone()), Some(parent));
        let node = Node { page: kept, spelling, parent, depth, memory, children, tails, used, uses: 0 };
        self.nodes.insert(key, node);
        self.ghosts.forget(&key);
        (key, page)
    }

    /// Keeps a tail, unless there is one from which one can go on there already.
    ///
    /// # Panics
    ///
    /// If the page before it is not there.
    pub(crate) fn put_tail(&mut self, parent: PageKey, tail: Tail<B>, kind: TailKind) {
        let node = self.nodes.get_mut(&parent).expect("the page before is there");
        assert_eq!(node.depth, tail.pages(), "the tail follows this page");
        let (tokens, low) = (tail.tokens(), tail.position() - tail.slack());
        if tokens.is_empty() && node.page.as_ref().is_none_or(|page| page.has_end()) {
            return; // the page itself ends there
        }
        for kept in &mut node.tails {
            let (end, from) = (kept.tail.position(), kept.tail.position() - kept.tail.slack());
            if kept.tail.tokens().starts_with(tokens) && (from..=end).contains(&tail.position()) {
                (kept.used, kept.kind) = (self.clock, kept.kind.max(kind));
                return;
            }
        }
        node.tails.retain(|kept| {
            !(tokens.starts_with(kept.tail.tokens()) && (low..).contains(&kept.tail.position()))
        });
        let spelling = Spelling::new(&self.tokenizer, tokens.to_vec());
        let id = self.next_id;
        self.next_id += 1;
        self.ghosts.forget(&parent.child(tail.tokens()));
        node.tails.push(Kept { id, tail: Arc::new(tail), spelling, kind, used: self.clock, uses: 0 });
    }

    /// Whether a page is kept, or it is the key of no tokens.
    pub(crate) fn has(&self, key: &PageKey) -> bool {
        self.nodes.contains_key(key)
    }

    /// A page, if it is kept.
    pub(crate) fn page(&self, key: &PageKey) -> Option<Arc<Page<B>>> {
        self.nodes.get(key)?.page.clone()
    }

    /// A tail after a page from which one can go on where these tokens end, if one is kept.
    pub(crate) fn tail(&self, page: &PageKey, tokens: &[u32]) -> Option<Arc<Tail<B>>> {
        let goes_on = |kept: &&Kept<B>| {
            let kept = &kept.tail;
            kept.tokens().starts_with(tokens) && kept.tokens().len() - tokens.len() <= kept.slack()
        };
        self.nodes.get(page)?.tails.iter().find(goes_on).map(|kept| kept.tail.clone())
    }

    /// Forgets a conversation, as far as nobody else needs it: from its end back to the first page that another
    /// conversation shares or that is in use. The end of a system prompt stays, for others begin there.
    ///
    /// - `keys`: of its pages; `tokens`: all of its tokens
    pub(crate) fn erase(&mut self, keys: &[PageKey], tokens: &[u32]) {
        for depth in (0..=keys.len()).rev() {
            let key = depth.checked_sub(1).map_or(self.root, |last| keys[last]);
            let Some(node) = self.nodes.get_mut(&key) else { continue };
            let rest = &tokens[depth * PAGE..];
            let is_other = |kept: &Kept<B>| !rest.starts_with(kept.tail.tokens());
            node.tails.retain(|kept| kept.kind == TailKind::System || is_other(kept));
            let in_use =
                node.page.as_ref().is_some_and(|page| Arc::strong_count(page) > 1 || page.is_shared());
            let (true, false, Some(parent)) = (node.is_leaf(), in_use, node.parent) else { return };
            self.nodes.remove(&key);
            let before = self.nodes.get_mut(&parent).expect("the way to the root is there");
            before.children.retain(|child| *child != key);
        }
    }

    /// Pages kept.
    pub(crate) fn pages(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Tails kept.
    pub(crate) fn tails(&self) -> usize {
        self.nodes.values().map(|node| node.tails.len()).sum()
    }

    /// Things evicted so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Memory of everything kept.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for node in self.nodes.values() {
            let used = node.page.as_ref().is_some_and(|page| page.is_shared() || Arc::strong_count(page) > 1);
            memory.pages += node.memory;
            memory.tails += node.tails.iter().map(|kept| kept.memory() as u64).sum::<u64>();
            memory.shared += if used { node.memory } else { 0 };
        }
        memory
    }
}

impl<B: Ops> Kept<B> {
    fn memory(&self) -> usize {
        self.tail.memory() + self.spelling.memory()
    }
}
