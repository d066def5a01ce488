//! Batches of usual sizes that nobody wants, for backends that get ready for what they are asked for.

use crate::forward::{Entry, Wanted, forward};
use crate::kv::KvFormat;
use crate::mtp::{DraftEntry, DraftState, draft};
use crate::ops::Ops;
use crate::tap::NoTap;
use crate::timeline::{PAGE, Timeline};
use crate::weights::Model;

/// Rows of the batches: single tokens, one of which completes a window of four; a few; and parts of prompts. Backends go
/// different ways for them.
const ROWS: [usize; 10] = [1, 1, 1, 1, 2, 4, 16, 128, 256, 512];

/// How many of several conversations write at the same time.
const TOGETHER: [usize; 4] = [2, 4, 8, 16];

/// Asks for batches of usual sizes, the largest ones included, at the beginning of a conversation and where the indexer has
/// to choose; for a token of each of several conversations; and for guesses, if the model has a block for them. Nothing is
/// read; for [`Ops::rehearse`].
///
/// - `conversations`: the most at once
pub fn rehearsal<B: Ops>(model: &Model<B>, ops: &B, kv: KvFormat, conversations: usize) {
    let config = &model.config;
    let large =
        std::iter::successors(Some(PAGE), |rows| Some(2 * rows)).take_while(|&rows| rows <= ops.most_rows());
    let mut timeline = Timeline::new(ops, config, kv);
    let pass = |timelines: &mut [Timeline<B>], rows: usize| {
        let rows = rows.min(config.context - timelines[0].len());
        if rows > 0 {
            let tokens = vec![0; rows];
            let entry = |timeline| Entry { timeline, tokens: &tokens, wanted: Wanted::Last };
            let mut batch: Vec<_> = timelines.iter_mut().map(entry).collect();
            forward(model, ops, &mut batch, &mut NoTap).expect("it fits");
        }
    };
    let usual = |timeline: &mut Timeline<B>| {
        for rows in ROWS {
            pass(std::slice::from_mut(timeline), rows);
        }
        for count in TOGETHER.into_iter().filter(|&count| count < 2 * conversations) {
            let mut timelines: Vec<_> = (0..count).map(|_| timeline.fork()).collect();
            // One of four tokens completes a window.
            for _ in 0..4 {
                pass(&mut timelines, 1);
            }
        }
    };
    if model.mtp.is_some() {
        guess(model, ops, kv);
    }
    for start in [0, 4 * config.top_k + 4] {
        while timeline.len() < start.min(config.context) {
            pass(std::slice::from_mut(&mut timeline), PAGE);
        }
        usual(&mut timeline);
        for rows in large.clone() {
            pass(std::slice::from_mut(&mut timeline), rows);
        }
    }
}

/// A prompt's end, a token with one and with two guesses, and what the MTP block does after each.
fn guess<B: Ops>(model: &Model<B>, ops: &B, kv: KvFormat) {
    let config = &model.config;
    let mut timeline = Timeline::new(ops, config, kv);
    let mut state = DraftState::new(ops, model, kv, 1);
    for rows in [config.window, 2, 3].into_iter().filter(|&rows| rows <= config.context) {
        timeline.cut_back(ops, 0);
        let wanted = if rows == config.window { Wanted::LastAndStreams(rows) } else { Wanted::All };
        let tokens = vec![0; rows];
        let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted }];
        let output = forward(model, ops, &mut batch, &mut NoTap).expect("it fits");
        let mut streams = output.streams.expect("asked for");
        for guessed in [&tokens[..], &[0]] {
            let mut batch = [DraftEntry { state: &mut state, tokens: guessed, wanted: Wanted::Last }];
            let output =
                draft(model, ops, &streams, &mut batch, &mut NoTap).expect("a token of the vocabulary");
            streams = output.streams.expect("of a row that has logits");
        }
    }
}
