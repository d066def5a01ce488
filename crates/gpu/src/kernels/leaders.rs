//! Launches `peaks.wgsl` and `leaders.wgsl`: what a sampler needs of logits, so that the others need not travel.

use crate::array::Array;
use crate::gpu::Inner;
use crate::kernels::{teams, threads};
use crate::recorder::{Binding, Recorder};
use model::ops::{DeviceError, Leaders, LeadersAsk};

/// Stretches of a row: workgroups that work on it.
const STRETCHES: usize = 128;

/// The most tokens that may lead.
const MOST: usize = 1024;

/// What [`model::Ops::read_leaders`] says.
pub(crate) fn read_leaders(
    gpu: &Inner,
    r: &mut Recorder,
    logits: &Array,
    asks: &[LeadersAsk],
) -> Result<Vec<Option<Leaders>>, DeviceError> {
    assert_eq!(logits.n, asks.len(), "an ask a row");
    let (n, vocab) = (logits.n, logits.width);
    let stretch = vocab.div_ceil(STRETCHES).max(32);
    let stretches = vocab.div_ceil(stretch);
    let stride = 2 + stretches + 2 * MOST;
    let words: Vec<u32> =
        asks.iter().flat_map(|ask| [ask.margin, ask.temperature].map(f32::to_bits)).collect();
    let asks = r.put(gpu, &words);
    let (peaks, out) = (Array::empty(gpu, n, 2 * stretches), Array::empty(gpu, n, stride));
    let params = [vocab, stretch, stride, MOST].map(|x| x as u32);
    let groups = [stretches as u32, n as u32, 1];
    r.launch(gpu, threads("peaks"), &[logits.read(), peaks.write(), out.write()], &params[..3], groups);
    let bindings = [logits.read(), peaks.read(), Binding::Read(asks), out.write()];
    r.launch(gpu, teams(gpu, "leaders", 256), &bindings, &params, groups);
    let bytes = gpu.read(r, &[out.slice()])?;
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
    let leaders = |row: &[u32]| {
        let (head, rest) = row.split_at(2);
        let (rest, pairs) = rest.split_at(stretches);
        let (count, odd) = (head[0] as usize, head[1] != 0);
        // Nothing leads where all are negative infinity: the comparison with NaN fails.
        if odd || count == 0 || count > MOST {
            return None;
        }
        let pairs = &pairs.as_chunks::<2>().0[..count];
        let mut tokens: Vec<_> = pairs.iter().map(|&[token, logit]| (token, f32::from_bits(logit))).collect();
        tokens.sort_unstable_by_key(|&(token, _)| token);
        let possible = tokens.iter().any(|&(_, logit)| logit.is_finite());
        let rest = rest.iter().map(|&sum| f32::from_bits(sum)).sum();
        possible.then_some(Leaders { tokens, rest })
    };
    Ok(words.chunks_exact(stride).map(leaders).collect())
}
