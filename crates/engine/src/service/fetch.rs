//! The page store beneath the cache: what memory has forgotten, or never had since the program was started.
//!
//! Reading from a disk takes its time, so it is done on a thread of its own ([`Fetcher`]): a job waits in the
//! queue meanwhile, and others go on. The thread looks for what is better than what memory has, in the same
//! way, and hands over pages and a tail, which the worker puts into the cache. What cannot be read is a miss.

use super::inbox::Inbox;
use super::slots::Command;
use crate::cache::Spelling;
use crate::loaded::LoadedModel;
use crate::store::{Entry, PageStore};
use model::{Ops, PAGE, Page, PageKey, Tail};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use text::Tokenizer;

/// From how many tokens on it is better to load than to read them.
pub(super) const WORTH_LOADING: usize = 16;

/// How often to look again after something could not be read: the store forgets what is damaged.
const TRIES: usize = 3;

/// What a job needs.
pub(super) struct Query {
    /// The job.
    pub(super) id: u64,
    pub(super) prompt: Arc<Spelling>,
    pub(super) any_spelling: bool,
    /// Pages that memory has.
    pub(super) have: Vec<PageKey>,
    /// How many tokens of the prompt are known to memory.
    pub(super) known: usize,
}

/// A conversation that is to be brought back.
pub(super) struct Recall {
    /// The key of its end.
    pub(super) key: PageKey,
    pub(super) command: Command,
}

/// What the thread is asked for.
enum Wanted {
    Prompt(Query),
    Conversation(Recall),
}

/// What it answers.
pub(super) enum Answer<B: Ops> {
    Prompt(Fetched<B>),
    /// A conversation, all of it, or `None` if the store does not have all of it.
    Conversation(Recall, Option<Fetched<B>>),
}

/// What was found for a job; nothing, if the store knows no more than memory.
pub(super) struct Fetched<B: Ops> {
    pub(super) id: u64,
    /// Pages in order, each with the key of the page before it.
    pub(super) pages: Vec<(PageKey, Arc<Page<B>>)>,
    pub(super) tail: Option<(PageKey, Tail<B>)>,
}

/// The thread that loads.
pub(super) struct Fetcher<B: Ops> {
    queries: Option<Sender<Wanted>>,
    pub(super) answers: Receiver<Answer<B>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Ops + 'static> Fetcher<B> {
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(super) fn start(
        store: PageStore,
        loaded: Arc<LoadedModel<B>>,
        inbox: Arc<Inbox>,
    ) -> std::io::Result<Self> {
        let (queries, asked) = channel::<Wanted>();
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new().name("ds4-fetch".to_owned()).spawn(move || {
            for wanted in asked {
                let found = match wanted {
                    Wanted::Prompt(query) => Answer::Prompt(fetch(&store, &loaded, &query)),
                    Wanted::Conversation(recall) => {
                        let found = whole(&store, &loaded.ops, &recall.key);
                        Answer::Conversation(recall, found)
                    }
                };
                if answer.send(found).is_err() {
                    return;
                }
                inbox.wake();
            }
        })?;
        Ok(Fetcher { queries: Some(queries), answers, thread: Some(thread) })
    }

    /// Looks for something; the answer comes in any case.
    pub(super) fn ask(&self, query: Query) -> bool {
        self.queries.as_ref().is_some_and(|queries| queries.send(Wanted::Prompt(query)).is_ok())
    }

    /// Brings a conversation back; the answer comes in any case.
    ///
    /// # Errors
    ///
    /// The same, if nobody is there to do it.
    pub(super) fn recall(&self, recall: Recall) -> Result<(), Recall> {
        let Some(queries) = &self.queries else { return Err(recall) };
        queries.send(Wanted::Conversation(recall)).map_err(|unsent| match unsent.0 {
            Wanted::Conversation(recall) => recall,
            Wanted::Prompt(_) => unreachable!("it was sent as a conversation"),
        })
    }
}

impl<B: Ops> Drop for Fetcher<B> {
    fn drop(&mut self) {
        self.queries = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, nothing more is found, and that is a miss.
            let _ = thread.join();
        }
    }
}

/// Finds and loads what is better than what memory has.
fn fetch<B: Ops>(store: &PageStore, loaded: &LoadedModel<B>, query: &Query) -> Fetched<B> {
    for _ in 0..TRIES {
        let Some(place) = search(store, &loaded.tokenizer, query) else { break };
        if place.next < query.known + WORTH_LOADING {
            break;
        }
        if let Some(fetched) = load(store, &loaded.ops, query, &place) {
            return fetched;
        }
    }
    Fetched { id: query.id, pages: Vec::new(), tail: None }
}

/// A whole conversation by the key of its end; `None` if a part of it is missing.
fn whole<B: Ops>(store: &PageStore, ops: &B, key: &PageKey) -> Option<Fetched<B>> {
    let entry = store.entry(key).filter(|entry| !entry.is_page)?;
    let (mut before, mut pages) = (store.root(), Vec::new());
    for key in store.path(&entry)? {
        pages.push((before, Arc::new(store.load_page(ops, &key)?)));
        before = key;
    }
    let tail = store.load_tail(ops, key)?;
    Some(Fetched { id: 0, pages, tail: Some((before, tail)) })
}

/// A place from which the prompt could go on.
struct Place {
    entry: Entry,
    /// The prompt's token that is next.
    next: usize,
}

/// The place that leaves the shortest rest to read.
fn search(store: &PageStore, tokenizer: &Tokenizer, query: &Query) -> Option<Place> {
    let mut best: Option<Place> = None;
    let mut open = vec![(store.root(), 0)];
    while let Some((key, at)) = open.pop() {
        for entry in store.children(&key) {
            let spelling = Spelling::new(tokenizer, entry.tokens.to_vec());
            let common = query.prompt.common(at, &spelling, query.any_spelling);
            if entry.is_page && common == PAGE {
                open.push((entry.key, at + spelling.bytes_len()));
            }
            if entry.is_page {
                continue; // its end is a tail of its own
            }
            let low = entry.tokens.len().saturating_sub(entry.slack);
            // One token has to be left to read.
            let joint = (low..=common).rev().find_map(|most| {
                query.prompt.joint(at, &spelling, most).filter(|&(_, next)| next < query.prompt.len())
            });
            if let Some((joint, next)) = joint
                && joint >= low
                && best.as_ref().is_none_or(|best| next > best.next)
            {
                best = Some(Place { entry, next });
            }
        }
    }
    best
}

/// `None` if a part of it cannot be read.
fn load<B: Ops>(store: &PageStore, ops: &B, query: &Query, place: &Place) -> Option<Fetched<B>> {
    let keys = store.path(&place.entry)?;
    let mut before = store.root();
    let mut pages = Vec::new();
    for key in keys {
        if !query.have.contains(&key) {
            pages.push((before, Arc::new(store.load_page(ops, &key)?)));
        }
        before = key;
    }
    let tail = store.load_tail(ops, &place.entry.key)?;
    Some(Fetched { id: query.id, pages, tail: Some((before, tail)) })
}
