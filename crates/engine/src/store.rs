//! The page store: pages and tails of conversations on disk, or wherever objects can be kept, so that what was
//! read once need not be read again after a restart, or by another machine.
//!
//! Start at [`PageStore::open`]. *Saving* ([`PageStore::save_page`], [`PageStore::save_tail`]) never waits: what
//! is to be saved is put on a queue for the store's own thread, or dropped if too much waits already. *Finding*
//! goes through memory: the store knows the tree of all it has ([`PageStore::children`],
//! [`PageStore::resume_from`]). *Loading* ([`PageStore::load_page`], [`PageStore::load_tail`]) reads and checks,
//! and is best done on a thread that nobody waits for.
//!
//! One object a page, without the rows at its end, and one a tail; the end of a page is a tail of no tokens, so
//! inner ends can be given up and the page stays. Their form is that of [`model::snapshot`], their names are
//! their keys; `docs/page-store.md` has all of it.
//!
//! What can go wrong is a miss, counted in [`StoreStats`], and never wrong state: objects appear whole or not at
//! all, and everything is checked when it is loaded (the hash of all bytes, the key against tokens and parent,
//! the model and the KV format). Several processes may use one place: an object's name says what is in it,
//! so they can only agree, and what one of them removes is a miss for the others.
//!
//! For whoever keeps pages in memory and wants the store beneath them:
//!
//! - a page that was finished: `save_page`; before it, the page's parent, or it is dropped as leading nowhere;
//! - a tail worth coming back to, or everything at shutdown: `save_tail`; what is there already costs nothing;
//! - a prompt: walk `children` from [`PageStore::root`] as in memory (tokens are there), load what is better
//!   than what memory has, put it into memory, and go on from there; if a load fails, it is a miss;
//! - the end: [`PageStore::settle`] waits for what was queued.

mod about;
mod catalog;
mod index;
mod queue;
mod shelf;
mod stats;

pub mod offline;

pub use index::Entry;
pub use shelf::{Place, PlaceError};
pub use stats::StoreStats;

use index::Index;
use model::snapshot::{Head, SnapshotError};
use model::{Codec, Ops, Page, PageKey, Tail, Timeline};
use object_store::Error;
use queue::{Item, Queue};
use shelf::Shelf;
use stats::{Counters, count};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a store works.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The most bytes that it may have. While something is written, it may have that much more.
    pub limit: u64,
    /// The most bytes that may wait to be written.
    pub waiting: u64,
    /// How long to leave the place alone after a write failed. Doubles with each failure, up to 64 times this.
    pub rest: Duration,
    /// What the model is called, for people who look at the store; see [`offline`].
    pub model: Option<String>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { limit: 32 << 30, waiting: 256 << 20, rest: Duration::from_secs(5), model: None }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The place cannot be used.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What is there cannot be listed.
    #[error("listing what is in the page store: {0}")]
    List(#[from] Error),
}

/// What became of something that was to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is there already, or waits already.
    Known,
    /// It will be written.
    Queued,
    /// Not now: too much waits, writing fails at the moment, or the page before it is not there.
    Dropped,
}

/// Pages and tails of one model in one KV format. Copies are the same store; when the last one is dropped, what
/// waits is written.
#[derive(Clone)]
pub struct PageStore(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    shelf: Shelf,
    drawer: String,
    codec: Codec,
    options: StoreOptions,
    index: Mutex<Index>,
    queue: Queue,
    counters: Counters,
    /// Failures in a row, and when to try again.
    resting: Mutex<(u32, Option<Instant>)>,
    /// Changes that the catalog does not have.
    unlisted: AtomicU64,
}

/// Changes after which the catalog is written.
const CATALOG_EVERY: u64 = 128;

/// When room is made, so much more is, as a part of the limit: listing the place costs something.
const ROOM: u64 = 16;

impl PageStore {
    /// Opens the store at a place, or begins one. Objects that are short, damaged or foreign are removed.
    ///
    /// # Errors
    ///
    /// If the place cannot be used.
    pub fn open(place: &Place, codec: Codec, options: StoreOptions) -> Result<PageStore, StoreError> {
        let shelf = Shelf::new(place, true)?;
        let drawer = drawer(&codec.root());
        let opened = shelf.open_drawer(&drawer);
        opened.map_err(|error| PlaceError::Folder { path: format!("{place}/{drawer}").into(), error })?;
        if let Some(model) = &options.model {
            about::write(&shelf, &drawer, model);
        }
        let shared = Arc::new(Shared {
            shelf,
            drawer,
            codec,
            options,
            index: Mutex::default(),
            queue: Queue::default(),
            counters: Counters::default(),
            resting: Mutex::default(),
            unlisted: AtomicU64::new(0),
        });
        shared.learn()?;
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("page store".into());
        let thread = thread.spawn(move || theirs.write_all()).map_err(PlaceError::Runtime)?;
        Ok(PageStore(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Whether it is elsewhere than in a folder of this machine.
    pub fn is_remote(&self) -> bool {
        self.0.shared.shelf.is_remote()
    }

    /// The key of no tokens: parent of all first pages.
    pub fn root(&self) -> PageKey {
        self.0.shared.codec.root()
    }

    /// Saves a page, and its end if it has one. Does not wait.
    ///
    /// - `parent`: key of the page before it; `index`: pages before it
    pub fn save_page<B: Ops + 'static>(&self, parent: &PageKey, index: usize, page: &Arc<Page<B>>) -> Saved {
        let shared = &self.0.shared;
        let head = |tokens: &[u32], is_page, parent: &PageKey, pages, bytes| Head {
            is_page,
            key: parent.child(tokens),
            parent: *parent,
            pages,
            tokens: tokens.to_vec(),
            has_end: !is_page,
            slack: 0,
            bytes,
        };
        let rows = head(page.tokens(), true, parent, index, shared.codec.page_len(index, false));
        let key = rows.key;
        let (codec, page_then, parent) = (shared.codec.clone(), page.clone(), *parent);
        let saved = shared.put(rows, move || codec.page_to_bytes(&parent, index, &page_then.without_end()));
        if saved == Saved::Dropped || !page.has_end() {
            return saved;
        }
        let end = head(&[], false, &key, index + 1, shared.codec.tail_len((index + 1) * model::PAGE, 0));
        let (codec, page) = (shared.codec.clone(), page.clone());
        let end = shared.put(end, move || codec.end_to_bytes(&key, index, &page).expect("it has an end"));
        if saved == Saved::Known { end } else { saved }
    }

    /// Saves a tail. Does not wait.
    ///
    /// - `parent`: key of the page before it, or [`PageStore::root`]
    pub fn save_tail<B: Ops + 'static>(&self, parent: &PageKey, tail: &Arc<Tail<B>>) -> Saved {
        let shared = &self.0.shared;
        let head = Head {
            is_page: false,
            key: parent.child(tail.tokens()),
            parent: *parent,
            pages: tail.pages(),
            tokens: tail.tokens().to_vec(),
            has_end: true,
            slack: tail.slack(),
            bytes: shared.codec.tail_len(tail.position(), tail.slack()),
        };
        let (codec, tail, parent) = (shared.codec.clone(), tail.clone(), *parent);
        shared.put(head, move || codec.tail_to_bytes(&parent, &tail))
    }

    /// What follows a page, or begins a conversation: pages, and tails. All are written.
    pub fn children(&self, parent: &PageKey) -> Vec<Entry> {
        self.0.shared.index().children(parent).cloned().collect()
    }

    /// A page or tail, if the store has it.
    pub fn entry(&self, key: &PageKey) -> Option<Entry> {
        self.0.shared.index().get(key).cloned()
    }

    /// The keys of all pages before an entry, first to last; `None` if one of them is missing.
    pub fn path(&self, entry: &Entry) -> Option<Vec<PageKey>> {
        self.0.shared.index().path(entry, &self.root())
    }

    /// The longest part of `tokens` from which one can go on: its last page or tail, and how many of the
    /// tokens it has. With fewer than all tokens of a tail one can go on within its slack.
    pub fn resume_from(&self, tokens: &[u32]) -> Option<(Entry, usize)> {
        let index = self.0.shared.index();
        let mut best: Option<(&Entry, usize)> = None;
        let mut at = Some(self.root());
        let mut position = 0;
        while let Some(parent) = at.take() {
            let rest = &tokens[position..];
            for entry in index.children(&parent) {
                let common = entry.tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
                let whole = common == entry.tokens.len();
                if entry.has_end && entry.tokens.len() - common <= entry.slack {
                    let known = position + common;
                    if best.is_none_or(|(_, best)| known > best) {
                        best = Some((entry, known));
                    }
                }
                if entry.is_page && whole {
                    at = Some(entry.key);
                }
            }
            position += if at.is_some() { model::PAGE } else { 0 };
        }
        best.map(|(entry, known)| (entry.clone(), known))
    }

    /// Reads a page; `None` is a miss.
    pub fn load_page<B: Ops>(&self, ops: &B, key: &PageKey) -> Option<Page<B>> {
        let shared = &self.0.shared;
        shared.load(key, true, |bytes| shared.codec.page_from_bytes(ops, bytes))
    }

    /// Reads a tail; `None` is a miss.
    pub fn load_tail<B: Ops>(&self, ops: &B, key: &PageKey) -> Option<Tail<B>> {
        let shared = &self.0.shared;
        shared.load(key, false, |bytes| shared.codec.tail_from_bytes(ops, bytes))
    }

    /// Reads a whole conversation: a tail and all pages before it. `None` is a miss.
    pub fn load<B: Ops>(&self, ops: &B, key: &PageKey) -> Option<Timeline<B>> {
        let entry = self.entry(key).filter(|entry| !entry.is_page)?;
        let pages = self.path(&entry)?;
        let pages = pages.iter().map(|key| self.load_page(ops, key).map(Arc::new)).collect::<Option<_>>()?;
        Some(Timeline::from_tail(pages, &self.load_tail(ops, key)?))
    }

    /// Saves a whole conversation, waiting where too much waits. Returns the key of its end, which may have been
    /// evicted if there is little room; `None` if it could not be written.
    pub fn save<B: Ops + 'static>(&self, timeline: &Timeline<B>, patience: Duration) -> Option<PageKey> {
        let end = Instant::now() + patience;
        let dropped = self.stats().dropped;
        let saved = self.save_once(timeline, end);
        if self.stats().dropped == dropped {
            return saved;
        }
        // Somebody else has removed pages that were thought to be there: by now that is known.
        self.save_once(timeline, end)
    }

    fn save_once<B: Ops + 'static>(&self, timeline: &Timeline<B>, end: Instant) -> Option<PageKey> {
        let again = |put: &dyn Fn() -> Saved| loop {
            let waiting = self.0.shared.queue.bytes();
            match put() {
                // Unless too much waits, trying again does not help.
                Saved::Dropped if waiting == 0 || self.0.shared.is_resting() || Instant::now() > end => {
                    return None;
                }
                Saved::Dropped => self.settle(end.saturating_duration_since(Instant::now())),
                Saved::Known | Saved::Queued => return Some(()),
            };
        };
        let failed = self.stats().failed;
        let mut key = self.root();
        for (index, page) in timeline.pages().iter().enumerate() {
            again(&|| self.save_page(&key, index, page))?;
            key = key.child(page.tokens());
        }
        let tail = Arc::new(timeline.tail(model::SLACK));
        again(&|| self.save_tail(&key, &tail))?;
        let settled = self.settle(end.saturating_duration_since(Instant::now()));
        (settled && self.stats().failed == failed).then(|| key.child(tail.tokens()))
    }

    /// Waits until what was queued is written, at most so long. Returns whether it is.
    pub fn settle(&self, patience: Duration) -> bool {
        self.0.shared.queue.settle(patience)
    }

    /// What it has and does.
    pub fn stats(&self) -> StoreStats {
        let shared = &self.0.shared;
        let index = shared.index();
        let pages = index.entries().filter(|entry| entry.is_page).count() as u64;
        StoreStats {
            pages,
            tails: index.entries().count() as u64 - pages,
            bytes: index.bytes(),
            limit: shared.options.limit,
            waiting: shared.queue.bytes(),
            is_remote: self.is_remote(),
            ..shared.counters.read()
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // If it panicked, what it had is lost, and that is a miss.
            let _ = thread.join();
        }
        self.shared.write_catalog();
    }
}

/// The drawer of a model and KV format. Its first part is the version of everything in it.
pub(crate) fn drawer(root: &PageKey) -> String {
    format!("v1-{}", &root.to_string()[..32])
}

/// Whether a folder has the name of a drawer of this version.
pub(crate) fn is_drawer(folder: &str) -> bool {
    let digits = folder.strip_prefix("v1-").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of a page or tail.
fn name(key: &PageKey, is_page: bool) -> String {
    format!("{key}.{}", if is_page { "page" } else { "tail" })
}

/// The key in a name, and whether it is of a page.
pub(crate) fn parse_name(name: &str) -> Option<(PageKey, bool)> {
    let (key, kind) = name.split_once('.')?;
    let is_page = match kind {
        "page" => true,
        "tail" => false,
        _ => return None,
    };
    Some((key.parse().ok()?, is_page))
}

/// Milliseconds since 1970.
fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn now() -> u64 {
    milliseconds(SystemTime::now())
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what is there and takes note of what is new: from the catalog, or by looking into it.
    fn learn(&self) -> Result<(), Error> {
        let listed = self.shelf.list(&self.drawer)?;
        let mut unknown = Vec::new();
        {
            let mut index = self.index();
            let here: HashMap<PageKey, u64> =
                listed.iter().filter_map(|o| Some((parse_name(&o.name)?.0, o.bytes))).collect();
            let gone: Vec<_> = index.entries().filter(|e| here.get(&e.key) != Some(&e.bytes)).collect();
            let gone: Vec<_> = gone.into_iter().map(|entry| entry.key).collect();
            for key in gone {
                index.remove(&key);
            }
            for object in listed {
                match parse_name(&object.name) {
                    Some((key, _)) if index.get(&key).is_none() => unknown.push(object),
                    _ => {}
                }
            }
        }
        if unknown.len() > 1 {
            let known = self.read_catalog();
            let mut index = self.index();
            unknown.retain(|object| {
                let key = parse_name(&object.name).map(|(key, _)| key);
                let entry = key.and_then(|key| known.get(&key)).filter(|entry| {
                    entry.bytes == object.bytes && name(&entry.key, entry.is_page) == object.name
                });
                entry.map(|entry| index.insert(entry.clone())).is_none()
            });
        }
        let heads = self.shelf.beginnings(&self.drawer, &unknown, Head::MOST_BYTES as u64);
        for (object, bytes) in unknown.iter().zip(heads) {
            let Ok(bytes) = bytes else { continue }; // gone in the meantime, or a miss when it is wanted
            match self.look(&object.name, object.bytes, &bytes) {
                Ok(head) => self.index().insert(Entry::new(head, milliseconds(object.written))),
                Err(error) => {
                    self.counters.count_bad(&error);
                    // What cannot be removed now is a miss the next time, too.
                    let _ = self.shelf.remove(&self.drawer, &object.name);
                }
            }
        }
        self.unlisted.fetch_add(unknown.len() as u64, Relaxed);
        Ok(())
    }

    fn read_catalog(&self) -> HashMap<PageKey, Entry> {
        let bytes = self.shelf.get(&self.drawer, catalog::NAME, 1 << 32).ok().flatten().unwrap_or_default();
        catalog::from_bytes(&bytes).into_iter().map(|entry| (entry.key, entry)).collect()
    }

    /// Checks what an object says of itself against its name and size.
    fn look(&self, object: &str, size: u64, bytes: &[u8]) -> Result<Head, SnapshotError> {
        let head = self.codec.head_from_bytes(bytes)?;
        if head.bytes != size {
            return Err(SnapshotError::Length { found: size, need: head.bytes });
        }
        match name(&head.key, head.is_page) == object {
            true => Ok(head),
            false => Err(SnapshotError::Damaged("it is not what its name says")),
        }
    }

    fn put(&self, head: Head, make: impl FnOnce() -> Vec<u8> + Send + 'static) -> Saved {
        {
            let mut index = self.index();
            if index.get(&head.key).is_some() {
                index.touch(&head.key, now());
                return Saved::Known;
            }
            if self.queue.has(&head.key) {
                return Saved::Known;
            }
            let leads_on = head.parent == self.codec.root()
                || index.get(&head.parent).is_some()
                || self.queue.has(&head.parent);
            if !leads_on || self.is_resting() {
                count(&self.counters.dropped);
                return Saved::Dropped;
            }
        }
        let item = Item { entry: Entry::new(head, now()), make: Box::new(make) };
        match self.queue.push(item, self.options.waiting) {
            true => Saved::Queued,
            false => {
                count(&self.counters.dropped);
                Saved::Dropped
            }
        }
    }

    fn load<T>(
        &self,
        key: &PageKey,
        is_page: bool,
        read: impl FnOnce(&[u8]) -> Result<(Head, T), SnapshotError>,
    ) -> Option<T> {
        let entry = self.index().get(key).filter(|entry| entry.is_page == is_page).cloned()?;
        let name = name(key, is_page);
        let bytes = match self.shelf.get(&self.drawer, &name, entry.bytes) {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => {
                count(&self.counters.gone);
                self.index().remove(key);
                // It hardly went alone. If nothing can be learned, the others are misses one by one.
                let _ = self.learn();
                return None;
            }
            Err(_) => {
                count(&self.counters.unreadable);
                return None;
            }
        };
        let found = match bytes {
            Some(bytes) => read(&bytes),
            None => Err(SnapshotError::Damaged("it is larger than it was")),
        };
        match found {
            Ok((head, found)) if head.key == *key => {
                count(&self.counters.loaded);
                self.counters.loaded_bytes.fetch_add(entry.bytes, Relaxed);
                self.index().touch(key, now());
                Some(found)
            }
            bad => {
                let error = bad.err().unwrap_or(SnapshotError::Damaged("it is not what its name says"));
                self.counters.count_bad(&error);
                self.index().remove(key);
                // What cannot be removed now is a miss the next time, too.
                let _ = self.shelf.remove(&self.drawer, &name);
                None
            }
        }
    }

    /// The writing thread.
    fn write_all(&self) {
        while let Some(Item { entry, make }) = self.queue.pop() {
            self.write(&entry, make);
            self.queue.done(&entry);
        }
    }

    fn write(&self, entry: &Entry, make: Box<dyn FnOnce() -> Vec<u8> + Send>) {
        if self.is_resting() || !self.leads_on(entry) {
            return count(&self.counters.dropped);
        }
        let bytes = make();
        debug_assert_eq!(bytes.len() as u64, entry.bytes, "the codec knows its lengths");
        match self.shelf.put(&self.drawer, &name(&entry.key, entry.is_page), bytes) {
            Ok(()) => {
                count(&self.counters.written);
                self.counters.written_bytes.fetch_add(entry.bytes, Relaxed);
                *self.resting() = (0, None);
                self.index().insert(entry.clone());
            }
            Err(_) => {
                count(&self.counters.failed);
                let mut resting = self.resting();
                let rest = self.options.rest * (1 << resting.0.min(6));
                *resting = (resting.0 + 1, Some(Instant::now() + rest));
            }
        }
        self.make_room();
        if self.unlisted.fetch_add(1, Relaxed) + 1 >= CATALOG_EVERY {
            self.write_catalog();
        }
    }

    /// Whether the page before an entry is there, also by now: somebody else may have removed it.
    fn leads_on(&self, entry: &Entry) -> bool {
        if entry.parent == self.codec.root() {
            return true;
        }
        if self.index().get(&entry.parent).is_none() {
            return false;
        }
        let gone = matches!(self.shelf.has(&self.drawer, &name(&entry.parent, true)), Ok(false));
        if gone {
            // It hardly went alone. If nothing can be learned, others are found missing one by one.
            self.index().remove(&entry.parent);
            let _ = self.learn();
        }
        !gone
    }

    fn resting(&self) -> MutexGuard<'_, (u32, Option<Instant>)> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_resting(&self) -> bool {
        self.resting().1.is_some_and(|until| Instant::now() < until)
    }

    /// Removes what is worth least if there is too much.
    fn make_room(&self) {
        let limit = self.options.limit;
        if self.index().bytes() <= limit {
            return;
        }
        // Others may have written, read or removed something.
        if self.learn().is_err() {
            return count(&self.counters.failed);
        }
        let victims = {
            let index = self.index();
            let excess = index.bytes().saturating_sub(limit - limit / ROOM);
            if index.bytes() <= limit { Vec::new() } else { index.victims(&self.codec.root(), now(), excess) }
        };
        for key in victims {
            let removed = self.index().remove(&key);
            let Some(entry) = removed else { continue };
            match self.shelf.remove(&self.drawer, &name(&key, entry.is_page)) {
                Ok(()) => count(&self.counters.evicted),
                Err(_) => count(&self.counters.failed),
            }
        }
    }

    fn write_catalog(&self) {
        if self.unlisted.swap(0, Relaxed) == 0 {
            return;
        }
        let bytes = catalog::to_bytes(self.index().entries());
        if self.shelf.put(&self.drawer, catalog::NAME, bytes).is_err() {
            count(&self.counters.failed);
        }
    }
}
