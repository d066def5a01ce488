//! A finished part of a conversation: the state after [`PAGE`] consecutive tokens, as far as it is not already
//! in the pages before.
//!
//! A page never changes, so everybody who has read the same text shares it. Pages form a tree: a
//! [`PageKey`] says what is in a page and in all those before it.

use crate::kv::KvFormat;
use crate::ops::{Ops, RowStore};
use crate::snapshot::format_code;
use crate::timeline::PAGE;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The state after [`PAGE`] consecutive tokens.
///
/// Its compressed rows are needed by every continuation. Its *end*, the rows needed to go on right after it, is
/// only needed where somebody goes on there; for the published model it is as large as the rows, so a cache
/// drops it where nobody is likely to.
pub struct Page<B: Ops> {
    tokens: Arc<[u32]>,
    rows: Arc<Vec<PageRows<B>>>,
    end: Option<Arc<Vec<PageEnd<B>>>>,
}

/// One layer's rows of a page: `PAGE / ratio` of each kind that the layer has.
pub(crate) struct PageRows<B: Ops> {
    pub(crate) compressor: Option<B::Rows>,
    pub(crate) indexer: Option<B::Rows>,
}

/// What one layer needs to go on at the end of a page.
pub(crate) struct PageEnd<B: Ops> {
    pub(crate) window: B::Rows,
    /// Inputs of the compressors.
    pub(crate) compressor: Option<B::Rows>,
    pub(crate) indexer: Option<B::Rows>,
}

impl<B: Ops> PageRows<B> {
    pub(crate) fn parts(&self) -> [Option<&B::Rows>; 2] {
        [self.compressor.as_ref(), self.indexer.as_ref()]
    }
}

impl<B: Ops> PageEnd<B> {
    pub(crate) fn parts(&self) -> [Option<&B::Rows>; 2] {
        [self.compressor.as_ref(), self.indexer.as_ref()]
    }
}

impl<B: Ops> Page<B> {
    pub(crate) fn new(tokens: Arc<[u32]>, rows: Vec<PageRows<B>>, end: Option<Vec<PageEnd<B>>>) -> Self {
        assert_eq!(tokens.len(), PAGE, "tokens of a page");
        Page { tokens, rows: Arc::new(rows), end: end.map(Arc::new) }
    }

    /// The ids of its [`PAGE`] tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn rows(&self) -> &[PageRows<B>] {
        &self.rows
    }

    pub(crate) fn end(&self) -> Option<&[PageEnd<B>]> {
        self.end.as_ref().map(|end| end.as_slice())
    }

    /// Whether a conversation can go on right after it.
    pub fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// The same page without its end; the rows are shared.
    pub fn without_end(&self) -> Self {
        Page { tokens: self.tokens.clone(), rows: self.rows.clone(), end: None }
    }

    /// Whether others hold its rows too, with or without its end: then forgetting it frees no memory.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.rows) > 1
    }

    /// Device memory in use, in bytes, that of its end included.
    pub fn memory(&self) -> usize {
        let part =
            |rows: &PageRows<B>| rows.parts().into_iter().flatten().map(RowStore::memory).sum::<usize>();
        self.rows.iter().map(part).sum::<usize>() + self.end_memory()
    }

    /// Device memory of its end, in bytes; 0 if it has none.
    pub fn end_memory(&self) -> usize {
        let part = |end: &PageEnd<B>| {
            end.window.memory() + end.parts().into_iter().flatten().map(RowStore::memory).sum::<usize>()
        };
        self.end().into_iter().flatten().map(part).sum()
    }
}

/// What a page or a tail holds and what comes before it: a hash of the model, the KV format and all tokens from
/// the first on, so that memory, disk and other machines mean the same by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey(pub [u8; 32]);

impl PageKey {
    /// Of no tokens at all.
    pub fn root(fingerprint: &[u8; 32], format: KvFormat) -> PageKey {
        let mut hash = blake3::Hasher::new_derive_key("ds4 page tree 1");
        hash.update(fingerprint);
        hash.update(&format_code(format).to_le_bytes());
        hash.update(&(PAGE as u64).to_le_bytes());
        PageKey(*hash.finalize().as_bytes())
    }

    /// Of the tokens of this key, and then `tokens`: a page's worth, or a tail's.
    pub fn child(&self, tokens: &[u32]) -> PageKey {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.0);
        for token in tokens {
            hash.update(&token.to_le_bytes());
        }
        PageKey(*hash.finalize().as_bytes())
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageKey({self})")
    }
}

/// Not 64 hexadecimal digits in lower case.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a page's key is 64 hexadecimal digits")]
pub struct NoPageKey;

impl FromStr for PageKey {
    type Err = NoPageKey;

    fn from_str(text: &str) -> Result<Self, NoPageKey> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NoPageKey),
        };
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| NoPageKey)?;
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(PageKey(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_it_is_read() {
        let root = PageKey::root(&[7; 32], KvFormat::F8);
        let key = root.child(&[1, 2]).child(&[3]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_ne!(key, root.child(&[1, 2, 3]), "where pages end matters");
        assert_ne!(root, PageKey::root(&[7; 32], KvFormat::F16));
        for bad in ["", "00", &"G0".repeat(32), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(bad.parse::<PageKey>(), Err(NoPageKey), "{bad}");
        }
    }
}
