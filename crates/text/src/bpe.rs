//! Byte-pair merging: the bytes of a piece become tokens.
//!
//! Every byte starts as a token; again and again the two neighbours whose merge has the lowest
//! rank, the leftmost of equals, become one. A heap of candidates keeps that at `n log n` steps for
//! a piece of `n` bytes, so one endless word cannot stall a server.
//!
//! Why not the `tokenizers` crate: for 129,280 tokens it takes some 120 ms longer to start and
//! brings seventy crates. It is the second opinion in this crate's tests instead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The merges of a vocabulary, in terms of ids.
pub(crate) struct Bpe {
    /// The token of each byte.
    bytes: [u32; 256],
    /// Where each left token's merges begin in `merges`; one entry more than there are tokens.
    rows: Vec<u32>,
    /// Sorted by left token, then by right token.
    merges: Vec<Merge>,
}

/// `left` and `right` become `token`; lower ranks come first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    pub left: u32,
    pub right: u32,
    pub token: u32,
    pub rank: u32,
}

/// Memory that [`Bpe::encode`] works in, kept from piece to piece.
#[derive(Default)]
pub(crate) struct Scratch {
    nodes: Vec<Node>,
    /// Candidates: rank and place of the left node. Some are out of date.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// A token of the piece in a doubly linked list; places are its index at the start.
struct Node {
    token: u32,
    prev: u32,
    next: u32,
    /// The merge with the next node, if there is one.
    merge: Option<Merge>,
}

/// The end of the list, and the place of a node that was merged away.
const NONE: u32 = u32::MAX;

impl Bpe {
    /// Merges between tokens below `n_tokens`. Of merges of the same pair the first counts.
    pub(crate) fn new(bytes: [u32; 256], n_tokens: usize, mut merges: Vec<Merge>) -> Self {
        merges.sort_unstable_by_key(|merge| (merge.left, merge.right, merge.rank));
        merges.dedup_by_key(|merge| (merge.left, merge.right));
        let mut rows = vec![0; n_tokens + 1];
        for merge in &merges {
            rows[merge.left as usize + 1] += 1;
        }
        for left in 0..n_tokens {
            rows[left + 1] += rows[left];
        }
        Self { bytes, rows, merges }
    }

    /// The token of a byte.
    pub(crate) fn byte(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }

    fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let (start, end) = (self.rows[left as usize], self.rows[left as usize + 1]);
        let row = &self.merges[start as usize..end as usize];
        row.binary_search_by_key(&right, |merge| merge.right).ok().map(|at| row[at])
    }

    /// Appends the tokens of a piece of text.
    ///
    /// # Panics
    ///
    /// If the piece has 2^32 bytes or more.
    pub(crate) fn encode(&self, piece: &[u8], scratch: &mut Scratch, tokens: &mut Vec<u32>) {
        let Scratch { nodes, heap } = scratch;
        let n = u32::try_from(piece.len()).expect("pieces are shorter than 4 GiB");
        nodes.clear();
        nodes.extend(piece.iter().zip(0u32..).map(|(&byte, at)| Node {
            token: self.byte(byte),
            prev: at.checked_sub(1).unwrap_or(NONE),
            next: if at + 1 < n { at + 1 } else { NONE },
            merge: None,
        }));
        for at in 0..n {
            self.look_for_merge(at, nodes, heap);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let Some(merge) = nodes[at as usize].merge.filter(|merge| merge.rank == rank) else { continue };
            self.apply(merge, at, nodes, heap);
        }
        // A node that was merged away is unlinked, so the list visits what is left.
        let mut at = if n == 0 { NONE } else { 0 };
        while at != NONE {
            tokens.push(nodes[at as usize].token);
            at = nodes[at as usize].next;
        }
    }

    /// Makes one node of the node at `at` and the next.
    fn apply(&self, merge: Merge, at: u32, nodes: &mut [Node], heap: &mut BinaryHeap<Reverse<(u32, u32)>>) {
        let gone = nodes[at as usize].next;
        let next = nodes[gone as usize].next;
        nodes[gone as usize].merge = None;
        nodes[at as usize].token = merge.token;
        nodes[at as usize].next = next;
        if next != NONE {
            nodes[next as usize].prev = at;
        }
        self.look_for_merge(at, nodes, heap);
        if nodes[at as usize].prev != NONE {
            self.look_for_merge(nodes[at as usize].prev, nodes, heap);
        }
    }

    fn look_for_merge(&self, at: u32, nodes: &mut [Node], heap: &mut BinaryHeap<Reverse<(u32, u32)>>) {
        let Node { token, next, .. } = nodes[at as usize];
        let merge = if next == NONE { None } else { self.merge(token, nodes[next as usize].token) };
        nodes[at as usize].merge = merge;
        heap.extend(merge.map(|merge| Reverse((merge.rank, at))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes are their own tokens; 256 is `ab`, 257 `abab`, 258 `ba`.
    fn bpe() -> Bpe {
        let merge = |left: u32, right: u32, token, rank| Merge { left, right, token, rank };
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        let merges = vec![merge(a, b, 256, 0), merge(256, 256, 257, 1), merge(b, a, 258, 2)];
        Bpe::new(std::array::from_fn(|byte| byte as u32), 259, merges)
    }

    fn encode(piece: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        bpe().encode(piece.as_bytes(), &mut Scratch::default(), &mut tokens);
        tokens
    }

    #[test]
    fn the_lowest_rank_merges_first_and_the_leftmost_of_equals() {
        assert_eq!(encode(""), [0; 0]);
        assert_eq!(encode("c"), [99]);
        assert_eq!(encode("ababab"), [257, 256]);
        assert_eq!(encode("bab"), [98, 256], "`ab` has a lower rank than `ba`");
        assert_eq!(encode("baca"), [258, 99, 97]);
    }

    #[test]
    fn a_long_piece_is_no_trouble() {
        assert_eq!(encode(&"ab".repeat(100_000)), vec![257; 50_000]);
    }
}
