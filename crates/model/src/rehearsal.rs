//! Batches of usual sizes that nobody wants, for backends that get ready for what they are asked for.

use crate::forward::{Entry, Wanted, forward};
use crate::kv::KvFormat;
use crate::ops::Ops;
use crate::tap::NoTap;
use crate::timeline::{PAGE, Timeline};
use crate::weights::Model;

/// Rows of the batches: single tokens, one of which completes a window of four; a few; and parts of prompts. Backends go
/// different ways for them.
const ROWS: [usize; 10] = [1, 1, 1, 1, 2, 4, 16, 128, 256, 512];

/// Asks for batches of usual sizes, at the beginning of a conversation and where the indexer has to choose, and for
/// whole pages in between. Nothing is read; for [`Ops::rehearse`].
pub fn rehearsal<B: Ops>(model: &Model<B>, ops: &B, kv: KvFormat) {
    let config = &model.config;
    let mut timeline = Timeline::new(ops, config, kv);
    let mut pass = |rows: usize| {
        let rows = rows.min(timeline.room()).min(config.context - timeline.len());
        if rows > 0 {
            let tokens = vec![0; rows];
            let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::Last }];
            forward(model, ops, &mut batch, &mut NoTap).expect("it fits");
        }
        timeline.len()
    };
    let chooses = (4 * config.top_k + 4).min(config.context);
    for rows in ROWS {
        pass(rows);
    }
    while pass(PAGE) < chooses {}
    for rows in ROWS {
        pass(rows);
    }
}
