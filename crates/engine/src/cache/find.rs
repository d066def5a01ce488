//! Where a prompt can start: at the end of the longest part of it that was read before and from which one can go
//! on.

use super::{Cache, Kept, Spelling, TailKind};
use crate::miss::{CacheSource, Miss};
use model::{Config, KvFormat, Ops, PAGE, Page, PageKey, Tail, Timeline};
use std::sync::Arc;

/// A state to start from.
pub(crate) struct Found<B: Ops> {
    pages: Vec<Arc<Page<B>>>,
    tail: Option<(u64, Arc<Tail<B>>)>,
    /// Keys of `pages`.
    pub(crate) keys: Vec<PageKey>,
    /// Tokens that are known.
    pub(crate) cached: usize,
    /// The prompt's token that is next, as the tokenizer spells the prompt.
    pub(crate) next: usize,
    /// The whole prompt, its known part in the spelling in which it is known.
    pub(crate) tokens: Vec<u32>,
    /// Where that part came from.
    pub(crate) source: CacheSource,
    /// Why not more was found; `None` if nothing but the last token is left to read.
    pub(crate) miss: Option<Miss>,
}

/// A place where the prompt could start.
#[derive(Clone, Copy)]
struct Place {
    node: PageKey,
    /// Which of the node's tails; `None` for the page's end.
    tail: Option<usize>,
    /// Tokens up to it, in the cache's spelling.
    cached: usize,
    /// The prompt's token that is next.
    next: usize,
}

/// Below this many tokens in common, prompts have nothing in common: all begin with the same control token, and
/// many with the same word.
const ALIKE: usize = 16;

/// How many more tokens must be known in another spelling for that to be better than the tokenizer's own, with
/// which the reply does not depend on what was read before.
const RESPELL: usize = 16;

impl<B: Ops> Cache<B> {
    /// The best place to start `prompt` from.
    ///
    /// - `any_spelling`: whether other tokens that spell the same bytes are as good
    pub(crate) fn find(&self, prompt: &Spelling, any_spelling: bool) -> Found<B> {
        let Search { best, common, goes_on } = self.look_up(prompt, any_spelling);
        let mut keys = Vec::new();
        let mut at = Some(best.node);
        while let Some(key) = at.filter(|&key| key != self.root) {
            keys.push(key);
            at = self.nodes[&key].parent;
        }
        keys.reverse();
        let pages: Vec<_> = keys.iter().map(|key| self.nodes[key].page.clone().expect("a page")).collect();
        let kept = best.tail.map(|nth| &self.nodes[&best.node].tails[nth]);
        let tail = kept.map(|kept| (kept.id, kept.tail.clone()));
        let known = pages.iter().flat_map(|page| page.tokens());
        let known = known.chain(tail.iter().flat_map(|(_, tail)| tail.tokens())).take(best.cached);
        let tokens = known.chain(&prompt.tokens()[best.next..]).copied().collect();
        let miss = (best.next + 1 < prompt.len()).then(|| {
            if prompt.len() <= ALIKE {
                Miss::TooShort
            } else if !any_spelling && self.search(prompt, true).best.next >= best.next + RESPELL {
                Miss::Incompatible
            } else if common > best.cached {
                Miss::NoCheckpoint { common }
            } else if self.was_evicted(prompt, &best) {
                Miss::Evicted
            } else if common < ALIKE {
                Miss::New
            } else if goes_on {
                Miss::Differs
            } else {
                Miss::Beyond
            }
        });
        let is_inside = |kept: &Kept<B>| match kept.kind {
            TailKind::Inside | TailKind::LastTurn => true,
            TailKind::End => best.cached < kept.tail.position(),
            TailKind::System => false,
        };
        let source = match kept {
            _ if best.cached == 0 => CacheSource::Nothing,
            Some(kept) if is_inside(kept) => CacheSource::Rewind,
            _ => CacheSource::Memory,
        };
        Found { pages, tail, keys, cached: best.cached, next: best.next, tokens, source, miss }
    }

    /// Tokens of the prompt that would be left to read.
    pub(crate) fn unread(&self, prompt: &Spelling, any_spelling: bool) -> usize {
        prompt.len() - self.look_up(prompt, any_spelling).best.next
    }

    /// The better one of both searches.
    fn look_up(&self, prompt: &Spelling, any_spelling: bool) -> Search {
        let exact = self.search(prompt, false);
        if any_spelling {
            let other = self.search(prompt, true);
            let gain = other.best.next.saturating_sub(exact.best.next);
            if gain >= RESPELL {
                return other;
            }
        }
        exact
    }

    /// Whether the page after the best place was known once.
    fn was_evicted(&self, prompt: &Spelling, best: &Place) -> bool {
        let node = &self.nodes[&best.node];
        let done = best.cached.saturating_sub(node.depth * PAGE);
        let Some(rest) = best.next.checked_sub(done).map(|start| &prompt.tokens()[start..]) else {
            return false;
        };
        !self.ghosts.is_empty()
            && (done + 1..=rest.len().min(PAGE)).any(|len| self.ghosts.has(&best.node.child(&rest[..len])))
    }

    /// Takes note that somebody goes on from there.
    pub(crate) fn touch(&mut self, found: &Found<B>) {
        self.clock += 1;
        for key in &found.keys {
            let node = self.nodes.get_mut(key).expect("what was found is there");
            (node.used, node.uses) = (self.clock, node.uses + 1);
        }
        let last = found.keys.last().copied().unwrap_or(self.root);
        let tails = &mut self.nodes.get_mut(&last).expect("what was found is there").tails;
        if let Some((id, _)) = &found.tail
            && let Some(kept) = tails.iter_mut().find(|kept| kept.id == *id)
        {
            (kept.used, kept.uses, kept.kind) = (self.clock, kept.uses + 1, kept.kind.passed());
        }
    }

    /// Takes note that somebody will come back to a conversation: as if that were just now, for as much of its beginning
    /// as takes `most` bytes.
    ///
    /// - `keys`: of its pages; `tail`: its tokens after them
    pub(crate) fn visit(&mut self, keys: &[PageKey], tail: &[u32], most: u64) {
        let mut taken = 0;
        for key in std::iter::once(&self.root).chain(keys) {
            let Some(node) = self.nodes.get_mut(key) else { return };
            taken += node.memory;
            if taken > most {
                return;
            }
            node.used = self.clock;
        }
        let last = keys.last().unwrap_or(&self.root);
        let tails = self.nodes.get_mut(last).into_iter().flat_map(|node| &mut node.tails);
        for kept in tails.filter(|kept| tail.starts_with(kept.tail.tokens())) {
            kept.used = self.clock;
        }
    }

    fn search(&self, prompt: &Spelling, any_spelling: bool) -> Search {
        let start = Place { node: self.root, tail: None, cached: 0, next: 0 };
        let mut search = Search { best: start, common: 0, goes_on: false };
        // Nodes whose page the prompt has in full, with the byte after it.
        let mut open = vec![(self.root, 0)];
        while let Some((key, at)) = open.pop() {
            let node = &self.nodes[&key];
            let start = node.depth * PAGE;
            if let Some(next) = prompt.token_at(at)
                && node.page.as_ref().is_none_or(|page| page.has_end())
            {
                search.offer(prompt, Place { node: key, tail: None, cached: start, next });
            }
            search.saw(start, false);
            for (nth, kept) in node.tails.iter().enumerate() {
                let common = prompt.common(at, &kept.spelling, any_spelling);
                search.saw(start + common, common < kept.spelling.len());
                // One token has to be left to read.
                let joint = (0..=common).rev().find_map(|most| {
                    prompt.joint(at, &kept.spelling, most).filter(|&(_, next)| next < prompt.len())
                });
                if let Some((joint, next)) = joint
                    && start + joint + kept.tail.slack() >= kept.tail.position()
                {
                    let place = Place { node: key, tail: Some(nth), cached: start + joint, next };
                    search.offer(prompt, place);
                }
            }
            for child in &node.children {
                let page = &self.nodes[child];
                let common = prompt.common(at, &page.spelling, any_spelling);
                search.saw(start + common, common < PAGE);
                if common == PAGE {
                    open.push((*child, at + page.spelling.bytes_len()));
                }
                self.reach_back(prompt, *child, at, common, &mut search);
            }
        }
        search
    }

    /// A tail after a page may reach back into it.
    fn reach_back(&self, prompt: &Spelling, key: PageKey, at: usize, common: usize, search: &mut Search) {
        let node = &self.nodes[&key];
        let start = (node.depth - 1) * PAGE;
        for (nth, kept) in node.tails.iter().enumerate() {
            let low = kept.tail.position() - kept.tail.slack();
            if low > start + common {
                continue;
            }
            let joint = (low.saturating_sub(start)..=common).rev().find_map(|most| {
                prompt.joint(at, &node.spelling, most).filter(|&(_, next)| next < prompt.len())
            });
            if let Some((joint, next)) = joint
                && start + joint >= low
            {
                search.offer(prompt, Place { node: key, tail: Some(nth), cached: start + joint, next });
            }
        }
    }
}

/// What a search has come to.
struct Search {
    best: Place,
    /// Tokens that the prompt has in common with something that is kept.
    common: usize,
    /// Whether something that is kept goes on differently there.
    goes_on: bool,
}

impl Search {
    fn offer(&mut self, prompt: &Spelling, place: Place) {
        // The shortest rest wins; among equals a page's end, which is copied more cheaply.
        if place.next < prompt.len() && place.next > self.best.next {
            self.best = place;
        }
    }

    fn saw(&mut self, common: usize, goes_on: bool) {
        if common > self.common {
            (self.common, self.goes_on) = (common, goes_on);
        } else if common == self.common {
            self.goes_on |= goes_on;
        }
    }
}

impl<B: Ops> Found<B> {
    /// How many of its pages are in use by others, so that going on from them takes no memory.
    pub(crate) fn pages_in_use(&self) -> usize {
        // Two hold each in any case: the cache and this.
        let in_use = |page: &&Arc<Page<B>>| page.is_shared() || Arc::strong_count(page) > 2;
        self.pages.iter().filter(in_use).count()
    }

    /// The state as a conversation of its own.
    pub(crate) fn timeline(&self, ops: &B, config: &Config, format: KvFormat) -> Timeline<B> {
        // Only the last page's end can be needed, and a conversation should not hold the others.
        let last = self.pages.len().saturating_sub(1);
        let slim = |(nth, page): (usize, &Arc<Page<B>>)| {
            if nth < last && page.has_end() { Arc::new(page.without_end()) } else { page.clone() }
        };
        let pages: Vec<_> = self.pages.iter().enumerate().map(slim).collect();
        let mut timeline = match &self.tail {
            Some((_, tail)) => Timeline::from_tail(pages, tail),
            None => Timeline::from_pages(ops, config, format, pages),
        };
        let left = timeline.cut_back(ops, self.cached);
        assert_eq!(left, self.cached, "the place was chosen because one can go on there");
        timeline
    }
}
