//! Where in a prompt the state is kept, besides the ends of pages: at the places that somebody may come back to.
//!
//! A retried, edited or compacted conversation has whole messages in common with what was read before, so the
//! places are where messages begin. A state takes some megabytes, so inside a conversation they are not closer
//! than [`GAP`]; the end of the system prompt, where other conversations begin, the last message and the end of
//! the prompt, where the reply is written once more, are kept in any case.

use crate::cache::TailKind;
use model::PAGE;
use std::collections::VecDeque;

/// Tokens between two places inside of a conversation, at least.
const GAP: usize = 256;

/// A system prompt that is worth a place has so many tokens.
const SYSTEM: usize = 32;

/// By how many tokens a state that is kept can be cut back. Of a prompt that is asked again one token has to be
/// read, and whether the model is to reason is said among its last. More slack takes more memory.
pub(super) const STOP_SLACK: usize = 4;

/// A place to keep the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// Tokens read there.
    pub(super) at: usize,
    pub(super) kind: TailKind,
}

/// The places of a prompt of which `cached` tokens are known.
///
/// - `user`: the token that begins a user's message, if there is one
pub(super) fn stops(tokens: &[u32], cached: usize, user: Option<u32>) -> VecDeque<Stop> {
    let begins = (1..tokens.len()).filter(|&i| Some(tokens[i]) == user);
    // Right after the marker: it is common to all messages of users.
    let messages: Vec<usize> = begins.map(|i| i + 1).filter(|&at| at < tokens.len()).collect();
    let mut stops = VecDeque::new();
    let mut last = 0;
    for (nth, &at) in messages.iter().enumerate() {
        let kind = match nth {
            0 if at >= SYSTEM => TailKind::System,
            _ if nth + 1 == messages.len() => TailKind::LastTurn,
            _ if at - last.max(at / PAGE * PAGE) >= GAP => TailKind::Inside,
            _ => continue,
        };
        last = at;
        stops.push_back(Stop { at, kind });
    }
    stops.push_back(Stop { at: tokens.len(), kind: TailKind::LastTurn });
    stops.retain(|stop| stop.at > cached && stop.at % PAGE != 0);
    stops
}

#[cfg(test)]
mod tests {
    use super::*;
    use TailKind::{Inside, LastTurn, System};

    const USER: u32 = 7;

    fn check(messages: &[usize], cached: usize, want: &[(usize, TailKind)]) {
        let mut tokens = Vec::new();
        for &len in messages {
            tokens.extend(std::iter::repeat_n(1, len));
            tokens.push(USER);
        }
        tokens.extend([1; 10]);
        let got: Vec<_> =
            stops(&tokens, cached, Some(USER)).iter().map(|stop| (stop.at, stop.kind)).collect();
        assert_eq!(got, want, "{messages:?}");
    }

    #[test]
    fn a_state_is_kept_where_somebody_may_come_back_to() {
        check(&[99], 0, &[(100, System), (110, LastTurn)]);
        check(&[5], 0, &[(6, LastTurn), (16, LastTurn)]);
        check(&[99, 299, 19, 199], 0, &[(100, System), (400, Inside), (620, LastTurn), (630, LastTurn)]);
        check(&[99, 299, 19, 199], 400, &[(620, LastTurn), (630, LastTurn)]);
    }

    #[test]
    fn the_end_of_a_page_is_kept_anyway() {
        check(&[1023, 99], 0, &[(1124, LastTurn), (1134, LastTurn)]);
        check(&[1013, 9], 0, &[(1014, System), (1034, LastTurn)]);
    }
}
