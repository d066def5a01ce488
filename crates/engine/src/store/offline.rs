//! A store looked at from outside, without the model that filled it: what is there, whether it is sound, and
//! less of it.

use super::index::{Entry, Index};
use super::shelf::{Listed, Place, Shelf};
use super::{StoreError, catalog, drawer, milliseconds, name, now, parse_name};
use model::snapshot::{Head, Label, SnapshotError};
use model::{KvFormat, PageKey};
use std::collections::BTreeMap;

/// A store that nobody writes to for the moment, or somebody does: what changes meanwhile may be missed.
pub struct Offline {
    shelf: Shelf,
}

/// All of one model in one KV format.
#[derive(Debug)]
pub struct Drawer {
    /// Its folder.
    pub name: String,
    /// Of the model, [`model::Model::fingerprint`]; `None` if nothing in it can be read.
    pub fingerprint: Option<[u8; 32]>,
    /// How rows are stored.
    pub format: Option<KvFormat>,
    /// Bytes of everything, other files included.
    pub bytes: u64,
    /// Objects that are not what they should be.
    pub bad: Vec<Bad>,
    index: Index,
    root: PageKey,
}

/// An object that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Its drawer.
    pub drawer: String,
    /// Its name in the drawer.
    pub name: String,
    /// What is wrong.
    pub why: String,
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
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What should be kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// At most so many bytes of each drawer; what is worth least goes first.
    pub bytes: Option<u64>,
    /// Only what was used since then, in milliseconds since 1970.
    pub since: Option<u64>,
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
        let mut objects: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
        for object in self.shelf.list(None)? {
            objects.entry(object.drawer.clone()).or_default().push(object);
        }
        Ok(objects.into_iter().map(|(name, objects)| self.drawer(name, objects)).collect())
    }

    fn drawer(&self, folder: String, objects: Vec<Listed>) -> Drawer {
        let mut found = Drawer {
            fingerprint: None,
            format: None,
            bytes: objects.iter().map(|object| object.bytes).sum(),
            bad: Vec::new(),
            index: Index::default(),
            root: PageKey([0; 32]),
            name: folder.clone(),
        };
        let (objects, other): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| parse_name(&object.name).is_some());
        for object in other.into_iter().filter(|object| object.name != catalog::NAME) {
            let why = "not a file of the page store".to_owned();
            found.bad.push(Bad { drawer: folder.clone(), name: object.name, why });
        }
        let beginnings = self.shelf.beginnings(&folder, &objects, Head::MOST_BYTES as u64);
        for (object, bytes) in objects.iter().zip(beginnings) {
            let label = match bytes {
                Ok(bytes) => check_label(&folder, &object.name, &bytes),
                Err(error) => Err(error.to_string()),
            };
            match label {
                Ok(label) => {
                    let root = PageKey::root(&label.fingerprint, label.format);
                    (found.fingerprint, found.format, found.root) =
                        (Some(label.fingerprint), Some(label.format), root);
                    found.index.insert(entry(label, object));
                }
                Err(why) => found.bad.push(Bad { drawer: folder.clone(), name: object.name.clone(), why }),
            }
        }
        found
    }

    /// Reads all of every object and checks it. `progress` is told of each, with its bytes.
    ///
    /// # Errors
    ///
    /// If the store cannot be listed.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Bad>, StoreError> {
        let mut bad = Vec::new();
        for object in self.shelf.list(None)? {
            progress(object.bytes);
            if let Err(why) = self.check(&object) {
                bad.push(Bad { drawer: object.drawer, name: object.name, why });
            }
        }
        bad.sort_by(|a, b| (&a.drawer, &a.name).cmp(&(&b.drawer, &b.name)));
        Ok(bad)
    }

    fn check(&self, object: &Listed) -> Result<(), String> {
        if object.name == catalog::NAME {
            return Ok(()); // only a hint, checked where it is used
        }
        if parse_name(&object.name).is_none() {
            return Err("not a file of the page store".into());
        }
        match self.shelf.get(&object.drawer, &object.name, object.bytes) {
            Ok(Some(bytes)) => {
                check_label(&object.drawer, &object.name, &bytes)?;
                let sound = Label::is_sealed(&bytes);
                if sound {
                    Ok(())
                } else {
                    Err(SnapshotError::Damaged("the checksum does not match").to_string())
                }
            }
            Ok(None) => Err("it grew while it was looked at".into()),
            Err(object_store::Error::NotFound { .. }) => Ok(()), // gone in the meantime
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes objects by name.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub fn remove(&self, objects: &[Bad]) -> Result<(), StoreError> {
        objects.iter().try_for_each(|object| Ok(self.shelf.remove(&object.drawer, &object.name)?))
    }

    /// Removes what should not be kept of a drawer: first what is bad, then what is old, then what is worth least.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn prune(&self, drawer: &mut Drawer, keep: Keep) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        self.remove(&drawer.bad)?;
        removed.objects += std::mem::take(&mut drawer.bad).len() as u64;
        let mut keys = Vec::new();
        if let Some(since) = keep.since {
            let old: Vec<_> = drawer.conversations().into_iter().filter(|c| c.used < since).collect();
            keys.extend(old.iter().map(|conversation| conversation.key));
        }
        for key in keys {
            removed.add(self.forget(drawer, &key)?);
        }
        let excess = keep.bytes.map_or(0, |most| drawer.index.bytes().saturating_sub(most));
        for key in drawer.index.victims(&drawer.root, now(), excess) {
            removed.add(self.take(drawer, &key)?);
        }
        Ok(removed)
    }

    /// Removes an end, and the pages that then lead nowhere.
    fn forget(&self, drawer: &mut Drawer, key: &PageKey) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        let mut at = drawer.index.get(key).cloned();
        while let Some(entry) = at {
            if drawer.index.children(&entry.key).next().is_some() {
                break;
            }
            removed.add(self.take(drawer, &entry.key)?);
            at = drawer.index.get(&entry.parent).filter(|page| !page.has_end).cloned();
        }
        Ok(removed)
    }

    fn take(&self, drawer: &mut Drawer, key: &PageKey) -> Result<Removed, StoreError> {
        let Some(entry) = drawer.index.remove(key) else { return Ok(Removed::default()) };
        self.shelf.remove(&drawer.name, &name(key, entry.is_page))?;
        Ok(Removed { objects: 1, bytes: entry.bytes })
    }
}

impl Removed {
    fn add(&mut self, other: Removed) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
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
        Some(Conversation {
            key: place.key,
            tokens: place.position(),
            own: own + place.bytes,
            bytes: all + place.bytes,
            used: place.used,
        })
    }
}

/// Reads what an object says of itself, and compares it with its name and drawer.
fn check_label(folder: &str, object: &str, bytes: &[u8]) -> Result<Label, String> {
    let label = Label::from_bytes(bytes).map_err(|error| error.to_string())?;
    if name(&label.key, label.is_page) != object {
        return Err("it is not what its name says".into());
    }
    if drawer(&PageKey::root(&label.fingerprint, label.format)) != folder {
        return Err("it belongs to another model or KV format".into());
    }
    Ok(label)
}

fn entry(label: Label, object: &Listed) -> Entry {
    let Label { is_page, parent, key, pages, tokens, has_end, slack, .. } = label;
    let head = Head { is_page, parent, key, pages, tokens, has_end, slack, bytes: object.bytes };
    Entry::new(head, milliseconds(object.written))
}
