//! Asking for the next step while the device is busy with this one.
//!
//! A step can be asked for but for its tokens: those are chosen once the logits of the step before are there. So a device
//! that works off what it was asked for ([`Ops::foresee`]) need not wait until all of the step is asked for then.

use crate::forward::{Entry, Output, Wanted, forward};
use crate::ops::Ops;
use crate::tap::NoTap;
use crate::timeline::Timeline;
use crate::weights::Model;

/// What stands for a token that is not known yet.
const UNKNOWN: u32 = 0;

/// Asks for a step of one more token of each timeline, of which the logits are wanted. The tokens are brought by
/// [`go_on`], which has to follow; until then the timelines end with tokens that only stand for them, and nothing but
/// logits of the step before may be read.
///
/// `None`, and nothing is changed, if the backend has nothing to gain, or a timeline has room for no more than one
/// token of its page or of the context: what is finished with it cannot wait for a token.
pub fn foresee<B: Ops>(
    model: &Model<B>,
    ops: &B,
    timelines: &mut [&mut Timeline<B>],
) -> Option<Output<B::Array>> {
    let has_room = |t: &&mut Timeline<B>| t.room() > 1 && t.len() < model.config.context;
    if timelines.is_empty() || !timelines.iter().all(has_room) {
        return None;
    }
    let mut output = None;
    ops.foresee(&mut || {
        let entry = |timeline| Entry { timeline, tokens: &[UNKNOWN], wanted: Wanted::Last };
        let mut batch: Vec<_> = timelines.iter_mut().map(|timeline| entry(&mut **timeline)).collect();
        let done = forward(model, ops, &mut batch, &mut NoTap);
        output = Some(done.expect("there is room, and the token is one of the vocabulary"));
    });
    output
}

/// Brings the tokens of the step that was foreseen for these timelines. A timeline without one is as if it had not been
/// among them.
pub fn go_on<B: Ops>(ops: &B, timelines: &mut [&mut Timeline<B>], tokens: &[Option<u32>]) {
    assert_eq!(timelines.len(), tokens.len(), "a token for each timeline, or none");
    ops.go_on(&tokens.iter().map(|token| token.unwrap_or(UNKNOWN)).collect::<Vec<_>>());
    for (timeline, token) in timelines.iter_mut().zip(tokens) {
        match token {
            Some(token) => timeline.amend(*token),
            None => drop(timeline.cut_back(ops, timeline.len() - 1)),
        }
    }
}
