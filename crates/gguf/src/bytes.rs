//! Bytes of a file that many owners can hold: a range of a mapping that lives as long as any of them.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;

/// A cheap clone of a part of a file, or of memory in place of one. Reads as `[u8]`.
///
/// # When the file shrinks
///
/// A mapped file is not copied: pages come from the disk when they are first read. If another
/// program cuts the file short meanwhile, reading past its new end kills this process with SIGBUS,
/// and no check before the read can prevent that. A model file in use must not be rewritten in
/// place; replacing it by a rename, as [`GgufWriter`](crate::GgufWriter) does, is safe, since the
/// old file lives on until it is unmapped.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Mapped(Mmap),
    Vec(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    /// The whole of `file`, mapped read-only.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and private to `Owner`. What remains is that another
        // process may change the file. The bytes are plain `u8`s that the parser copies before it
        // trusts them, so changed bytes are wrong numbers at worst; a shortened file is a SIGBUS,
        // as documented on `Bytes`.
        let mapping = unsafe { Mmap::map(file)? };
        ask_for_large_pages(&mapping);
        Ok(Self::all_of(Owner::Mapped(mapping)))
    }

    fn all_of(owner: Owner) -> Self {
        let len = owner.bytes().len();
        Self { owner: Arc::new(owner), range: 0..len }
    }

    /// The part `range` of these bytes, which shares their owner.
    ///
    /// # Panics
    ///
    /// If `range` does not lie inside: offsets are checked when a file is opened, so that is our bug.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "range outside the bytes");
        let start = self.range.start;
        Self { owner: Arc::clone(&self.owner), range: start + range.start..start + range.end }
    }

    /// Says that the part `range` of these bytes is not needed for now: of a mapped file its pages leave this
    /// process, and come back from the file if somebody reads them after all. Whoever copies a large file piece
    /// by piece so needs memory for the copy alone.
    ///
    /// # Panics
    ///
    /// As [`Bytes::slice`].
    pub fn put_back(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "range outside the bytes");
        #[cfg(unix)]
        if let Owner::Mapped(mapping) = &*self.owner {
            // SAFETY: the mapping is read-only, so no page of it has anything that the file has not: a page that
            // is dropped is read again with the same bytes.
            let advised = unsafe {
                let start = self.range.start + range.start;
                mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, range.len())
            };
            // It is advice: a system that does not take it keeps the pages.
            drop(advised);
        }
    }
}

/// Asks that pages not in memory yet come from the file 2 MiB at a time, to lie and be mapped as one.
///
/// Weights are read once a token from end to end, and translating an address every 4 KiB costs that much of the
/// bandwidth that `docs/performance.md` has numbers. Linux does it on file systems with large folios (XFS, ext4
/// from 6.16); what is in the page cache in small pages already stays so.
fn ask_for_large_pages(mapping: &Mmap) {
    // It is advice: a kernel built without large pages refuses it, and reads the same bytes.
    #[cfg(target_os = "linux")]
    drop(mapping.advise(memmap2::Advice::HugePage));
    #[cfg(not(target_os = "linux"))]
    let _ = mapping;
}

impl Owner {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping,
            Self::Vec(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::all_of(Owner::Vec(bytes))
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self::all_of(Owner::Static(bytes))
    }
}

/// How many bytes, and not which: they may be gigabytes.
impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_slice_outlives_both() {
        let all = Bytes::from((0..100).collect::<Vec<u8>>());
        let inner = all.slice(10..50).slice(5..7);
        drop(all);
        assert_eq!(*inner, [15, 16]);
        assert!(inner.slice(2..2).is_empty());
    }

    /// Pages that were put back are read again from the file, whatever their borders.
    #[test]
    fn what_was_put_back_is_still_there() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &content).unwrap();
        let bytes = Bytes::map(&file).unwrap().slice(10..49_000);
        for range in [0..0, 5..6, 100..20_000, 0..bytes.len()] {
            bytes.put_back(range);
            assert!(*bytes == content[10..49_000]);
        }
        Bytes::from(content).put_back(3..9); // memory of our own stays
    }

    #[test]
    #[should_panic(expected = "range outside")]
    fn a_slice_stays_inside_its_parent() {
        Bytes::from(vec![0; 10]).slice(2..4).slice(0..3);
    }
}
