//! Speculation: the model's MTP block guesses what comes after the next token, and the model reads its guesses along with
//! that token. Where it then chooses what was guessed, what follows is computed already; what was guessed wrong is cut off.
//!
//! A reply is the same with guesses as without: each of its tokens is chosen from logits of the model itself, in the same
//! way. (On a GPU a row is rounded otherwise among others than alone, so where two tokens are nearly as probable, guesses can
//! make a reply another one, as can other conversations.)
//!
//! - [`Drafter`] is the block's memory of one conversation, and [`learn`] lets it see what was read and guess.
//! - [`Stakes`] finds out how many guesses are worth it: a batch of two rows takes longer than one of one.

use crate::loaded::LoadedModel;
use crate::rate::Rate;
use crate::sampler::largest;
use model::ops::{DeviceError, LeadersAsk};
use model::{DraftEntry, DraftState, KvFormat, NoTap, Ops, Timeline, Wanted, draft};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The most tokens that are guessed at a time: the block was trained for one, and each further guess is worth less.
pub const MOST_DRAFTS: usize = 3;

/// How many of them are tried where nothing else is said.
const USUAL: usize = 2;

/// How many tokens to guess, with a model that has a block for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafts {
    /// As many as turn out to be quickest, or none.
    #[default]
    Auto,
    /// Always so many, up to [`MOST_DRAFTS`], or fewer where several conversations write at once; 0 for none.
    Fixed(usize),
}

impl FromStr for Drafts {
    type Err = String;

    fn from_str(text: &str) -> Result<Drafts, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Drafts::Auto),
            (_, Ok(count @ 0..=MOST_DRAFTS)) => Ok(Drafts::Fixed(count)),
            _ => Err(format!("it is `auto` or a number from 0 to {MOST_DRAFTS}")),
        }
    }
}

impl Drafts {
    /// The most tokens that will be guessed at a time.
    fn most(self) -> usize {
        match self {
            Drafts::Auto => USUAL,
            Drafts::Fixed(count) => count.min(MOST_DRAFTS),
        }
    }
}

/// How many passes the block may lag behind: their streams stay on the device until it sees them. Enough for finding out how
/// fast it goes without guesses.
const MOST_UNSEEN: usize = 2 * TRIAL as usize;

/// What the block knows of one conversation, and its guesses.
pub(crate) struct Drafter<B: Ops> {
    state: Option<DraftState<B>>,
    unseen: Vec<Streams<B>>,
    /// It was not shown the last tokens, and there are none of the streams any more that it would need.
    pub(crate) is_behind: bool,
    guesses: Vec<u32>,
}

/// Streams of consecutive positions of a conversation.
pub(crate) struct Streams<B: Ops> {
    /// Of a pass.
    pub(crate) all: Arc<B::Array>,
    /// The rows that belong to the conversation.
    pub(crate) rows: Range<usize>,
    /// Position of the first.
    pub(crate) start: usize,
}

impl<B: Ops> Clone for Streams<B> {
    fn clone(&self) -> Self {
        Streams { all: self.all.clone(), rows: self.rows.clone(), start: self.start }
    }
}

impl<B: Ops> Streams<B> {
    /// Position after the last.
    fn end(&self) -> usize {
        self.start + self.rows.len()
    }
}

impl<B: Ops> Drafter<B> {
    /// Of a conversation of which it knows nothing.
    pub(crate) fn new() -> Self {
        Drafter { state: None, unseen: Vec::new(), is_behind: false, guesses: Vec::new() }
    }

    /// The guesses, once: as many as fit in a batch after the next token of `timeline`, without finishing a page, which could
    /// not be taken back, and as the reply can use.
    ///
    /// - `context`: tokens that the timeline may have
    /// - `left`: tokens that the reply may still have
    pub(crate) fn take_guesses(&mut self, timeline: &Timeline<B>, context: usize, left: usize) -> Vec<u32> {
        let room = timeline.room().saturating_sub(2);
        let context = context.saturating_sub(timeline.len() + 1);
        let mut guesses = std::mem::take(&mut self.guesses);
        guesses.truncate(room.min(context).min(left.saturating_sub(1)));
        guesses
    }

    /// Takes note of streams that the block is to see later, if it is to guess again.
    pub(crate) fn keep(&mut self, streams: Streams<B>) {
        if self.unseen.len() == MOST_UNSEEN {
            self.unseen.clear();
            self.is_behind = true;
        }
        if !self.is_behind {
            self.unseen.push(streams);
        }
    }

    /// Lets the block see what was kept for it, up to position `start`.
    fn catch_up(&mut self, loaded: &LoadedModel<B>, kv: KvFormat, start: usize, tokens: &[u32]) {
        let LoadedModel { ops, model, .. } = loaded;
        let mut unseen = std::mem::take(&mut self.unseen);
        // What was cut off meanwhile is of no use; neither is what has a gap after it.
        for streams in &mut unseen {
            streams.rows.end -= streams.end().saturating_sub(start).min(streams.rows.len());
        }
        unseen.retain(|streams| !streams.rows.is_empty());
        let gap = |at: &usize| unseen.get(at + 1).map_or(start, |next| next.start) != unseen[*at].end();
        let first = (0..unseen.len()).rev().find(gap).map_or(0, |at| at + 1);
        for streams in unseen.drain(first..) {
            let state = self.state_at(loaded, kv, streams.start + 1);
            let next = &tokens[streams.start + 1..=streams.end()];
            let rows = ops.take_rows(&streams.all, &streams.rows.collect::<Vec<_>>());
            let mut batch = [DraftEntry { state, tokens: next, wanted: Wanted::None }];
            draft(model, ops, &rows, &mut batch, &mut NoTap).expect("tokens that the model has read");
        }
        self.state_at(loaded, kv, start + 1);
        self.is_behind = false;
    }

    /// The block's memory up to position `at`, or an empty one that begins there.
    fn state_at(
        &mut self,
        LoadedModel { ops, model, .. }: &LoadedModel<B>,
        kv: KvFormat,
        at: usize,
    ) -> &mut DraftState<B> {
        let state = self.state.take().filter(|state| state.len() == at);
        self.state.insert(state.unwrap_or_else(|| DraftState::new(ops, model, kv, at)))
    }
}

/// What one conversation's block is to see of a pass.
pub(crate) struct Lesson<'a, B: Ops> {
    pub(crate) drafter: &'a mut Drafter<B>,
    pub(crate) streams: Streams<B>,
    /// The conversation's tokens up to the last of those rows.
    pub(crate) tokens: &'a [u32],
    /// The token after it.
    pub(crate) next: u32,
}

impl<B: Ops> Lesson<'_, B> {
    /// The token after each row of the pass.
    fn following(&self) -> Vec<u32> {
        let mut tokens = self.tokens[self.streams.start + 1..].to_vec();
        tokens.push(self.next);
        tokens
    }
}

/// Lets the block see what was read of some conversations in one pass, and guess `count` tokens of each, at least one.
///
/// - `streams`: those of the pass
///
/// # Errors
///
/// If the device failed.
pub(crate) fn learn<B: Ops>(
    loaded: &LoadedModel<B>,
    kv: KvFormat,
    streams: &B::Array,
    mut lessons: Vec<Lesson<'_, B>>,
    count: usize,
) -> Result<(), DeviceError> {
    let LoadedModel { ops, model, .. } = loaded;
    let mut rows = Vec::new();
    for Lesson { drafter, streams, tokens, .. } in &mut lessons {
        drafter.catch_up(loaded, kv, streams.start, tokens);
        rows.extend(streams.rows.clone());
    }
    let mut streams = ops.take_rows(streams, &rows);
    let mut next: Vec<Vec<u32>> = lessons.iter().map(Lesson::following).collect();
    for nth in 0..count {
        let states = lessons.iter_mut().map(|l| l.drafter.state.as_mut().expect("it has caught up"));
        let mut batch: Vec<_> = states
            .zip(&next)
            .map(|(state, tokens)| DraftEntry { state, tokens, wanted: Wanted::Last })
            .collect();
        let output = draft(model, ops, &streams, &mut batch, &mut NoTap).expect("tokens of the vocabulary");
        let guesses = best(ops, &output.logits.expect("asked for"), lessons.len())?;
        for (lesson, &guess) in lessons.iter_mut().zip(&guesses) {
            lesson.drafter.guesses.truncate(nth);
            lesson.drafter.guesses.push(guess);
        }
        next = guesses.into_iter().map(|guess| vec![guess]).collect();
        streams = output.streams.expect("of rows that have logits");
    }
    for lesson in &mut lessons {
        let state = lesson.drafter.state.as_mut().expect("it has caught up");
        state.cut_back(lesson.streams.end() + 1); // what it remembers of guesses is itself a guess
    }
    Ok(())
}

/// The most probable token of each row of logits.
fn best<B: Ops>(ops: &B, logits: &B::Array, rows: usize) -> Result<Vec<u32>, DeviceError> {
    let ask = LeadersAsk { margin: 0.0, temperature: 1.0 };
    let leaders = ops.read_leaders(logits, &vec![ask; rows])?;
    let first = |leaders: Option<model::ops::Leaders>| Some(leaders?.tokens.first()?.0);
    if let Some(best) = leaders.and_then(|leaders| leaders.into_iter().map(first).collect()) {
        return Ok(best);
    }
    let logits = ops.read(logits)?;
    Ok(logits.chunks_exact(logits.len() / rows).map(largest).collect())
}

/// Rows of a batch up to which each costs little beside the weights, which are read for all of them.
const FEW_ROWS: usize = 8;

/// With more conversations than these that write at once nothing is guessed: a batch has rows enough then.
pub(crate) const MOST_GUESSING: usize = FEW_ROWS / 2;

/// Steps in which a number of guesses is tried.
const TRIAL: u32 = 12;

/// Steps after which it is thought over which number is best.
const STINT: u32 = 16;

/// After how many stints another number is tried again, for things change: texts, how much there is to attend to, the clock
/// of a device that was at rest. Each time that it is no better, twice as many follow, up to the most.
const STINTS: [u32; 2] = [2, 64];

/// How many guesses are worth it, by how fast replies were with so many.
pub(crate) struct Stakes {
    drafts: Drafts,
    most: usize,
    /// Tokens a second with each number of guesses that was tried.
    rates: [Option<Rate>; MOST_DRAFTS + 1],
    current: usize,
    /// Steps before it is thought over.
    left: u32,
    /// Stints since another number than the best was tried, and how many there are to be.
    stints: u32,
    patience: u32,
    /// The number that was tried again last.
    other: usize,
}

impl Stakes {
    /// For steps in which so many conversations write.
    pub(crate) fn new(drafts: Drafts, writers: usize) -> Self {
        Stakes {
            drafts,
            most: drafts.most().min((FEW_ROWS / writers).saturating_sub(1)),
            rates: Default::default(),
            current: 0,
            left: 0,
            stints: 0,
            patience: STINTS[0],
            other: 0,
        }
    }

    /// Whether any tokens may be guessed.
    pub(crate) fn may_guess(&self) -> bool {
        self.most > 0
    }

    /// A reply begins. The block can see all that it needs for good guesses now.
    pub(crate) fn begin(&mut self) {
        if self.current == 0 {
            self.left = 0;
        }
    }

    /// How many tokens to guess for the next step.
    ///
    /// - `can_begin`: whether the block has seen what it needs for good guesses
    pub(crate) fn next(&mut self, can_begin: bool) -> usize {
        if let Drafts::Fixed(_) = self.drafts {
            return self.most;
        }
        if self.left == 0 {
            self.choose(can_begin);
        }
        self.left -= 1;
        self.current
    }

    fn choose(&mut self, can_begin: bool) {
        let best = self.best();
        // One more is worth a try only if so many are worth it.
        let new = if self.rates[0].is_none() { 0 } else { best + 1 };
        if new <= self.most && self.rates[new].is_none() && (new == 0 || can_begin) {
            return self.try_out(new);
        }
        (self.current, self.left) = (best, STINT);
        self.stints += 1;
        if self.stints < self.patience || !can_begin {
            return;
        }
        (self.stints, self.patience) = (0, (2 * self.patience).min(STINTS[1]));
        let all = (self.other + 1..=self.most).chain(0..=self.other);
        if let Some(other) = all.into_iter().find(|&count| count != best && self.rates[count].is_some()) {
            self.other = other;
            self.try_out(other);
        }
    }

    fn try_out(&mut self, count: usize) {
        (self.current, self.left, self.rates[count]) = (count, TRIAL, Some(Rate::default()));
    }

    /// The number with which it was quickest, the least of equals.
    fn best(&self) -> usize {
        let rate = |count: &usize| self.rates[*count].map_or(-1.0, Rate::per_second);
        (0..=self.most).rev().max_by(|a, b| rate(a).total_cmp(&rate(b))).expect("at least none")
    }

    /// Takes note of a step with so many guesses, after which there were so many more tokens, and as many guesses again.
    pub(crate) fn took(&mut self, guesses: usize, tokens: usize, time: Duration) {
        let before = self.best();
        if let Some(rate) = self.rates.get_mut(guesses).and_then(Option::as_mut) {
            rate.add(tokens, time);
        }
        if self.left == 0 && self.best() != before {
            self.patience = STINTS[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a device on which `rates[k]` tokens a second come of `k` guesses: how often each number was used.
    fn play(stakes: &mut Stakes, steps: u32, rates: [f64; 3]) -> [u32; 3] {
        let mut used = [0; 3];
        for _ in 0..steps {
            let guesses = stakes.next(true);
            used[guesses] += 1;
            stakes.took(guesses, 1 + guesses, Duration::from_secs_f64((1 + guesses) as f64 / rates[guesses]));
        }
        used
    }

    #[test]
    fn what_is_quickest_is_used_most() {
        for (rates, best) in [([9.0, 5.0, 4.0], 0), ([9.0, 12.0, 11.0], 1), ([9.0, 10.0, 13.0], 2)] {
            let mut stakes = Stakes::new(Drafts::Auto, 1);
            stakes.begin();
            let first = play(&mut stakes, 2 * TRIAL, rates);
            assert_eq!(first, [TRIAL, TRIAL, 0], "one more is tried where so many are worth it");
            let used = play(&mut stakes, 4000, rates);
            assert!(used[best] > 3800, "{rates:?}: {used:?}");
        }
    }

    /// A reply that is easy to guess after many that are not.
    #[test]
    fn what_becomes_quicker_is_noticed() {
        let mut stakes = Stakes::new(Drafts::Auto, 1);
        stakes.begin();
        play(&mut stakes, 2000, [9.0, 5.0, 4.0]);
        let used = play(&mut stakes, 20_000, [9.0, 12.0, 14.0]);
        assert!(used[2] > 10_000, "{used:?}");
        let used = play(&mut stakes, 2000, [9.0, 5.0, 4.0]);
        assert!(used[0] > 1800, "{used:?}");
    }

    /// The first steps of a device that was at rest are slow, whatever is guessed.
    #[test]
    fn a_slow_beginning_is_forgotten() {
        let mut stakes = Stakes::new(Drafts::Auto, 1);
        stakes.begin();
        play(&mut stakes, TRIAL, [1.0, 0.5, 0.5]);
        let used = play(&mut stakes, 500, [9.0, 5.0, 4.0]);
        assert!(used[0] > 350, "{used:?}");
    }

    #[test]
    fn batches_stay_small() {
        let most = |writers| Stakes::new(Drafts::Fixed(3), writers).next(true);
        assert_eq!([1, 2, 3, 4, 5, 8].map(most), [3, 3, 1, 1, 0, 0]);
    }

    /// Guessing begins where the block has seen what was read: at the beginning of a reply, and not later.
    #[test]
    fn what_was_never_tried_is_not_tried_behind() {
        let mut stakes = Stakes::new(Drafts::Auto, 1);
        stakes.begin();
        for _ in 0..1000 {
            assert_eq!(stakes.next(false), 0);
            stakes.took(0, 1, Duration::from_millis(100));
        }
        stakes.begin();
        assert_eq!(stakes.next(true), 1);
    }

    #[test]
    fn a_fixed_number_is_kept_to() {
        for count in 0..=MOST_DRAFTS {
            let mut stakes = Stakes::new(Drafts::Fixed(count), 1);
            stakes.begin();
            assert_eq!((0..100).map(|_| stakes.next(true)).sum::<usize>(), 100 * count);
        }
        assert_eq!("auto".parse(), Ok(Drafts::Auto));
        assert_eq!("2".parse(), Ok(Drafts::Fixed(2)));
        assert!(
            "4".parse::<Drafts>().is_err()
                && "-1".parse::<Drafts>().is_err()
                && "x".parse::<Drafts>().is_err()
        );
    }
}
