//! Writing a reply.
//!
//! [`Session::reply`] reads the prompt and then goes round: logits, a token, its text, the next logits. What
//! happens between logits and the next token is in [`Writer`], which knows nothing of the forward pass, so
//! that whoever computes logits, for one session or for many in one batch, can drive it.

use crate::cancel::Cancel;
use crate::constraint::{Constraint, ConstraintError, Masking};
use crate::fetch_logits::Row;
use crate::logprobs::{Logprob, logprob};
use crate::miss::{CacheSource, Miss};
use crate::reading::{Form, Reader};
use crate::sampler::{BadLogit, Freedom, Sampler, Sampling, SamplingError};
use crate::session::{Session, SessionError, Synced};
use model::Ops;
use model::ops::{Leaders, LeadersAsk};
use std::time::{Duration, Instant};
use text::{Marker, Tokenizer};

/// What a reply should be like.
#[derive(Clone, Debug)]
pub struct Request {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the choice depends on besides; the same seed gives the same reply.
    pub seed: u64,
    /// The most tokens to write, reasoning included. The context is a limit in any case.
    pub max_tokens: Option<usize>,
    /// Whether to report the probability of each token, and of how many others.
    pub logprobs: Option<usize>,
    /// How to read what the model writes, and what ends it.
    pub form: Form,
    /// Whether the markup of tool calls is always the most probable: it has to be exact, and what it carries
    /// is sampled as asked for in any case.
    pub strict_markup: bool,
    /// What the reply may say; see [`crate::constraint`].
    pub constraint: Option<Constraint>,
    /// The most tokens of reasoning: where they are used up, the reasoning is closed.
    pub think_budget: Option<usize>,
    /// The model does not end its turn before so many tokens; `usize::MAX` if it never does. Stop strings, finished
    /// calls and constraints end the reply in any case, and with a constraint the model may end its turn, too.
    pub min_tokens: usize,
    /// What the reply begins with, whatever the model would say: with `logprobs`, how probable a given text is.
    /// Counts as written; neither masks, nor stop tokens, nor the sampler's random numbers apply to it.
    pub forced: Vec<u32>,
}

/// Something that happens while a reply is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Part of the prompt has been read.
    Prefill {
        /// Tokens that are read, those included that were there before.
        done: usize,
        /// All tokens of the prompt.
        total: usize,
    },
    /// A token was chosen; only if the request asks for logprobs.
    Token(Logprob),
    /// The message goes on.
    Message(text::Event),
}

/// Why a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Eos,
    /// The model ran past its turn: it wrote a control token that begins another one.
    NextTurn(Marker),
    /// A stop string came up, a block of tool calls was closed, or a constraint is fulfilled and lets nothing
    /// follow; the message has it.
    Complete,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The memory for cached rows is full.
    MemoryFull,
    /// The time set for the reply is over.
    Deadline,
    /// Somebody asked to stop.
    Cancelled,
}

impl Finish {
    /// Whether the reply was cut off, and so may end anywhere.
    fn is_cut(&self) -> bool {
        !matches!(self, Finish::Eos | Finish::NextTurn(_) | Finish::Complete)
    }
}

/// A finished reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// What it says.
    pub message: text::Reply,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub stats: Stats,
}

/// What a reply cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reading the prompt.
    pub prompt: Synced,
    /// Tokens of the prompt that the page store brought; they are among those that were known.
    pub fetched: usize,
    /// Where the known part of the prompt came from.
    pub source: CacheSource,
    /// Why not more of the prompt was known; `None` if all of it was, or nobody looked.
    pub miss: Option<Miss>,
    /// From being submitted to being started.
    pub queued: Duration,
    /// From the start (of a job: from being submitted) to the choice of the first token; zero if it did not
    /// come to that.
    pub first_token: Duration,
    /// Forward passes after the prompt; each is of one token, and of those that were guessed to come after it.
    pub steps: usize,
    /// Tokens that were guessed.
    pub drafted: usize,
    /// Of these, the ones that were right, so that they took no pass of their own.
    pub accepted: usize,
    /// How long these took, with choosing and reading of tokens.
    pub decode: Duration,
    /// Tokens for which all logits came from the device, though the request could have done with the largest ones:
    /// too many were close, or too much of the probability was in the others.
    pub whole_logits: usize,
}

impl Stats {
    /// Tokens of the prompt read in a second; `None` if none was read.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.prompt.computed, self.prompt.elapsed)
    }

    /// Tokens written in a second; `None` if there was no forward pass after the prompt.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.steps + self.accepted, self.decode)
    }
}

fn rate(count: usize, elapsed: Duration) -> Option<f64> {
    (count > 0 && !elapsed.is_zero()).then(|| count as f64 / elapsed.as_secs_f64())
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A parameter makes no sense.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The prompt could not be read, or the device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The model gave no usable logits.
    #[error(transparent)]
    BadLogit(#[from] BadLogit),
    /// The reply cannot be held to its constraint.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// Why a reply cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    BadLogit(#[from] BadLogit),
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl From<StepError> for ReplyError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::BadLogit(error) => error.into(),
            StepError::Constraint(error) => error.into(),
        }
    }
}

impl<B: Ops> Session<B> {
    /// Reads `prompt` as [`Session::sync`] does and writes a reply to it. `on_event` hears of everything as
    /// it happens. If `cancel` is used, the reply ends where it is.
    ///
    /// # Errors
    ///
    /// If a parameter is out of range, the prompt does not fit, or the model or the device is broken.
    pub fn reply(
        &mut self,
        prompt: &[u32],
        request: Request,
        cancel: &Cancel,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Reply, ReplyError> {
        let start = Instant::now();
        let loaded = self.loaded().clone();
        let mut writer = Writer::new(&loaded.tokenizer, request, prompt, self.context())?;
        let mut stats = Stats::default();
        let mut progress = |done, total| on_event(Event::Prefill { done, total });
        stats.prompt = match self.sync(prompt, &mut progress, cancel) {
            Ok(synced) => synced,
            Err(SessionError::Cancelled) => return Ok(writer.end(Finish::Cancelled, stats, on_event)),
            Err(error) => return Err(error.into()),
        };
        let decoding = Instant::now();
        self.begin_reply();
        loop {
            let mut choosing = self.choosing(writer.goes_on());
            let step = choosing.choose(&mut writer, &mut stats, on_event);
            if stats.first_token.is_zero() {
                stats.first_token = start.elapsed();
            }
            stats.decode = decoding.elapsed();
            let end = match step {
                Ok(Step::Next(token)) if !cancel.is_stopped() => {
                    stats.drafted += choosing.go_on(token, writer.left())?;
                    stats.steps += 1;
                    continue;
                }
                Ok(Step::Next(_)) => Ok(Finish::Cancelled),
                Ok(Step::Done(finish)) => Ok(finish),
                Err(error) => Err(error),
            };
            drop(choosing); // before anybody hears of the end: others may be waiting for the device
            return Ok(writer.end(end?, stats, on_event));
        }
    }
}

/// What comes after a token.
pub(crate) enum Step {
    /// The model has to read this token.
    Next(u32),
    /// The reply is over.
    Done(Finish),
}

/// Writes one reply: logits in, tokens and events out.
pub(crate) struct Writer<'m> {
    tokenizer: &'m Tokenizer,
    sampler: Sampler,
    reader: Reader,
    masking: Option<Masking>,
    strict_markup: bool,
    logprobs: Option<usize>,
    think_budget: Option<usize>,
    min_tokens: usize,
    forced: Vec<u32>,
    /// The most tokens to write, and what it means to have written them.
    limit: (usize, Finish),
    tokens: Vec<u32>,
    /// How many of them are of which part of the reply.
    parts: [usize; 3],
}

/// A part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Reasoning,
    Content,
    /// Markup, names and arguments of calls.
    Call,
}

impl<'m> Writer<'m> {
    /// A reply to `prompt`, which together have at most `context` tokens.
    pub(crate) fn new(
        tokenizer: &'m Tokenizer,
        request: Request,
        prompt: &[u32],
        context: usize,
    ) -> Result<Self, ReplyError> {
        request.sampling.check(tokenizer.len())?;
        let masking = request.constraint.map(|constraint| Masking::new(constraint, &request.form, tokenizer));
        let room = context.saturating_sub(prompt.len());
        let limit = match request.max_tokens {
            Some(most) if most <= room => (most, Finish::MaxTokens),
            _ => (room, Finish::ContextFull),
        };
        Ok(Writer {
            tokenizer,
            sampler: Sampler::new(request.sampling, request.seed, &[prompt, &request.forced].concat()),
            reader: Reader::new(request.form),
            masking: masking.transpose()?,
            strict_markup: request.strict_markup,
            logprobs: request.logprobs,
            think_budget: request.think_budget,
            min_tokens: request.min_tokens,
            forced: request.forced,
            limit,
            tokens: Vec::new(),
            parts: [0; 3],
        })
    }

    /// Whether the next token to be chosen is read, too, for all that is known: it is not the last one.
    pub(crate) fn goes_on(&self) -> bool {
        self.tokens.len() + 1 < self.limit.0
    }

    /// How many tokens the reply may still have.
    pub(crate) fn left(&self) -> usize {
        self.limit.0.saturating_sub(self.tokens.len())
    }

    /// Chooses from one row of logits after another, as long as what is chosen is what was guessed, and says what comes then.
    /// `used` counts the rows.
    ///
    /// - `rows`: those after the last token and after each of the guesses; what is known of the first suffices
    pub(crate) fn follow<'r>(
        &mut self,
        rows: impl Iterator<Item = Row<'r>>,
        guesses: &[u32],
        used: &mut usize,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Step, StepError> {
        let mut last = None;
        for (nth, row) in rows.enumerate() {
            let step = match row {
                Row::Whole(logits) => {
                    *used += 1;
                    self.step(logits, on_event)?
                }
                // With what is known of this row nothing can be chosen: its token is read again.
                Row::Leaders(leaders) if nth > 0 && !self.suffice(leaders) => break,
                Row::Leaders(leaders) => {
                    *used += 1;
                    self.step_among(leaders, on_event)?
                }
            };
            match step {
                Step::Next(token) => {
                    last = Some(token);
                    if guesses.get(nth) != Some(&token) {
                        break;
                    }
                }
                Step::Done(_) => return Ok(step),
            }
        }
        Ok(Step::Next(last.expect("there is a row")))
    }

    /// Of which logits it is enough to know for the next step, most of the time; `None` if any can matter.
    pub(crate) fn ask(&self) -> Option<LeadersAsk> {
        let len = self.tokens.len();
        let meddled = self.masking.is_some() || len < self.forced.len() || len < self.min_tokens;
        let all = self.logprobs.is_some() || meddled;
        if all { None } else { self.sampler.ask(self.freedom()) }
    }

    /// Whether [`Writer::step_among`] will do.
    pub(crate) fn suffice(&mut self, leaders: &Leaders) -> bool {
        let freedom = self.freedom();
        self.ask().is_some() && self.sampler.suffices(leaders, freedom)
    }

    /// As [`Writer::step`], from the leaders that it asked for.
    ///
    /// # Panics
    ///
    /// If they do not suffice.
    pub(crate) fn step_among(
        &mut self,
        leaders: &Leaders,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Step, StepError> {
        if self.tokens.len() >= self.limit.0 {
            return Ok(Step::Done(self.limit.1.clone()));
        }
        let freedom = self.freedom();
        let token = match self.end_of_reasoning() {
            Some(close) => close,
            None => self.sampler.pick_among(leaders, freedom).expect("they suffice"),
        };
        self.say(token, None, on_event)
    }

    /// Chooses the next token from the logits after the last one.
    pub(crate) fn step(
        &mut self,
        logits: &mut [f32],
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Step, StepError> {
        if self.tokens.len() >= self.limit.0 {
            return Ok(Step::Done(self.limit.1.clone()));
        }
        let raw = self.logprobs.map(|top| (logits.to_vec(), top));
        if let Some(&token) = self.forced.get(self.tokens.len()) {
            return Ok(self.force(token, raw, on_event));
        }
        if let Some(masking) = &mut self.masking {
            masking.mask(logits, self.tokenizer)?;
        } else if self.tokens.len() < self.min_tokens {
            let ends = Marker::ALL.into_iter().filter(|marker| marker.ends_reply());
            for token in ends.filter_map(|marker| self.tokenizer.marker_id(marker)) {
                logits[token as usize] = f32::NEG_INFINITY;
            }
        }
        let token = match self.end_of_reasoning() {
            Some(close) => close,
            None => self.sampler.pick(logits, self.freedom())?,
        };
        self.say(token, raw, on_event)
    }

    /// Says a token that was chosen.
    fn say(
        &mut self,
        token: u32,
        raw: Option<(Vec<f32>, usize)>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Step, StepError> {
        match self.tokenizer.marker(token) {
            Some(Marker::Eos) => return Ok(Step::Done(Finish::Eos)),
            Some(marker) if marker.ends_reply() => return Ok(Step::Done(Finish::NextTurn(marker))),
            _ => {}
        }
        self.sampler.accept(token);
        self.write(token);
        let nothing_follows = match &mut self.masking {
            Some(masking) => masking.accept(token, self.tokenizer)?,
            None => false,
        };
        if let Some((raw, top)) = raw {
            on_event(Event::Token(logprob(&raw, token, top)));
        }
        self.reader.push(token, self.tokenizer).into_iter().map(Event::Message).for_each(on_event);
        Ok(self.after(token, nothing_follows))
    }

    fn write(&mut self, token: u32) {
        self.tokens.push(token);
        self.parts[self.reader.part() as usize] += 1;
    }

    /// Says a token that was not chosen.
    fn force(&mut self, token: u32, raw: Option<(Vec<f32>, usize)>, on_event: &mut dyn FnMut(Event)) -> Step {
        self.write(token);
        if let Some((raw, top)) = raw {
            on_event(Event::Token(logprob(&raw, token, top)));
        }
        self.reader.push(token, self.tokenizer).into_iter().map(Event::Message).for_each(on_event);
        self.after(token, false)
    }

    /// What comes after a token that was said.
    fn after(&self, token: u32, nothing_follows: bool) -> Step {
        if self.reader.is_done() || nothing_follows {
            Step::Done(Finish::Complete)
        } else if self.tokens.len() >= self.limit.0 {
            Step::Done(self.limit.1.clone())
        } else {
            Step::Next(token)
        }
    }

    /// What the reply begins with in any case, as far as there is room.
    pub(crate) fn forced(&self) -> &[u32] {
        &self.forced[..self.forced.len().min(self.limit.0)]
    }

    /// What was written so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens of a part were written so far.
    pub(crate) fn written_of(&self, part: Part) -> usize {
        self.parts[part as usize]
    }

    /// The token that closes the reasoning, if it is time for that.
    fn end_of_reasoning(&self) -> Option<u32> {
        let used_up = self.think_budget.is_some_and(|budget| self.tokens.len() >= budget);
        if used_up && self.reader.is_reasoning() {
            self.tokenizer.marker_id(Marker::ThinkClose)
        } else {
            None
        }
    }

    fn freedom(&self) -> Freedom {
        if self.strict_markup { self.reader.freedom() } else { Freedom::Free }
    }

    /// Ends the reply: what was held back is said, and everything put together.
    pub(crate) fn end(self, finish: Finish, stats: Stats, on_event: &mut dyn FnMut(Event)) -> Reply {
        let how = if finish.is_cut() { text::reply::Finish::Length } else { text::reply::Finish::Stop };
        let (events, message) = self.reader.finish(how);
        events.into_iter().map(Event::Message).for_each(on_event);
        Reply { message, tokens: self.tokens, finish, stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::{Constraints, Rules, Shape};
    use forge::synth::byte_vocab;
    use text::reply::{FinishReason, Start};
    use text::{Event as Said, ReplyOptions};

    /// A writer of a chat reply at temperature 1.
    fn writer<'t>(tokenizer: &'t Tokenizer, start: Start, tools: &[&str], strict_markup: bool) -> Writer<'t> {
        let declared_tools = tools.iter().map(|&tool| tool.to_owned()).collect();
        let tools_active = !tools.is_empty();
        let options = ReplyOptions { start, tools_active, declared_tools, ..ReplyOptions::default() };
        let form = Form::Chat(options);
        let request = Request { sampling: Sampling::default(), seed: 5, form, strict_markup, ..greedy() };
        Writer::new(tokenizer, request, &[], 1000).unwrap()
    }

    fn greedy() -> Request {
        Request {
            sampling: Sampling::greedy(),
            seed: 0,
            max_tokens: None,
            logprobs: None,
            form: Form::Plain { stop: Vec::new() },
            strict_markup: true,
            constraint: None,
            think_budget: None,
            min_tokens: 0,
            forced: Vec::new(),
        }
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(byte_vocab(512)).unwrap()
    }

    /// What a model that always wants to say `text` makes of it. A token of a doubtful piece is only a little
    /// more probable than another one. `None` if the other one was chosen.
    fn write(mut writer: Writer<'_>, pieces: &[(&str, bool)]) -> Option<(Vec<Said>, Reply)> {
        let tokenizer = writer.tokenizer;
        let mut said = Vec::new();
        let mut listen = |event| {
            if let Event::Message(event) = event {
                said.push(event);
            }
        };
        let tokens = pieces.iter().flat_map(|&(text, doubtful)| {
            tokenizer.encode_trusted(text).into_iter().map(move |token| (token, doubtful))
        });
        for (token, doubtful) in tokens {
            let mut logits = vec![-50.0; tokenizer.len()];
            logits[tokenizer.encode("?")[0] as usize] = if doubtful { 0.95 } else { -50.0 };
            logits[token as usize] = 1.0;
            match writer.step(&mut logits, &mut listen).unwrap() {
                Step::Next(chosen) if chosen != token => return None,
                Step::Next(_) => {}
                Step::Done(finish) => {
                    let reply = writer.end(finish, Stats::default(), &mut listen);
                    return Some((said, reply));
                }
            }
        }
        panic!("the reply should have ended");
    }

    const CALL: [(&str, bool); 5] = [
        ("ok\n\n<｜DSML｜tool_calls>", false),
        ("\n<｜DSML｜invoke name=\"sh\">\n<｜DSML｜parameter name=\"cmd\" string=\"true\">", true),
        ("ls", false),
        ("</", false),
        ("｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>", true),
    ];

    /// A reply that must not end yet chooses from all logits, of which the ends are taken away.
    #[test]
    fn few_logits_do_not_suffice_while_a_reply_must_not_end() {
        let tokenizer = tokenizer();
        let request = Request { min_tokens: 2, ..greedy() };
        let mut writer = Writer::new(&tokenizer, request, &[], 10).unwrap();
        let end = tokenizer.marker_id(Marker::Eos).unwrap();
        let mut logits = vec![0.0; tokenizer.len()];
        (logits[end as usize], logits[97]) = (9.0, 5.0);
        for _ in 0..2 {
            assert_eq!(writer.ask(), None);
            let step = writer.step(&mut logits.clone(), &mut |_| {}).unwrap();
            assert!(!matches!(step, Step::Done(_)));
        }
        let leaders = Leaders::of(&logits, writer.ask().unwrap()).unwrap();
        assert!(writer.suffice(&leaders));
        assert!(matches!(writer.step_among(&leaders, &mut |_| {}), Ok(Step::Done(Finish::Eos))));
    }

    #[test]
    fn markup_is_exact_where_text_is_sampled() {
        let tokenizer = tokenizer();
        let (said, reply) = write(writer(&tokenizer, Start::Chat, &["sh"], true), &CALL).unwrap();
        assert_eq!(reply.finish, Finish::Complete);
        assert_eq!(
            (&*reply.message.content, &*reply.message.tool_calls[0].arguments),
            ("ok", "{\"cmd\": \"ls\"}")
        );
        assert_eq!(reply.message.finish_reason, FinishReason::ToolCalls);
        assert_eq!(said.last(), Some(&Said::CallEnd { index: 0 }));
        assert!(write(writer(&tokenizer, Start::Chat, &["sh"], false), &CALL).is_none());
        assert!(write(writer(&tokenizer, Start::Chat, &["sh"], true), &[("doubt", true), CALL[0]]).is_none());
    }

    #[test]
    fn tokens_are_counted_by_what_they_are() {
        let tokenizer = tokenizer();
        let count = |text: &str| {
            let mut writer = writer(&tokenizer, Start::Thinking, &["sh"], true);
            for token in tokenizer.encode_trusted(text) {
                let mut logits = vec![-50.0; tokenizer.len()];
                logits[token as usize] = 50.0;
                writer.step(&mut logits, &mut |_| {}).unwrap();
            }
            [Part::Reasoning, Part::Content, Part::Call].map(|part| writer.written_of(part))
        };
        let len = |text: &str| tokenizer.encode_trusted(text).len();
        assert_eq!(count("Hm.</think>"), [len("Hm.</think>"), 0, 0], "the marker is reasoning, too");
        assert_eq!(count("Hm.</think>four"), [len("Hm.</think>"), len("four"), 0]);
        let call = CALL.map(|(text, _)| text).concat();
        let [reasoning, content, calls] = count(&format!("</think>{call}"));
        assert_eq!((reasoning, reasoning + content + calls), (1, 1 + len(&call)));
        assert!(content < 20 && calls > 60, "{content} {calls}");
    }

    /// A given text is said as it is, and scored; only after it the model has its say.
    #[test]
    fn a_given_beginning_is_said_whatever_the_model_wants() {
        let tokenizer = tokenizer();
        let forced = tokenizer.encode("xy");
        let request = Request { forced, logprobs: Some(0), ..greedy() };
        let mut writer = Writer::new(&tokenizer, request, &[], 1000).unwrap();
        let mut scores = Vec::new();
        for text in ["a", "y", "c"] {
            let mut logits = vec![-50.0; tokenizer.len()];
            logits[tokenizer.encode(text)[0] as usize] = 1.0;
            let mut listen = |event| {
                if let Event::Token(logprob) = event {
                    scores.push(logprob.logprob.round());
                }
            };
            writer.step(&mut logits, &mut listen).unwrap();
        }
        let reply = writer.end(Finish::MaxTokens, Stats::default(), &mut |_| {});
        assert_eq!((&*reply.message.content, &scores[..]), ("xyc", &[-51.0, 0.0, 0.0][..]));
    }

    /// Where the budget is used up the reasoning is closed, whatever the model wants to say.
    #[test]
    fn reasoning_has_a_budget() {
        let tokenizer = tokenizer();
        let options = ReplyOptions { start: Start::Thinking, ..ReplyOptions::default() };
        let request = Request { form: Form::Chat(options), think_budget: Some(3), ..greedy() };
        let mut writer = Writer::new(&tokenizer, request, &[], 1000).unwrap();
        for text in ["a", "b", "c", "d", "e", "f"] {
            let mut logits = vec![-50.0; tokenizer.len()];
            logits[tokenizer.encode(text)[0] as usize] = 1.0;
            writer.step(&mut logits, &mut |_| {}).unwrap();
        }
        let reply = writer.end(Finish::MaxTokens, Stats::default(), &mut |_| {});
        assert_eq!((&*reply.message.reasoning_content, &*reply.message.content), ("abc", "ef"));
    }

    #[test]
    fn reasoning_and_content_are_told_apart() {
        let tokenizer = tokenizer();
        let text = [("why</think>so<｜end▁of▁sentence｜>", false)];
        let (_, reply) = write(writer(&tokenizer, Start::Thinking, &[], true), &text).unwrap();
        assert_eq!((&*reply.message.reasoning_content, &*reply.message.content), ("why", "so"));
        assert_eq!(
            (reply.finish, reply.tokens.len()),
            (Finish::Eos, tokenizer.encode_trusted("why</think>so").len())
        );
    }

    #[test]
    fn a_model_that_speaks_for_the_user_is_stopped() {
        let tokenizer = tokenizer();
        let (_, reply) =
            write(writer(&tokenizer, Start::Chat, &[], true), &[("so<｜User｜>", false)]).unwrap();
        assert_eq!((&*reply.message.content, reply.finish), ("so", Finish::NextTurn(Marker::User)));
    }

    /// A model that wants to say one thing, under rules that let it say another: reasoning is free, the
    /// content is what the rules allow, and the reply ends where nothing more may follow.
    #[test]
    fn a_constraint_decides_what_is_said() {
        let tokenizer = std::sync::Arc::new(tokenizer());
        let rules = Rules { content: Some(Shape::Regex("[0-9]{3}".into())), ..Rules::default() };
        let constraint = Constraints::new(tokenizer.clone()).build(&rules).unwrap();
        let form = Form::Chat(ReplyOptions { start: Start::Thinking, ..ReplyOptions::default() });
        let request = Request { constraint, form, ..greedy() };
        let mut writer = Writer::new(&tokenizer, request, &[], 1000).unwrap();
        let wanted = tokenizer.encode_trusted("Hm<｜end▁of▁sentence｜>x5yz");
        for (nth, &want) in wanted.iter().enumerate() {
            let mut logits: Vec<f32> = (0..tokenizer.len()).map(|token| -(token as f32)).collect();
            logits[want as usize] = 9.0;
            if let Step::Done(finish) = writer.step(&mut logits, &mut |_| {}).unwrap() {
                assert_eq!((finish, nth), (Finish::Complete, 5));
                break;
            }
        }
        let reply = writer.end(Finish::Complete, Stats::default(), &mut |_| {});
        assert_eq!((&*reply.message.reasoning_content, reply.message.content.len()), ("Hm", 3));
        assert!(reply.message.content.bytes().all(|byte| byte.is_ascii_digit()), "{reply:?}");
        assert_eq!(reply.message.finish_reason, FinishReason::Stop);
    }

    /// A call that is cut off is not executed.
    #[test]
    fn a_limit_inside_a_call_drops_it() {
        let tokenizer = tokenizer();
        let mut writer = writer(&tokenizer, Start::Chat, &["sh"], true);
        writer.limit.0 = 40;
        let (_, reply) = write(writer, &CALL).unwrap();
        assert_eq!((reply.finish, reply.message.tool_calls.len()), (Finish::ContextFull, 0));
        assert_eq!((&*reply.message.content, reply.message.finish_reason), ("ok", FinishReason::Length));
    }
}
