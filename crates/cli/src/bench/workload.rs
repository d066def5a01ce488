//! What is measured: reading tokens in chunks, and one after another.
//!
//! Tokens are arbitrary but always the same at the same position, so that every repeat, and every version
//! of the program, sees the same text and the same experts.

use super::cost::Batch;
use super::profile::Stopwatch;
use engine::Cancel;
use model::{Entry, KvFormat, Model, NoTap, Ops, Output, Timeline, Wanted, foresee, forward, go_on};
use std::time::{Duration, Instant};

/// Somebody pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A model to measure.
pub struct Runner<'a, B: Ops> {
    pub ops: &'a B,
    pub model: &'a Model<B>,
    pub kv: KvFormat,
    /// Tokens in a batch of prefill.
    pub chunk: usize,
    pub cancel: &'a Cancel,
}

impl<B: Ops> Runner<'_, B> {
    /// A conversation of no tokens.
    pub fn start(&self) -> Timeline<B> {
        Timeline::new(self.ops, &self.model.config, self.kv)
    }

    /// Reads the next `n` tokens in chunks, as a prompt is read, until the logits of the last are there.
    ///
    /// # Errors
    ///
    /// If the device fails, or [`Interrupted`] between two chunks.
    pub fn prefill(
        &self,
        timeline: &mut Timeline<B>,
        n: usize,
        watch: Option<&mut Stopwatch<'_>>,
    ) -> anyhow::Result<Duration> {
        let end = timeline.len() + n;
        self.feed(timeline, end, self.chunk, Wanted::None, watch, &mut |_| ())
    }

    /// As [`Runner::prefill`], unmeasured; `progress` is told the length of the timeline after each chunk.
    ///
    /// # Errors
    ///
    /// As [`Runner::prefill`].
    pub fn fill(
        &self,
        timeline: &mut Timeline<B>,
        end: usize,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Duration> {
        self.feed(timeline, end, self.chunk, Wanted::None, None, progress)
    }

    /// Reads the next `n` tokens one by one with the logits of each, as a reply is written.
    ///
    /// # Errors
    ///
    /// As [`Runner::prefill`].
    pub fn decode(
        &self,
        timeline: &mut Timeline<B>,
        n: usize,
        watch: Option<&mut Stopwatch<'_>>,
    ) -> anyhow::Result<Duration> {
        let end = timeline.len() + n;
        self.feed(timeline, end, 1, Wanted::Last, watch, &mut |_| ())
    }

    /// Feeds tokens up to position `end`. Logits of every chunk's last token, or only of the very last.
    fn feed(
        &self,
        timeline: &mut Timeline<B>,
        end: usize,
        chunk: usize,
        between: Wanted,
        mut watch: Option<&mut Stopwatch<'_>>,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let writes = chunk == 1 && between == Wanted::Last && watch.is_none();
        let mut ahead: Option<Output<B::Array>> = None;
        while ahead.is_some() || timeline.len() < end {
            if self.cancel.is_stopped() {
                return Err(Interrupted.into());
            }
            let output = match ahead.take() {
                Some(output) => output,
                None => {
                    let len = chunk.min(end - timeline.len());
                    let wanted = if timeline.len() + len == end { Wanted::Last } else { between };
                    self.ask(timeline, len, wanted, watch.as_deref_mut())?
                }
            };
            // As a reply is written: the next step is asked for while the device is busy with this one.
            let at = timeline.len();
            if writes && at < end {
                ahead = foresee(self.model, self.ops, &mut [timeline]);
            }
            let read = match output.logits {
                Some(logits) => self.ops.read(&logits).map(drop),
                None => self.ops.wait(),
            };
            if ahead.is_some() {
                go_on(self.ops, &mut [timeline], &[Some(token_at(at, self.model.config.vocab))]);
            }
            read?;
            if let Some(watch) = watch.as_deref_mut() {
                watch.end();
            }
            progress(timeline.len());
        }
        Ok(start.elapsed())
    }

    /// Asks for the next `len` tokens.
    fn ask(
        &self,
        timeline: &mut Timeline<B>,
        len: usize,
        wanted: Wanted,
        watch: Option<&mut Stopwatch<'_>>,
    ) -> anyhow::Result<Output<B::Array>> {
        let positions = timeline.len()..timeline.len() + len;
        let tokens: Vec<u32> = positions.clone().map(|p| token_at(p, self.model.config.vocab)).collect();
        let mut batch = [Entry { timeline, tokens: &tokens, wanted }];
        Ok(match watch {
            None => forward(self.model, self.ops, &mut batch, &mut NoTap)?,
            Some(watch) => {
                watch.begin(Batch { positions, wanted: (wanted != Wanted::None).into() });
                forward(self.model, self.ops, &mut batch, watch)?
            }
        })
    }
}

/// The token at a position: a hash of it (SplitMix64), so that experts and embeddings are met at random.
pub fn token_at(position: usize, vocab: usize) -> u32 {
    let mut z = (position as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % vocab as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::Reference;
    use forge::synth::{Recipe, Synthetic};
    use gguf::Gguf;

    /// However the context was filled, the tokens are the same and so are the states.
    #[test]
    fn a_depth_is_the_same_text_however_it_was_reached() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
        let model = model::load(&Reference, &gguf).unwrap();
        let cancel = Cancel::new();
        let runner = Runner { ops: &Reference, model: &model, kv: KvFormat::F16, chunk: 7, cancel: &cancel };
        let mut chunks = runner.start();
        let mut told = Vec::new();
        runner.fill(&mut chunks, 16, &mut |len| told.push(len)).unwrap();
        assert_eq!(told, [7, 14, 16]);
        let mut singles = runner.start();
        runner.decode(&mut singles, 16, None).unwrap();
        assert_eq!(chunks.tokens(), singles.tokens());
        assert!(chunks.tokens().iter().any(|t| *t != chunks.tokens()[0]), "{:?}", chunks.tokens());

        cancel.stop();
        let stopped = runner.prefill(&mut chunks, 1, None).unwrap_err();
        assert!(stopped.is::<Interrupted>());
        assert_eq!(chunks.len(), 16);
    }
}
