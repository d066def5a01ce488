//! A store looked at from outside, without the model that filled it: what is there, whether it is sound, and
//! less of it.
//!
//! Others may use the store meanwhile. What they write or remove while somebody looks may be missed, and is never
//! called damage; what is removed here is a miss for them. Only pages, tails and catalogs in folders named as
//! drawers are ever removed: whatever else lies at the place is left alone.

use super::index::{Entry, Index};
use super::shelf::{Listed, Place, Shelf};
use super::{StoreError, about, catalog, drawer, is_drawer, milliseconds, name, now, parse_name};
use model::snapshot::{Head, Label, SnapshotError};
use model::{KvFormat, PageKey};
use std::collections::{HashMap, HashSet};

/// No page of any model comes near this many bytes; what is larger is not read.
const LARGEST: u64 = 1 << 30;

/// A store that nobody writes to for the moment, or somebody does.
pub struct Offline {
    shelf: Shelf,
}

/// All of one model in one KV format.
#[derive(Debug)]
pub struct Drawer {
    /// Its folder.
    pub name: String,
    /// What the model is called, as far as whoever filled it said so.
    pub model: Option<String>,
    /// Of the model, [`model::Model::fingerprint`]; `None` if nothing in it can be read.
    pub fingerprint: Option<[u8; 32]>,
    /// How rows are stored.
    pub format: Option<KvFormat>,
    /// Bytes of everything, other files included.
    pub bytes: u64,
    /// Objects that are not what they should be, as far as their beginnings show.
    pub faults: Vec<Fault>,
    index: Index,
    root: PageKey,
}

/// An object that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub object: Object,
    /// What kind of trouble that is.
    pub kind: FaultKind,
    /// What is wrong, in words.
    pub why: String,
}

/// What kind of trouble something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It is not what was written: a miss for whoever wants it.
    Damaged,
    /// It is sound, but a page before it is missing or damaged, so nobody can get to it.
    Unreachable,
    /// It could not be read.
    Unreadable,
    /// It is not a file of the page store. That harms nobody.
    Stray,
}

/// An object in a drawer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its drawer.
    pub drawer: String,
    /// Its name in the drawer.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A place in the store where a conversation can be taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Key of its end.
    pub key: PageKey,
    /// All its tokens.
    pub tokens: usize,
    /// Bytes that only it needs: its end, and pages that nothing else is behind.
    pub own: u64,
    /// Bytes that it needs in all.
    pub bytes: u64,
    /// When it was written or last read, in milliseconds since 1970.
    pub used: u64,
    /// Whether others go on behind it.
    pub is_inner: bool,
}

/// What should be kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// At most so many bytes in all; what is worth least goes first.
    pub bytes: Option<u64>,
    /// Only what was used since then, in milliseconds since 1970.
    pub since: Option<u64>,
}

/// What a thorough look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Pages and tails that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is not as it should be.
    pub faults: Vec<Fault>,
}

impl Offline {
    /// Looks at a store.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn open(place: &Place) -> Result<Offline, StoreError> {
        Ok(Offline { shelf: Shelf::new(place, false)? })
    }

    /// Everything that is there, by drawers; only the beginning of each object is read.
    ///
    /// # Errors
    ///
    /// If it cannot be listed.
    pub fn drawers(&self) -> Result<Vec<Drawer>, StoreError> {
        self.names()?.into_iter().map(|name| Ok(self.drawer(self.shelf.list(&name)?, name))).collect()
    }

    /// Whether anything at the place is a page store's: an empty place may become one.
    ///
    /// # Errors
    ///
    /// If it cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.shelf.folders()?;
        names.retain(|name| is_drawer(name));
        names.sort();
        Ok(names)
    }

    fn drawer(&self, objects: Vec<Listed>, folder: String) -> Drawer {
        let mut found = Drawer {
            model: about::read(&self.shelf, &folder),
            fingerprint: None,
            format: None,
            bytes: objects.iter().map(|object| object.bytes).sum(),
            faults: Vec::new(),
            index: Index::default(),
            root: PageKey([0; 32]),
            name: folder.clone(),
        };
        let (objects, other): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| parse_name(&object.name).is_some());
        found.faults.extend(other.iter().filter_map(stray));
        let used: HashMap<PageKey, u64> =
            self.catalog(&folder).into_iter().map(|entry| (entry.key, entry.used)).collect();
        let beginnings = self.shelf.beginnings(&folder, &objects, Head::MOST_BYTES as u64);
        for (object, bytes) in objects.iter().zip(beginnings) {
            let label = match bytes {
                Ok(bytes) => {
                    check_label(object, &bytes).map_err(|why| fault(object, FaultKind::Damaged, why))
                }
                Err(object_store::Error::NotFound { .. }) => continue, // gone in the meantime
                Err(error) => Err(fault(object, FaultKind::Unreadable, error.to_string())),
            };
            match label {
                Ok(label) => {
                    let root = PageKey::root(&label.fingerprint, label.format);
                    (found.fingerprint, found.format, found.root) =
                        (Some(label.fingerprint), Some(label.format), root);
                    let mut entry = entry(label, object);
                    entry.used = entry.used.max(used.get(&entry.key).copied().unwrap_or(0));
                    found.index.insert(entry);
                }
                Err(fault) => found.faults.push(fault),
            }
        }
        found
    }

    fn catalog(&self, drawer: &str) -> Vec<Entry> {
        let bytes = self.shelf.get(drawer, catalog::NAME, LARGEST).ok().flatten();
        catalog::from_bytes(&bytes.unwrap_or_default())
    }

    /// Reads all of every object, and checks it and its way to the beginning. `progress` is told of each, with its
    /// bytes.
    ///
    /// # Errors
    ///
    /// If the store cannot be listed.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        for drawer in self.names()? {
            self.verify_drawer(&drawer, &mut verified, progress)?;
        }
        let place = |fault: &Fault| (fault.object.drawer.clone(), fault.object.name.clone());
        verified.faults.sort_by_key(place);
        Ok(verified)
    }

    fn verify_drawer(
        &self,
        drawer: &str,
        verified: &mut Verified,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let mut sound = Vec::new();
        for object in self.shelf.list(drawer)? {
            progress(object.bytes);
            match parse_name(&object.name) {
                None => verified.faults.extend(stray(&object)),
                Some(_) => {
                    match self.check(&object) {
                        Ok(Some(label)) => sound.push((label, object.clone())),
                        Ok(None) => continue, // gone in the meantime
                        Err(fault) => verified.faults.push(fault),
                    }
                    verified.objects += 1;
                    verified.bytes += object.bytes;
                }
            }
        }
        self.check_ways(sound, &mut verified.faults);
        Ok(())
    }

    /// Reads an object; `None` if it is gone.
    fn check(&self, object: &Listed) -> Result<Option<Label>, Fault> {
        let damaged = |why: String| fault(object, FaultKind::Damaged, why);
        if object.bytes > LARGEST {
            return Err(damaged(format!("it has {} bytes, more than any page", object.bytes)));
        }
        match self.shelf.get(&object.drawer, &object.name, object.bytes) {
            Ok(Some(bytes)) => {
                let label = check_label(object, &bytes).map_err(damaged)?;
                match Label::is_sealed(&bytes) {
                    true => Ok(Some(label)),
                    false => Err(damaged(SnapshotError::Damaged("the checksum does not match").to_string())),
                }
            }
            Ok(None) => Err(damaged("it grew while it was looked at".into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault(object, FaultKind::Unreadable, error.to_string())),
        }
    }

    /// Looks whether the page before each is there, and so on to the first.
    fn check_ways(&self, mut sound: Vec<(Label, Listed)>, faults: &mut Vec<Fault>) {
        sound.sort_by_key(|(label, _)| label.pages);
        let mut reached: HashMap<PageKey, usize> = HashMap::new(); // pages up to its end
        for (label, object) in sound {
            let root = PageKey::root(&label.fingerprint, label.format);
            let before = if label.parent == root { Some(0) } else { reached.get(&label.parent).copied() };
            match before {
                Some(pages) if pages == label.pages => {
                    if label.is_page {
                        reached.insert(label.key, pages + 1);
                    }
                }
                Some(_) => {
                    let why = "it counts the pages before it wrongly".to_owned();
                    faults.push(fault(&object, FaultKind::Damaged, why));
                }
                None => {
                    // Writers put a page there before what follows it, and remove it after that. So if the page
                    // before is not there now, and this still is, nobody is just at work here.
                    let has = |key: &PageKey, is_page| self.shelf.has(&object.drawer, &name(key, is_page));
                    let damaged = faults.iter().any(|fault| fault.object.name == name(&label.parent, true));
                    let came = !damaged && has(&label.parent, true).unwrap_or(false);
                    if came {
                        if label.is_page {
                            reached.insert(label.key, label.pages + 1);
                        }
                    } else if has(&label.key, label.is_page).unwrap_or(true) {
                        let state = if damaged { "cannot be used" } else { "is missing" };
                        let why = format!("the page before it, {}, {state}", short(&label.parent));
                        faults.push(fault(&object, FaultKind::Unreachable, why));
                    }
                }
            }
        }
    }

    /// Removes objects that [`plan`] or [`Offline::verify`] named, and makes the drawers' catalogs forget them.
    /// `drawers` is what was there before. Returns how many objects were removed, and their bytes.
    ///
    /// # Errors
    ///
    /// If one cannot be removed; those before it are.
    pub fn remove(&self, drawers: &mut [Drawer], objects: &[Object]) -> Result<(u64, u64), StoreError> {
        let mut removed = (0, 0);
        for object in objects {
            let Some((key, _)) = parse_name(&object.name) else { continue };
            let Some(drawer) = drawers.iter_mut().find(|drawer| drawer.name == object.drawer) else {
                continue;
            };
            self.shelf.remove(&object.drawer, &object.name)?;
            drawer.index.remove(&key);
            removed.0 += 1;
            removed.1 += object.bytes;
        }
        let touched: HashSet<&str> = objects.iter().map(|object| object.drawer.as_str()).collect();
        for drawer in drawers.iter().filter(|drawer| touched.contains(drawer.name.as_str())) {
            // It has the tokens of what is gone.
            match drawer.index.entries().next() {
                None => self.shelf.remove(&drawer.name, catalog::NAME)?,
                Some(_) => {
                    let bytes = catalog::to_bytes(drawer.index.entries());
                    self.shelf.put(&drawer.name, catalog::NAME, bytes)?;
                }
            }
        }
        Ok(removed)
    }
}

/// What to remove, in this order, so that only what should be kept stays: first what was not used, then what is worth
/// least, wherever it is.
pub fn plan(drawers: &[Drawer], keep: Keep) -> Vec<Object> {
    let now = now();
    let mut goes: Vec<Object> = Vec::new();
    let mut rest: Vec<(f64, Object)> = Vec::new();
    let mut bytes = 0;
    for drawer in drawers {
        let object = |index: &Index, key: &PageKey| {
            let entry = index.get(key).expect("the index named it");
            Object { drawer: drawer.name.clone(), name: name(key, entry.is_page), bytes: entry.bytes }
        };
        let old = keep.since.map(|since| drawer.index.unused_since(since, now)).unwrap_or_default();
        goes.extend(old.iter().map(|key| object(&drawer.index, key)));
        let old: HashSet<_> = old.into_iter().collect();
        let mut left = Index::default();
        drawer.index.entries().filter(|entry| !old.contains(&entry.key)).for_each(|e| left.insert(e.clone()));
        bytes += left.bytes();
        if keep.bytes.is_some() {
            let ranked = left.ranked_victims(&drawer.root, now, u64::MAX);
            rest.extend(ranked.into_iter().map(|(worth, key)| (worth, object(&left, &key))));
        }
    }
    // Stable, and rising within a drawer: what is behind something stays before it.
    rest.sort_by(|a, b| a.0.total_cmp(&b.0));
    let most = keep.bytes.unwrap_or(u64::MAX);
    for (_, object) in rest {
        if bytes <= most {
            break;
        }
        bytes -= object.bytes;
        goes.push(object);
    }
    goes
}

impl Drawer {
    /// Pages, tails, and bytes of both.
    pub fn counts(&self) -> (usize, usize, u64) {
        let pages = self.index.entries().filter(|entry| entry.is_page).count();
        (pages, self.index.entries().count() - pages, self.index.bytes())
    }

    /// Where conversations can be taken up, the one used last first.
    pub fn conversations(&self) -> Vec<Conversation> {
        let places = self.index.entries().filter(|entry| entry.has_end);
        let mut all: Vec<_> = places.filter_map(|place| self.conversation(place)).collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then(b.tokens.cmp(&a.tokens)).then(a.key.cmp(&b.key)));
        all
    }

    fn conversation(&self, place: &Entry) -> Option<Conversation> {
        let pages = self.index.path(place, &self.root)?;
        let pages: Vec<&Entry> = pages.iter().filter_map(|key| self.index.get(key)).collect();
        let alone = |page: &&&Entry| self.index.children(&page.key).count() == 1 && !page.has_end;
        let own: u64 = pages.iter().rev().take_while(alone).map(|page| page.bytes).sum();
        let all: u64 = pages.iter().map(|page| page.bytes).sum();
        let end = if place.tokens.is_empty() { place.parent } else { place.key };
        Some(Conversation {
            key: place.key,
            tokens: place.position(),
            own: own + place.bytes,
            bytes: all + place.bytes,
            used: place.used,
            is_inner: self.index.children(&end).any(|other| other.key != place.key),
        })
    }
}

/// The first digits of a key: enough to tell it from others.
fn short(key: &PageKey) -> String {
    key.to_string()[..12].to_owned()
}

fn fault(object: &Listed, kind: FaultKind, why: String) -> Fault {
    let Listed { drawer, name, bytes, .. } = object.clone();
    Fault { object: Object { drawer, name, bytes }, kind, why }
}

/// A file that is none of the store's.
fn stray(object: &Listed) -> Option<Fault> {
    let ours = [catalog::NAME, about::NAME].contains(&object.name.as_str());
    (!ours).then(|| fault(object, FaultKind::Stray, "not a file of the page store".to_owned()))
}

/// Reads what an object says of itself, and compares it with its name and drawer.
fn check_label(object: &Listed, bytes: &[u8]) -> Result<Label, String> {
    let label = Label::from_bytes(bytes).map_err(|error| error.to_string())?;
    if name(&label.key, label.is_page) != object.name {
        return Err("it is not what its name says".into());
    }
    if drawer(&PageKey::root(&label.fingerprint, label.format)) != object.drawer {
        return Err("it belongs to another model or KV format".into());
    }
    Ok(label)
}

fn entry(label: Label, object: &Listed) -> Entry {
    let Label { is_page, parent, key, pages, tokens, has_end, slack, .. } = label;
    let head = Head { is_page, parent, key, pages, tokens, has_end, slack, bytes: object.bytes };
    Entry::new(head, milliseconds(object.written))
}
