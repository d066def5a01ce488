//! The state of one conversation: append-only logs that can be cut back.
//!
//! A [`Timeline`] is token ids, finished [`Page`]s and a tail. A page holds the compressed rows of
//! [`PAGE`] consecutive tokens and, unless that was dropped, what is needed to continue after them; it never
//! changes, so forks and caches share it. The tail holds the rows of the unfinished page, and, of each layer, the last window
//! rows and the compressors' pending inputs ("frontier"), with slack so that cutting back by up to
//! [`SLACK`] tokens is exact and free.
//!
//! **Invariant:** pages and tail describe exactly the timeline's tokens, before and after every method.
//!
//! What must be kept to continue at position p, by layer (the sections below call it "needed at p"):
//!
//! | log | positions needed at p |
//! |---|---|
//! | window | the last `window - 1` |
//! | frontier, ratio 4 | from `4·(p/4) - 4`: the window before is needed once more |
//! | frontier, ratio 128 | from `128·(p/128)` |
//!
//! [`PAGE`] is a multiple of both ratios, so at a page's end the frontier is one window of ratio 4.

use crate::config::{Config, Ratio};
use crate::kv::{KvFormat, RowLayout};
use crate::ops::{Blocks, Ops, RowStore};
use crate::page::{Page, PageEnd, PageRows};
use crate::tail::Tail;
use std::sync::Arc;

/// Tokens in a page.
pub const PAGE: usize = 1024;

/// Cutting back by up to this many tokens needs no recomputation.
pub const SLACK: usize = 64;

/// The state of one conversation on a backend.
pub struct Timeline<B: Ops> {
    tokens: Vec<u32>,
    pages: Vec<Arc<Page<B>>>,
    layers: Vec<LayerTail<B>>,
    /// Layer by layer what the ends of those pages need that a forward pass is about to finish.
    ends: Vec<Vec<PageEnd<B>>>,
    shape: Shape,
}

/// What a timeline needs to know of its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) format: KvFormat,
    pub(crate) window: usize,
    pub(crate) latent: RowLayout,
    pub(crate) index: RowLayout,
    pub(crate) ratios: Vec<Ratio>,
}

/// The unfinished part of one layer's state.
pub(crate) struct LayerTail<B: Ops> {
    pub(crate) window: Log<B>,
    pub(crate) compressor: Option<CompressorTail<B>>,
    pub(crate) indexer: Option<CompressorTail<B>>,
}

/// A compressor's pending inputs, and its rows since the last page.
pub(crate) struct CompressorTail<B: Ops> {
    pub(crate) frontier: Log<B>,
    pub(crate) rows: B::Rows,
}

/// Rows of consecutive positions, of which the oldest can be forgotten.
pub(crate) struct Log<B: Ops> {
    pub(crate) rows: B::Rows,
    /// Position of the first row.
    pub(crate) base: usize,
}

impl<B: Ops> Log<B> {
    pub(crate) fn new(ops: &B, layout: RowLayout, layer: usize, base: usize) -> Self {
        Log { rows: ops.rows(layout, layer), base }
    }

    /// Forgets rows before `from`, once they outnumber those that stay: moving rows is rare then.
    pub(crate) fn trim(&mut self, from: usize) {
        let (old, all) = (from.saturating_sub(self.base), self.rows.len());
        if old > all - old.min(all) {
            self.rows.drop_front(old);
            self.base += old;
        }
    }

    /// Position after the last row.
    pub(crate) fn end(&self) -> usize {
        self.base + self.rows.len()
    }

    /// Forgets the rows from position `to` on.
    pub(crate) fn truncate(&mut self, to: usize) {
        self.rows.truncate(to.checked_sub(self.base).expect("the log reaches back that far"));
    }

    /// A copy that begins at position `from`.
    fn from(&self, from: usize) -> Self {
        Log { rows: self.between(from, self.end()), base: from }
    }

    /// A copy of the rows from position `from` to before `to`.
    fn between(&self, from: usize, to: usize) -> B::Rows {
        self.rows.slice(from - self.base..to - self.base)
    }

    fn copy(&self) -> Self {
        Log { rows: self.rows.copy_to_grow(), base: self.base }
    }
}

impl Shape {
    pub(crate) fn new(config: &Config, format: KvFormat) -> Shape {
        Shape {
            format,
            window: config.window,
            latent: format.latent(config),
            index: format.index(config),
            ratios: config.ratios.clone(),
        }
    }

    /// First window position needed at `p`.
    pub(crate) fn window_from(&self, p: usize) -> usize {
        p.saturating_sub(self.window - 1)
    }

    /// Layout of one token's k and g: exact in every KV format.
    pub(crate) fn frontier(&self, ratio: Ratio, row: RowLayout) -> RowLayout {
        RowLayout::F32 { width: 2 * ratio.inner_width(row.width()) }
    }

    /// The compressors of a layer: attention's and the indexer's, with the layout of their rows.
    pub(crate) fn compressors(&self, layer: usize) -> [Option<(Ratio, RowLayout)>; 2] {
        let ratio = self.ratios[layer];
        [
            (ratio != Ratio::None).then_some((ratio, self.latent)),
            (ratio == Ratio::Csa).then_some((ratio, self.index)),
        ]
    }

    fn empty_layer<B: Ops>(&self, ops: &B, layer: usize) -> LayerTail<B> {
        let [compressor, indexer] = self.compressors(layer).map(|part| {
            part.map(|(ratio, row)| CompressorTail {
                frontier: Log::new(ops, self.frontier(ratio, row), layer, 0),
                rows: ops.rows(row, layer),
            })
        });
        LayerTail { window: Log::new(ops, self.latent, layer, 0), compressor, indexer }
    }
}

impl<B: Ops> LayerTail<B> {
    pub(crate) fn parts(&self) -> [Option<&CompressorTail<B>>; 2] {
        [self.compressor.as_ref(), self.indexer.as_ref()]
    }

    fn parts_mut(&mut self) -> [Option<&mut CompressorTail<B>>; 2] {
        [self.compressor.as_mut(), self.indexer.as_mut()]
    }

    /// Device memory in use, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let part = |p: &CompressorTail<B>| p.frontier.rows.memory() + p.rows.memory();
        self.window.rows.memory() + self.parts().into_iter().flatten().map(part).sum::<usize>()
    }

    fn copy(&self) -> Self {
        let part = |p: &CompressorTail<B>| CompressorTail {
            frontier: p.frontier.copy(),
            rows: p.rows.copy_to_grow(),
        };
        LayerTail {
            window: self.window.copy(),
            compressor: self.compressor.as_ref().map(part),
            indexer: self.indexer.as_ref().map(part),
        }
    }
}

impl<B: Ops> Timeline<B> {
    /// A conversation of no tokens.
    ///
    /// # Panics
    ///
    /// If `format` does not suit the model; see [`KvFormat::check`].
    pub fn new(ops: &B, config: &Config, format: KvFormat) -> Self {
        format.check(config).expect("the caller checks the KV format");
        let shape = Shape::new(config, format);
        let layers = (0..shape.ratios.len()).map(|layer| shape.empty_layer(ops, layer)).collect();
        Timeline { tokens: Vec::new(), pages: Vec::new(), layers, ends: Vec::new(), shape }
    }

    /// A conversation that consists of these pages, which follow one another.
    ///
    /// # Panics
    ///
    /// As [`Timeline::new`], and if the last page has no end.
    pub fn from_pages(ops: &B, config: &Config, format: KvFormat, pages: Vec<Arc<Page<B>>>) -> Self {
        let mut timeline = Timeline::new(ops, config, format);
        timeline.tokens = pages.iter().flat_map(|page| page.tokens().iter().copied()).collect();
        timeline.pages = pages;
        timeline.restore_page_end(ops);
        timeline
    }

    /// A conversation that consists of these pages, which follow one another, and a copy of this tail.
    ///
    /// # Panics
    ///
    /// If the tail follows another number of pages.
    pub fn from_tail(pages: Vec<Arc<Page<B>>>, tail: &Tail<B>) -> Self {
        assert_eq!(pages.len(), tail.pages, "the tail follows these pages");
        let before = pages.iter().flat_map(|page| page.tokens());
        Timeline {
            tokens: before.chain(&tail.tokens).copied().collect(),
            pages,
            layers: tail.layers.iter().map(LayerTail::copy).collect(),
            ends: Vec::new(),
            shape: tail.shape.clone(),
        }
    }

    /// A copy of the tail that can be cut back by up to `slack` tokens without recomputation, as far as rows
    /// are there.
    pub fn tail(&self, slack: usize) -> Tail<B> {
        let (pages, p) = (self.pages.len(), self.len());
        let reaches = |s: &usize| self.reaches_back_to(p - s);
        let slack = (0..=slack.min(p)).rev().find(reaches).expect("it reaches back to itself");
        let from = p - slack;
        let layers = self.layers.iter().zip(&self.shape.ratios).map(|(layer, ratio)| {
            let part = |part: &CompressorTail<B>| CompressorTail {
                frontier: part.frontier.from(ratio.frontier_from(from)),
                rows: part.rows.slice(0..part.rows.len()),
            };
            LayerTail {
                window: layer.window.from(self.shape.window_from(from)),
                compressor: layer.compressor.as_ref().map(part),
                indexer: layer.indexer.as_ref().map(part),
            }
        });
        Tail {
            pages,
            tokens: self.tokens[pages * PAGE..].to_vec(),
            slack,
            layers: layers.collect(),
            shape: self.shape.clone(),
        }
    }

    /// Shares a page with others that have the same one.
    ///
    /// # Panics
    ///
    /// If the page has other tokens.
    pub fn share_page(&mut self, index: usize, page: Arc<Page<B>>) {
        assert_eq!(self.pages[index].tokens(), page.tokens(), "the same page");
        self.pages[index] = page;
    }

    /// All tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens so far: the position of the next one.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The finished pages.
    pub fn pages(&self) -> &[Arc<Page<B>>] {
        &self.pages
    }

    /// How rows are stored.
    pub fn format(&self) -> KvFormat {
        self.shape.format
    }

    /// Tokens that still fit into the unfinished page.
    pub fn room(&self) -> usize {
        PAGE - self.len() % PAGE
    }

    /// Device memory of the tail, in bytes; pages are shared and count for themselves.
    pub fn tail_memory(&self) -> usize {
        self.layers.iter().map(LayerTail::memory).sum()
    }

    /// A second conversation with the same past: pages are shared, the tail is copied.
    pub fn fork(&self) -> Self {
        Timeline {
            tokens: self.tokens.clone(),
            pages: self.pages.clone(),
            layers: self.layers.iter().map(LayerTail::copy).collect(),
            ends: Vec::new(),
            shape: self.shape.clone(),
        }
    }

    /// Cuts back to the first `to` tokens, or, where that needs rows that were forgotten, further back to
    /// the end of a page that still has its end. Returns how many tokens are left; the caller feeds the rest
    /// again.
    ///
    /// Cutting back by up to [`SLACK`] tokens is always exact, unless the timeline was loaded or cut back
    /// to a page's end before: then it is exact as far as rows are there.
    pub fn cut_back(&mut self, ops: &B, to: usize) -> usize {
        if to >= self.len() {
            return self.len();
        }
        if self.reaches_back_to(to) {
            self.cut_tail(to);
        } else {
            self.pages.truncate(to / PAGE);
            self.cut_to_page_end(ops);
        }
        self.len()
    }

    /// Cuts back to the last page that has its end.
    fn cut_to_page_end(&mut self, ops: &B) {
        while self.pages.last().is_some_and(|page| !page.has_end()) {
            self.pages.pop();
        }
        self.tokens.truncate(self.pages.len() * PAGE);
        self.restore_page_end(ops);
    }

    /// Forgets what a forward pass has left that did not finish, and goes back to the end of a page if it took
    /// rows away that are needed. Returns how many tokens are left; the caller feeds the rest again.
    pub fn undo(&mut self, ops: &B) -> usize {
        self.ends.clear();
        let p = self.len();
        let whole = self.reaches_back_to(p)
            && self.layers.iter().zip(&self.shape.ratios).all(|(layer, ratio)| {
                let rows = p % PAGE / ratio.tokens();
                layer.window.end() >= p
                    && layer
                        .parts()
                        .into_iter()
                        .flatten()
                        .all(|part| part.frontier.end() >= p && part.rows.len() >= rows)
            });
        if whole {
            self.cut_tail(p);
        } else {
            self.cut_to_page_end(ops);
        }
        self.len()
    }

    /// Whether everything needed at position `p` is still in the tail.
    pub(crate) fn reaches_back_to(&self, p: usize) -> bool {
        // At most the last page can come back into the tail.
        p + PAGE >= self.pages.len() * PAGE
            && self.layers.iter().zip(&self.shape.ratios).all(|(layer, ratio)| {
                layer.window.base <= self.shape.window_from(p)
                    && layer
                        .parts()
                        .into_iter()
                        .flatten()
                        .all(|part| part.frontier.base <= ratio.frontier_from(p))
            })
    }

    /// Cuts logs and rows to the first `to` tokens; the last page may come back into the tail.
    fn cut_tail(&mut self, to: usize) {
        let reopened = (to / PAGE < self.pages.len()).then(|| self.pages.pop().expect("a page"));
        for (idx, (layer, ratio)) in self.layers.iter_mut().zip(&self.shape.ratios).enumerate() {
            layer.window.truncate(to);
            let page_parts = reopened.as_ref().map(|page| page.rows()[idx].parts());
            for (nth, part) in layer.parts_mut().into_iter().enumerate() {
                let Some(part) = part else { continue };
                part.frontier.truncate(to);
                let rows = to % PAGE / ratio.tokens();
                match page_parts.and_then(|parts| parts[nth]) {
                    Some(page) => part.rows = page.slice(0..rows),
                    None => part.rows.truncate(rows),
                }
            }
        }
        self.tokens.truncate(to);
    }

    /// Makes the tail that of the last page's end.
    fn restore_page_end(&mut self, ops: &B) {
        let end = self.pages.len() * PAGE;
        for idx in 0..self.layers.len() {
            let mut layer = self.shape.empty_layer(ops, idx);
            if let Some(page) = self.pages.last() {
                let kept = &page.end().expect("the last page has its end")[idx];
                let copy = |rows: &B::Rows| Log { base: end - rows.len(), rows: rows.slice(0..rows.len()) };
                layer.window = copy(&kept.window);
                for (part, kept) in
                    layer.parts_mut().into_iter().flatten().zip(kept.parts().into_iter().flatten())
                {
                    part.frontier = copy(kept);
                }
            }
            self.layers[idx] = layer;
        }
    }

    /// The tail of a layer and the blocks of its finished pages, for the forward pass.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut LayerTail<B> {
        &mut self.layers[layer]
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerTail<B> {
        &self.layers[layer]
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Compressed rows of a layer from the first on.
    pub(crate) fn compressed(&self, layer: usize) -> Option<Blocks<'_, B::Rows>> {
        self.blocks(layer, |page| page.compressor.as_ref(), |tail| tail.compressor.as_ref())
    }

    /// Index rows of a layer from the first on.
    pub(crate) fn index_keys(&self, layer: usize) -> Option<Blocks<'_, B::Rows>> {
        self.blocks(layer, |page| page.indexer.as_ref(), |tail| tail.indexer.as_ref())
    }

    fn blocks<'a>(
        &'a self,
        layer: usize,
        in_page: impl Fn(&'a PageRows<B>) -> Option<&'a B::Rows>,
        in_tail: impl Fn(&'a LayerTail<B>) -> Option<&'a CompressorTail<B>>,
    ) -> Option<Blocks<'a, B::Rows>> {
        let tail = &in_tail(&self.layers[layer])?.rows;
        let pages = self.pages.iter().map(|page| in_page(&page.rows()[layer]).expect("pages and tail alike"));
        Some(Blocks {
            blocks: pages.chain([tail]).collect(),
            block_len: PAGE / self.shape.ratios[layer].tokens(),
        })
    }

    /// To be called for each layer in turn once it has all rows of the tokens before position `to`, and nobody reads
    /// them any more: keeps what the ends of pages need, and forgets what no token to come will see.
    pub(crate) fn settle(&mut self, layer: usize, to: usize) {
        let (shape, ratio, finished) = (&self.shape, self.shape.ratios[layer], self.pages.len());
        let tail = &mut self.layers[layer];
        self.ends.resize_with((to / PAGE).saturating_sub(finished), Vec::new);
        for (ends, page) in self.ends.iter_mut().zip(finished..) {
            let p = (page + 1) * PAGE;
            let [compressor, indexer] =
                tail.parts().map(|part| part.map(|part| part.frontier.between(ratio.frontier_from(p), p)));
            ends.push(PageEnd { window: tail.window.between(shape.window_from(p), p), compressor, indexer });
        }
        tail.window.trim(shape.window_from(to).saturating_sub(SLACK));
        for part in tail.parts_mut().into_iter().flatten() {
            part.frontier.trim(ratio.frontier_from(to.saturating_sub(SLACK)));
        }
    }

    /// Takes note of tokens whose rows the forward pass has appended to every layer; pages that are full are
    /// finished.
    pub(crate) fn commit(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        let ends = std::mem::take(&mut self.ends);
        let count = ends.len();
        for (nth, ends) in ends.into_iter().enumerate() {
            let rows = self.layers.iter().zip(&self.shape.ratios).map(|(layer, ratio)| {
                let rows = PAGE / ratio.tokens();
                // A copy takes no more memory than it needs, and the tail keeps its own for the next page.
                let [compressor, indexer] =
                    layer.parts().map(|part| part.map(|part| part.rows.slice(nth * rows..(nth + 1) * rows)));
                PageRows { compressor, indexer }
            });
            let (rows, start) = (rows.collect(), self.pages.len() * PAGE);
            let tokens = self.tokens[start..start + PAGE].into();
            self.pages.push(Arc::new(Page::new(tokens, rows, Some(ends))));
        }
        for (layer, ratio) in self.layers.iter_mut().zip(&self.shape.ratios).filter(|_| count > 0) {
            for part in layer.parts_mut().into_iter().flatten() {
                part.rows.drop_front(count * (PAGE / ratio.tokens()));
            }
        }
    }

    /// The last token is known by now; its page is not finished.
    pub(crate) fn amend(&mut self, token: u32) {
        *self.tokens.last_mut().expect("there is one") = token;
    }
}
