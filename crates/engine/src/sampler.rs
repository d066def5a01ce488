//! From logits to the next token.
//!
//! [`Sampler::pick`] takes these steps, in this order:
//!
//! 1. *bias*: each token's bias is added to its logit;
//! 2. *repetition penalty* `r`, for tokens of the prompt and of the reply: a positive logit is divided by
//!    `r`, a negative one multiplied (Keskar et al., "CTRL", 2019);
//! 3. *presence and frequency penalty*, for tokens of the reply: `presence + frequency * count` is taken off
//!    (as the OpenAI API defines them);
//! 4. at *temperature* 0 the token with the largest logit is picked, the lowest id on a tie; otherwise
//!    logits are divided by the temperature, and the steps below follow;
//! 5. *top-k*: the k most probable tokens stay, lower ids first on a tie; 0 keeps all;
//! 6. *top-p*: of these, the fewest most probable ones stay whose share is at least p;
//! 7. *min-p*: of these, those at least `min_p` times as probable as the most probable one stay;
//! 8. one of the rest is drawn, each with its share of their probability.
//!
//! The result depends on the logits, the parameters and the seed only, and not on the platform: steps 4 to
//! 8 are computed in f64 with a portable exponential function, sums run in a fixed order. Nothing sorts the
//! whole vocabulary.
//!
//! Where logits are on a device, mostly not all of them need to travel: [`Sampler::ask`] says which, and
//! [`Sampler::pick_among`] picks the same token as [`Sampler::pick`] would, or says that it cannot know.

use crate::random::Random;
use model::ops::{Leaders, LeadersAsk};
use std::cmp::Ordering;
use std::collections::HashMap;

/// How the next token is chosen. The steps are described at the top of [this module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 means greedy.
    pub temperature: f32,
    /// How many of the most probable tokens stay; 0 means all.
    pub top_k: usize,
    /// Share of probability that stays, above 0 and at most 1.
    pub top_p: f32,
    /// Least probability relative to the most probable token, 0 to 1.
    pub min_p: f32,
    /// Divides the logits of tokens that were there before, 0.01 to 100; 1 means off.
    pub repetition_penalty: f32,
    /// Taken off the logit of each token that is in the reply, -100 to 100.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time it is in the reply, -100 to 100.
    pub frequency_penalty: f32,
    /// Added to the logits of some tokens, -100 to 100.
    pub bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    /// What the model card recommends, with the tail of improbable tokens cut off.
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Checks every parameter, for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    ///
    /// The first that is out of range.
    pub fn check(&self, vocab: usize) -> Result<(), SamplingError> {
        let refuse = |name, found: f32, need| Err(SamplingError::Range { name, found, need });
        match self {
            s if !(0.0..f32::INFINITY).contains(&s.temperature) => {
                refuse("temperature", s.temperature, "0 or more")
            }
            s if !(s.top_p > 0.0 && s.top_p <= 1.0) => refuse("top-p", s.top_p, "more than 0 and at most 1"),
            s if !(0.0..=1.0).contains(&s.min_p) => refuse("min-p", s.min_p, "between 0 and 1"),
            s if !(0.01..=100.0).contains(&s.repetition_penalty) => {
                refuse("repetition penalty", s.repetition_penalty, "between 0.01 and 100")
            }
            s if !(-100.0..=100.0).contains(&s.presence_penalty) => {
                refuse("presence penalty", s.presence_penalty, "between -100 and 100")
            }
            s if !(-100.0..=100.0).contains(&s.frequency_penalty) => {
                refuse("frequency penalty", s.frequency_penalty, "between -100 and 100")
            }
            s => s.bias.iter().try_for_each(|&(token, bias)| match bias {
                _ if token as usize >= vocab => Err(SamplingError::BiasToken { token, vocab }),
                -100.0..=100.0 => Ok(()),
                _ => refuse("logit bias", bias, "between -100 and 100"),
            }),
        }
    }
}

/// A parameter that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A number is out of range.
    #[error("{name} is {found}, needed {need}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// Its value.
        found: f32,
        /// What it may be.
        need: &'static str,
    },
    /// A bias for a token that does not exist.
    #[error("a logit bias for token {token}, but the vocabulary has {vocab} tokens")]
    BiasToken {
        /// The token.
        token: u32,
        /// Number of tokens.
        vocab: usize,
    },
}

/// The model gave logits that say nothing: a broken file, or a bug.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the model gave {logit} as the logit of token {token}; a finite number was needed")]
pub struct BadLogit {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

/// Which of the steps count for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freedom {
    /// All, as the parameters say.
    Free,
    /// The most probable token after step 1: markup has to be exact, and penalties would punish it for
    /// repeating itself.
    Strict,
}

/// Chooses one token after another for one reply.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    counts: HashMap<u32, Count>,
    /// Scratch space: what steps 5 to 7 have left, in order of ids.
    candidates: Vec<Candidate>,
}

/// How far below the most probable token, in units of the temperature, tokens are asked for where nothing says how
/// many count: a ten-thousandth of its probability.
const TAIL: f64 = 9.2;

/// How often a token was there before.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    in_reply: u32,
}

/// A token and the logarithm of its probability relative to the most probable one.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    score: f64,
}

impl Sampler {
    /// A sampler for a reply to `prompt`.
    ///
    /// - `sampling` has been checked
    pub fn new(sampling: Sampling, seed: u64, prompt: &[u32]) -> Sampler {
        let counts = match sampling.repetition_penalty {
            1.0 => HashMap::new(),
            _ => prompt.iter().map(|&token| (token, Count::default())).collect(),
        };
        Sampler { sampling, random: Random::new(seed), counts, candidates: Vec::new() }
    }

    /// Picks the next token; [`Sampler::accept`] makes it part of the reply.
    ///
    /// - `logits`: `[vocab]`, as the model gave them; bias and penalties are worked into them
    ///
    /// # Errors
    ///
    /// If a logit is NaN or positive infinity, or all are negative infinity.
    pub fn pick(&mut self, logits: &mut [f32], freedom: Freedom) -> Result<u32, BadLogit> {
        check_logits(logits)?;
        for &(token, bias) in &self.sampling.bias {
            logits[token as usize] += bias;
        }
        if freedom == Freedom::Strict {
            return Ok(largest(logits));
        }
        self.penalize(logits);
        if self.sampling.temperature == 0.0 {
            return Ok(largest(logits));
        }
        Ok(self.draw(logits))
    }

    /// Of which tokens it is enough to know, most of the time; `None` if any token can matter.
    pub fn ask(&self, freedom: Freedom) -> Option<LeadersAsk> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let s = &self.sampling;
        let penalties = (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) != (1.0, 0.0, 0.0);
        let raised = s.bias.iter().any(|&(_, bias)| bias > 0.0);
        if raised || (!self.is_greedy(freedom) && !s.bias.is_empty()) {
            return None;
        }
        if freedom == Freedom::Strict {
            return Some(LeadersAsk { margin: 0.0, temperature: 1.0 });
        }
        let margin = match () {
            () if penalties => return None,
            () if temperature == 0.0 => return Some(LeadersAsk { margin: 0.0, temperature: 1.0 }),
            // A little more than what counts, for what rounding takes.
            () if min_p > 0.0 => -f64::from(temperature) * libm::log(f64::from(min_p)) * 1.001 + 1e-3,
            () if top_p < 1.0 || top_k > 0 => f64::from(temperature) * TAIL,
            () => return None,
        };
        Some(LeadersAsk { margin: margin as f32, temperature })
    }

    /// Picks as [`Sampler::pick`] would from all logits; `None` if that needs more than what was asked for.
    /// Nothing has changed then.
    ///
    /// - `leaders`: as [`Sampler::ask`] wants them
    pub fn pick_among(&mut self, leaders: &Leaders, freedom: Freedom) -> Option<u32> {
        let ask = self.ask(freedom)?;
        let best = self.best_among(leaders)?;
        if self.is_greedy(freedom) {
            return Some(best.0);
        }
        self.narrow(leaders, ask, f64::from(best.1)).then(|| self.draw_one(best.0))
    }

    /// Whether [`Sampler::pick_among`] would pick one.
    pub fn suffices(&mut self, leaders: &Leaders, freedom: Freedom) -> bool {
        match (self.ask(freedom), self.best_among(leaders)) {
            (Some(ask), Some((_, max))) => {
                self.is_greedy(freedom) || self.narrow(leaders, ask, f64::from(max))
            }
            _ => false,
        }
    }

    /// Whether the largest logit decides.
    fn is_greedy(&self, freedom: Freedom) -> bool {
        freedom == Freedom::Strict || self.sampling.temperature == 0.0
    }

    /// The first of the largest with their biases, if none of the other tokens can be as large: biases only make smaller
    /// here, and without them the others are smaller than the largest leader.
    fn best_among(&self, leaders: &Leaders) -> Option<(u32, f32)> {
        let first_largest = |best: (u32, f32), other: (u32, f32)| if other.1 > best.1 { other } else { best };
        let biased = |(token, logit): (u32, f32)| {
            let own = self.sampling.bias.iter().filter(|&&(other, _)| other == token);
            (token, own.fold(logit, |logit, &(_, bias)| logit + bias))
        };
        let largest = leaders.tokens.iter().copied().reduce(first_largest)?;
        let best = leaders.tokens.iter().copied().map(biased).reduce(first_largest)?;
        (best.1 >= largest.1).then_some(best)
    }

    /// Takes note of a token of the reply.
    pub fn accept(&mut self, token: u32) {
        self.counts.entry(token).or_default().in_reply += 1;
    }

    fn penalize(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        for (&token, &Count { in_reply }) in &self.counts {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            if in_reply > 0 {
                *logit -= presence_penalty + frequency_penalty * in_reply as f32;
            }
        }
    }

    /// Steps 4 to 8 at a temperature above 0.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let max = f64::from(logits[largest(logits) as usize]);
        let score = |&logit: &f32| (f64::from(logit) - max) / f64::from(temperature);
        let rest = &mut self.candidates;
        rest.clear();
        rest.extend((0..).zip(logits).map(|(token, logit)| Candidate { token, score: score(logit) }));
        if top_k > 0 {
            keep_top(rest, top_k);
        }
        if top_p < 1.0 {
            let need = f64::from(top_p) * total_weight(rest);
            let count = nucleus(rest, need).unwrap_or(rest.len());
            keep_top(rest, count);
        }
        let least = libm::log(f64::from(min_p));
        rest.retain(|c| c.score >= least);
        self.draw_one(largest(logits))
    }

    /// Steps 4 to 7 with the leaders alone. Returns whether what is left is what would be left of all tokens.
    fn narrow(&mut self, leaders: &Leaders, ask: LeadersAsk, max: f64) -> bool {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let temperature = f64::from(temperature);
        let least = libm::log(f64::from(min_p));
        // Down to this score all tokens are there, for all that f32 takes off the margin.
        let known = (max.abs() * 1e-6 - f64::from(ask.margin)) / temperature;
        let rest = &mut self.candidates;
        rest.clear();
        let score = |logit: f32| (f64::from(logit) - max) / temperature;
        rest.extend(leaders.tokens.iter().map(|&(token, logit)| Candidate { token, score: score(logit) }));
        let mut complete = least >= known;
        let mut others = f64::from(leaders.rest);
        if (1..=rest.len()).contains(&top_k) {
            keep_top(rest, top_k);
            (complete, others) = (true, 0.0);
        } else if top_k > 0 && top_p < 1.0 {
            return false; // the total is that of the `top_k`, of which some are not here
        }
        if top_p < 1.0 {
            // What the others weigh is known to a thousandth, and sums in another order differ a little.
            let leading = total_weight(rest);
            let bound = |sign: f64| {
                let total = leading * (1.0 + sign * 1e-9) + others * (1.0 + sign * 1e-3);
                nucleus(rest, f64::from(top_p) * total)
            };
            let (few, many) = (bound(-1.0), bound(1.0));
            let stay = rest.iter().filter(|c| c.score >= least).count();
            match (few, many) {
                (Some(few), Some(many)) if few == many => {
                    keep_top(rest, few);
                    complete = true;
                }
                // However many are in the nucleus: those that min-p leaves are.
                _ if complete && stay <= few.unwrap_or(rest.len()) => {}
                _ => return false,
            }
        }
        rest.retain(|c| c.score >= least);
        complete
    }

    /// Step 8: one of those that are left, or `best` where rounding leaves none.
    fn draw_one(&mut self, best: u32) -> u32 {
        let rest = &self.candidates;
        let total: f64 = rest.iter().map(Candidate::weight).sum();
        let mut left = self.random.unit() * total;
        let drawn = rest.iter().find(|c| {
            left -= c.weight();
            left < 0.0
        });
        // Rounding may leave nothing for the last one; the most probable one is always among them.
        drawn.map_or(best, |c| c.token)
    }
}

impl Candidate {
    /// Probability relative to the most probable token.
    fn weight(&self) -> f64 {
        libm::exp(self.score)
    }
}

/// The most probable token, the lowest on a tie.
///
/// # Errors
///
/// As [`Sampler::pick`].
pub fn greedy(logits: &[f32]) -> Result<u32, BadLogit> {
    check_logits(logits)?;
    Ok(largest(logits))
}

fn check_logits(logits: &[f32]) -> Result<(), BadLogit> {
    let bad = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    if let Some((token, &logit)) = (0..).zip(logits).find(|&(_, &logit)| bad(logit)) {
        return Err(BadLogit { token, logit });
    }
    match logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
        true => Err(BadLogit { token: 0, logit: f32::NEG_INFINITY }),
        false => Ok(()),
    }
}

/// The token with the largest logit, the lowest id on a tie.
pub(crate) fn largest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

fn descending(a: &f64, b: &f64) -> Ordering {
    b.total_cmp(a)
}

/// Keeps the `k` candidates of greatest score, the first ones on a tie, in their order.
fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    if k >= candidates.len() {
        return;
    }
    let mut scores: Vec<f64> = candidates.iter().map(|c| c.score).collect();
    let (above, &mut last, _) = scores.select_nth_unstable_by(k - 1, descending);
    let mut ties = k - above.iter().filter(|&&score| score > last).count();
    candidates.retain(|c| {
        let tie = c.score == last && ties > 0;
        ties -= usize::from(tie);
        c.score > last || tie
    });
}

/// The weight of all, in their order.
fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(Candidate::weight).sum()
}

/// How many of the most probable candidates weigh `need` together; `None` if all do not.
fn nucleus(candidates: &[Candidate], need: f64) -> Option<usize> {
    let mut scores: Vec<f64> = candidates.iter().map(|c| c.score).collect();
    let (mut count, mut share) = (0, 0.0);
    // Sorted in growing portions, because the nucleus is mostly a small part.
    for portion in [64, 512, 4096, usize::MAX] {
        let rest = &mut scores[count..];
        if portion < rest.len() {
            rest.select_nth_unstable_by(portion, descending);
        }
        let len = portion.min(rest.len());
        let sorted = &mut rest[..len];
        sorted.sort_unstable_by(descending);
        for &mut score in sorted {
            share += libm::exp(score);
            count += 1;
            if share >= need {
                return Some(count);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sampler(sampling: Sampling, seed: u64) -> Sampler {
        sampling.check(usize::MAX).unwrap();
        Sampler::new(sampling, seed, &[])
    }

    fn pick(sampling: &Sampling, seed: u64, logits: &[f32]) -> u32 {
        sampler(sampling.clone(), seed).pick(&mut logits.to_vec(), Freedom::Free).unwrap()
    }

    /// Every token that can be drawn, by the words at the top of the module and a full sort.
    fn possible(sampling: &Sampling, logits: &[f32]) -> BTreeSet<u32> {
        let score = |token: &usize| f64::from(logits[*token]) / f64::from(sampling.temperature);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        let weight = |token: &usize| (score(token) - score(&order[0])).exp();
        let mut rest = order.clone();
        if sampling.top_k > 0 {
            rest.truncate(sampling.top_k);
        }
        if sampling.top_p < 1.0 {
            let need = f64::from(sampling.top_p) * rest.iter().map(weight).sum::<f64>();
            let mut share = 0.0;
            let fewest = rest.iter().take_while(|token| {
                let missing = share < need;
                share += weight(token);
                missing
            });
            rest = fewest.copied().collect();
        }
        rest.retain(|token| weight(token) >= f64::from(sampling.min_p));
        rest.into_iter().map(|token| token as u32).collect()
    }

    /// Logits with many ties, of which some are far below the others.
    fn logits() -> impl Strategy<Value = Vec<f32>> {
        vec((-12i8..12).prop_map(|x| f32::from(x) * 0.75), 1..200)
    }

    fn sampling() -> impl Strategy<Value = Sampling> {
        let odd = |x: u16| f32::from(x) / 1009.0; // never on the edge of a sum of a few weights
        (1u8..30, 0usize..20, (1u16..1010).prop_map(odd), (0u16..1000).prop_map(odd)).prop_map(
            |(tenths, top_k, top_p, min_p)| Sampling {
                temperature: f32::from(tenths) / 10.0,
                top_k,
                top_p: top_p.min(1.0),
                min_p,
                ..Sampling::default()
            },
        )
    }

    proptest! {
        #[test]
        fn only_what_the_steps_leave_is_drawn(logits in logits(), sampling in sampling(), seed: u64) {
            let mut sampler = sampler(sampling.clone(), seed);
            let want = possible(&sampling, &logits);
            for _ in 0..20 {
                let token = sampler.pick(&mut logits.clone(), Freedom::Free).unwrap();
                prop_assert!(want.contains(&token), "{token} is not among {want:?}");
            }
            let left: BTreeSet<u32> = sampler.candidates.iter().map(|c| c.token).collect();
            prop_assert_eq!(left, want);
        }

        #[test]
        fn a_seed_always_gives_the_same_tokens(logits in logits(), sampling in sampling(), seed: u64) {
            let run = || {
                let mut sampler = sampler(sampling.clone(), seed);
                let next = || sampler.pick(&mut logits.clone(), Freedom::Free).unwrap();
                std::iter::repeat_with(next).take(10).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }

        #[test]
        fn one_candidate_is_as_good_as_greedy(logits in logits(), seed: u64) {
            let want = pick(&Sampling::greedy(), seed, &logits);
            for sampling in [
                Sampling { top_k: 1, ..Sampling::default() },
                Sampling { top_p: 1e-6, ..Sampling::default() },
                Sampling { temperature: 1e-30, top_k: 1, ..Sampling::default() },
            ] {
                prop_assert_eq!(pick(&sampling, seed, &logits), want);
            }
        }

        /// What is chosen from the leaders is what is chosen from all logits, with the same random numbers, also
        /// where a device is off by as much as it may be.
        #[test]
        fn the_leaders_are_as_good_as_all(
            logits in logits(), sampling in sampling(), seed: u64, off in -1e-3..1e-3f32,
        ) {
            let mut from_all = sampler(sampling.clone(), seed);
            let mut from_few = from_all.clone();
            for freedom in [Freedom::Free, Freedom::Strict, Freedom::Free] {
                let Some(ask) = from_few.ask(freedom) else { continue };
                let mut leaders = Leaders::of(&logits, ask).unwrap();
                leaders.rest *= 1.0 + off;
                let suffices = from_few.suffices(&leaders, freedom);
                let got = from_few.pick_among(&leaders, freedom);
                prop_assert_eq!(got.is_some(), suffices);
                if let Some(got) = got {
                    prop_assert_eq!(got, from_all.pick(&mut logits.clone(), freedom).unwrap());
                }
            }
        }

        /// Where biases only make smaller, the largest of the others will do if it is the largest of all.
        #[test]
        fn a_greedy_choice_needs_few_logits_though_some_are_lowered(
            logits in logits(), lowered in vec((0u32..200, 0u8..20), 0..6),
        ) {
            let bias = lowered.iter().map(|&(token, by)| (token % logits.len() as u32, -f32::from(by)));
            let sampling = Sampling { bias: bias.collect(), ..Sampling::greedy() };
            for freedom in [Freedom::Free, Freedom::Strict] {
                let mut sampler = sampler(sampling.clone(), 1);
                let leaders = Leaders::of(&logits, sampler.ask(freedom).unwrap()).unwrap();
                let got = sampler.pick_among(&leaders, freedom);
                prop_assert_eq!(got.is_some(), sampler.suffices(&leaders, freedom));
                let want = sampler.pick(&mut logits.clone(), freedom).unwrap();
                prop_assert!(got.is_none_or(|got| got == want), "{got:?}, not {want}");
                let lowers_a_leader = leaders.tokens.iter().any(|&(t, _)| sampling.bias.iter().any(|&(b, _)| b == t));
                prop_assert!(got.is_some() || lowers_a_leader);
            }
        }

        #[test]
        fn a_strict_token_is_the_most_probable_one(logits in logits(), sampling in sampling(), seed: u64) {
            let got = sampler(sampling, seed).pick(&mut logits.clone(), Freedom::Strict).unwrap();
            prop_assert_eq!(got, pick(&Sampling::greedy(), seed, &logits));
        }
    }

    /// Drawn a hundred thousand times, each token comes as often as its probability says.
    #[test]
    fn tokens_are_drawn_with_their_probability() {
        let weights = [1.0f32, 2.0, 3.0, 4.0];
        let logits = weights.map(f32::ln);
        let everything = Sampling { min_p: 0.0, ..Sampling::default() };
        let check = |sampling: Sampling, want: [f64; 4]| {
            let mut sampler = sampler(sampling.clone(), 42);
            let mut counts = [0; 4];
            for _ in 0..100_000 {
                counts[sampler.pick(&mut logits.to_vec(), Freedom::Free).unwrap() as usize] += 1;
            }
            for (count, want) in counts.into_iter().zip(want) {
                let got = f64::from(count) / 1e5;
                assert!((got - want).abs() < 0.006, "{sampling:?}: {counts:?}, wanted shares {want}");
            }
        };
        check(everything.clone(), [0.1, 0.2, 0.3, 0.4]);
        check(Sampling { temperature: 0.5, ..everything.clone() }, [1.0, 4.0, 9.0, 16.0].map(|w| w / 30.0));
        check(Sampling { top_k: 2, ..everything.clone() }, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        check(Sampling { top_p: 0.85, ..everything.clone() }, [0.0, 2.0 / 9.0, 3.0 / 9.0, 4.0 / 9.0]);
        check(Sampling { min_p: 0.6, ..everything }, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
    }

    /// A bias that changes nothing leaves the first of equals the first; one that does lets the next have its turn.
    #[test]
    fn the_first_of_equal_leaders_wins_unless_it_is_lowered() {
        let logits = [0.0, 8.0, 0.0, 8.0];
        let leaders = Leaders::of(&logits, LeadersAsk { margin: 0.0, temperature: 1.0 }).unwrap();
        for (bias, want) in [(-0.0, Some(1)), (-1e-9, Some(1)), (-1.0, Some(3))] {
            let sampling = Sampling { bias: vec![(1, bias)], ..Sampling::greedy() };
            assert_eq!(sampler(sampling.clone(), 1).pick_among(&leaders, Freedom::Free), want, "{bias}");
            assert_eq!(Some(pick(&sampling, 1, &logits)), want, "{bias}");
        }
        let both = Sampling { bias: vec![(1, -1.0), (3, -2.0)], ..Sampling::greedy() };
        assert_eq!(sampler(both, 1).pick_among(&leaders, Freedom::Free), None);
    }

    /// Few logits suffice for what people mostly ask for, and not for what needs all of them.
    #[test]
    fn the_leaders_suffice_for_usual_requests() {
        // A tail of thousands, as real logits have it, under some that matter.
        let mut logits: Vec<f32> = (0..20_000).map(|i| -12.0 - ((i * 37) % 101) as f32 / 25.0).collect();
        (0..60).for_each(|i| logits[i * 331] = 2.0 - i as f32 / 8.0);
        let check = |sampling: Sampling, want: Option<bool>| {
            let mut sampler = sampler(sampling.clone(), 3);
            let ask = sampler.ask(Freedom::Free);
            let got = ask.map(|ask| sampler.suffices(&Leaders::of(&logits, ask).unwrap(), Freedom::Free));
            assert_eq!(got, want, "{sampling:?}");
        };
        let plain = || Sampling { min_p: 0.0, ..Sampling::default() };
        check(Sampling::greedy(), Some(true));
        check(Sampling::default(), Some(true));
        check(Sampling { temperature: 0.6, top_p: 0.95, ..plain() }, Some(true));
        check(Sampling { top_p: 0.9, ..Sampling::default() }, Some(true));
        check(Sampling { top_k: 40, ..plain() }, Some(true));
        check(Sampling { top_k: 40, top_p: 0.9, ..plain() }, Some(true));
        check(Sampling { top_k: 19_000, top_p: 0.9, ..plain() }, Some(false));
        check(Sampling { top_p: 0.99999, ..plain() }, Some(false));
        check(plain(), None);
        check(Sampling { frequency_penalty: 0.1, ..Sampling::default() }, None);
        check(Sampling { bias: vec![(1, 1.0)], ..Sampling::greedy() }, None);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(pick(&Sampling::greedy(), 0, &[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(pick(&Sampling { top_k: 1, ..Sampling::default() }, 0, &[1.0, 3.0, 3.0]), 1);
    }

    /// Tokens of a separate program with the same steps: a change here would change every text with a seed.
    #[test]
    fn the_tokens_of_a_seed_never_change() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 25.0).collect();
        let mut sampler = sampler(Sampling { top_p: 0.9, ..Sampling::default() }, 1);
        let got: Vec<u32> =
            (0..8).map(|_| sampler.pick(&mut logits.clone(), Freedom::Free).unwrap()).collect();
        assert_eq!(got, [565, 745, 971, 444, 444, 764, 876, 524]);
    }

    #[test]
    fn penalties_push_down_what_was_there() {
        let check = |sampling: Sampling, prompt: &[u32], reply: &[u32], want: [f32; 3]| {
            let mut sampler = Sampler::new(sampling, 0, prompt);
            reply.iter().for_each(|&token| sampler.accept(token));
            let mut logits = [2.0, -2.0, 4.0];
            sampler.pick(&mut logits, Freedom::Free).unwrap();
            assert_eq!(logits, want);
        };
        let repetition = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        check(repetition.clone(), &[0], &[], [1.0, -2.0, 4.0]);
        check(repetition.clone(), &[], &[1, 1], [2.0, -4.0, 4.0]);
        let presence = Sampling { presence_penalty: 0.5, ..Sampling::greedy() };
        check(presence, &[1], &[2, 2], [2.0, -2.0, 3.5]);
        let frequency = Sampling { frequency_penalty: 0.5, ..Sampling::greedy() };
        check(frequency, &[1], &[2, 2], [2.0, -2.0, 3.0]);
        check(Sampling { presence_penalty: 1.0, ..repetition }, &[2], &[2], [2.0, -2.0, 1.0]);
        check(Sampling { bias: vec![(1, 100.0)], ..Sampling::greedy() }, &[], &[], [2.0, 98.0, 4.0]);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let check = |sampling: Sampling, want: &str| {
            assert_eq!(sampling.check(10).unwrap_err().to_string(), want);
        };
        let default = Sampling::default;
        check(Sampling { temperature: -1.0, ..default() }, "temperature is -1, needed 0 or more");
        check(Sampling { temperature: f32::NAN, ..default() }, "temperature is NaN, needed 0 or more");
        check(Sampling { top_p: 0.0, ..default() }, "top-p is 0, needed more than 0 and at most 1");
        check(Sampling { min_p: 1.5, ..default() }, "min-p is 1.5, needed between 0 and 1");
        check(
            Sampling { bias: vec![(10, 1.0)], ..default() },
            "a logit bias for token 10, but the vocabulary has 10 tokens",
        );
        check(
            Sampling { repetition_penalty: 0.0, ..default() },
            "repetition penalty is 0, needed between 0.01 and 100",
        );
    }

    #[test]
    fn logits_that_say_nothing_are_an_error() {
        let check = |logits: &[f32], want: &str| {
            let got = sampler(Sampling::default(), 0).pick(&mut logits.to_vec(), Freedom::Free);
            assert_eq!(got.unwrap_err().to_string(), want);
        };
        let needed = "a finite number was needed";
        check(&[0.0, f32::NAN], &format!("the model gave NaN as the logit of token 1; {needed}"));
        check(&[f32::INFINITY], &format!("the model gave inf as the logit of token 0; {needed}"));
        check(&[f32::NEG_INFINITY; 3], &format!("the model gave -inf as the logit of token 0; {needed}"));
    }
}
