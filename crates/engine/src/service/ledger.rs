//! Memory for cached rows: what a job needs before it starts, so that nothing is begun that cannot be finished.

use model::{Codec, PAGE, SLACK};

/// A reply is promised memory for so many tokens, or for as many as it may have. Longer ones go on while there is
/// memory: to promise the whole context to everybody would keep most of it unused.
const REPLY: usize = 4096;

/// What there is, and what things take.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    limit: u64,
    context: usize,
    /// Bytes of a page's rows, and of its end.
    page: u64,
    end: u64,
    /// Bytes of an unfinished page and all that goes with it, at most.
    tail: u64,
}

impl Ledger {
    /// - `limit`: bytes that there may be
    pub(super) fn new(codec: &Codec, context: usize, limit: u64) -> Self {
        // Far enough from the start that no window is cut short by it.
        const FAR: usize = 64;
        let page = codec.page_len(FAR, false);
        let end = codec.page_len(FAR, true) - page;
        // Logs forget their oldest rows when these are more than half.
        let tail = 2 * codec.tail_len(FAR * PAGE + PAGE - 1, SLACK);
        Ledger { limit, context, page, end, tail }
    }

    /// Bytes that there may be.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Tokens for whose rows there is room, of all conversations together. One conversation has its unfinished page
    /// besides.
    pub(super) fn capacity(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.end + self.tail) / self.page.max(1))
            .unwrap_or(usize::MAX)
            .saturating_mul(PAGE)
    }

    /// Tokens for which a job is promised memory.
    pub(super) fn tokens(&self, prompt: usize, max_tokens: Option<usize>) -> usize {
        (prompt + max_tokens.unwrap_or(REPLY).min(REPLY)).min(self.context)
    }

    /// Bytes for a conversation of `tokens` tokens, of which the first `pages` pages are there.
    pub(super) fn need(&self, tokens: usize, pages: usize) -> u64 {
        (tokens / PAGE).saturating_sub(pages) as u64 * self.page + self.end + self.tail
    }
}

/// The limit if nobody sets one: half of the memory that is free once the model's file is in it.
pub(super) fn usual_limit(model: u64) -> u64 {
    /// Where the system does not say how much is free.
    const UNKNOWN: u64 = 4 << 30;
    const LEAST: u64 = 256 << 20;
    let free = available().map_or(UNKNOWN, |free| free.saturating_sub(model).max(free / 4));
    (free / 2).max(LEAST)
}

/// Memory that programs could still get, in bytes: `MemAvailable` of Linux.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
