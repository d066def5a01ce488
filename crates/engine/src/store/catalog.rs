//! The catalog: an object that repeats what is at the beginning of all others, so that a store is open without
//! looking into every one of them.
//!
//! It is a hint. What is there is what a listing of the place says; what the catalog does not know is looked
//! into; a catalog that is missing, old, damaged or overwritten by another process costs time and nothing else.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `ds4 shlf` |
//! | 4 | version, 1 |
//! | 4 | number of entries |
//! | … | entries: parent key (32), bytes (8), last use in milliseconds since 1970 (8), pages before it (4), kind (1: 0 tail, 1 page, 2 page with its end), slack (1), number of token ids (2), token ids (4 each) |
//! | 32 | BLAKE3 hash of everything before |

use super::index::Entry;
use model::{PAGE, PageKey};

const MAGIC: &[u8; 8] = b"ds4 shlf";
const VERSION: u32 = 1;
const HASH: usize = 32;

/// The name of the catalog in its drawer.
pub(super) const NAME: &str = "catalog";

pub(super) fn to_bytes<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 4]);
    let mut count = 0u32;
    for entry in entries {
        count += 1;
        out.extend(entry.parent.0);
        out.extend(entry.bytes.to_le_bytes());
        out.extend(entry.used.to_le_bytes());
        out.extend((entry.pages as u32).to_le_bytes());
        out.push(if entry.is_page { 1 + u8::from(entry.has_end) } else { 0 });
        out.push(entry.slack as u8);
        out.extend((entry.tokens.len() as u16).to_le_bytes());
        out.extend(entry.tokens.iter().flat_map(|token| token.to_le_bytes()));
    }
    out[12..16].copy_from_slice(&count.to_le_bytes());
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// The entries of a catalog; none if it is anything else. Keys are computed, so an entry is what it says.
pub(super) fn from_bytes(bytes: &[u8]) -> Vec<Entry> {
    read(bytes).unwrap_or_default()
}

fn read(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (body, hash) = bytes.split_last_chunk::<HASH>()?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    if u32::from_le_bytes(take(&mut rest)?) != VERSION {
        return None;
    }
    let count = u32::from_le_bytes(take(&mut rest)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let parent = PageKey(take(&mut rest)?);
        let bytes = u64::from_le_bytes(take(&mut rest)?);
        let used = u64::from_le_bytes(take(&mut rest)?);
        let pages = u32::from_le_bytes(take(&mut rest)?) as usize;
        let [kind, slack] = take(&mut rest)?;
        let len = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (tokens, later) = rest.split_at_checked(4 * len)?;
        rest = later;
        let (is_page, has_end) = (kind != 0, kind != 1);
        if kind > 2 || (len == PAGE) != is_page || len > PAGE {
            return None;
        }
        let tokens = tokens.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tokens: Vec<u32> = tokens.collect();
        let key = parent.child(&tokens);
        let (tokens, slack) = (tokens.into(), usize::from(slack));
        entries.push(Entry { key, parent, is_page, pages, tokens, has_end, slack, bytes, used });
    }
    rest.is_empty().then_some(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (now, later) = rest.split_first_chunk::<N>()?;
    *rest = later;
    Some(*now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |parent: PageKey, is_page: bool, tokens: Vec<u32>| Entry {
            key: parent.child(&tokens),
            parent,
            is_page,
            pages: 3,
            tokens: tokens.into(),
            has_end: !is_page,
            slack: if is_page { 0 } else { 64 },
            bytes: 1 << 40,
            used: 12345,
        };
        let page = entry(PageKey([1; 32]), true, (0..PAGE as u32).collect());
        let tail = entry(page.key, false, vec![7, u32::MAX]);
        let end = Entry { slack: 0, ..entry(page.key, false, vec![]) };
        let whole = Entry { has_end: true, ..entry(page.key, true, vec![5; PAGE]) };
        vec![page, tail, end, whole]
    }

    #[test]
    fn a_catalog_is_read_as_it_was_written() {
        let entries = entries();
        assert_eq!(from_bytes(&to_bytes(entries.iter())), entries);
        assert_eq!(from_bytes(&to_bytes([].iter())), []);
    }

    #[test]
    fn a_catalog_that_is_anything_else_says_nothing() {
        let bytes = to_bytes(entries().iter());
        for len in (0..bytes.len()).step_by(7) {
            assert_eq!(from_bytes(&bytes[..len]), [], "cut to {len}");
        }
        for at in (0..bytes.len()).step_by(11) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(from_bytes(&damaged), [], "damaged at {at}");
        }
    }
}
