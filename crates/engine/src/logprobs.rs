//! How probable the chosen token was, and what else there was to choose.

use std::cmp::Ordering;

/// The probability of a chosen token, as the model saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The chosen token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most probable tokens, best first, lower ids first on a tie.
    pub top: Vec<(u32, f32)>,
}

/// The probabilities that `logits`, as the model gave them, stand for: temperature 1, before bias and
/// penalties.
///
/// - `logits`: `[vocab]`, finite; `top`: how many of the most probable tokens to list
pub fn logprob(logits: &[f32], token: u32, top: usize) -> Logprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(max))).sum();
    let base = f64::from(max) + libm::log(sum);
    let logprob = |token: u32| (f64::from(logits[token as usize]) - base) as f32;

    let better =
        |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
    let mut best: Vec<u32> = (0..logits.len() as u32).collect();
    if top < best.len() {
        best.select_nth_unstable_by(top, better);
        best.truncate(top);
    }
    best.sort_unstable_by(better);
    Logprob { token, logprob: logprob(token), top: best.into_iter().map(|t| (t, logprob(t))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_logits() {
        let logits = [1.0f32, 4.0, 4.0, 7.0].map(f32::ln); // of 16
        let got = logprob(&logits, 0, 3);
        let check = |got: f32, want: f32| assert!((got.exp() - want).abs() < 1e-6, "{got} for {want}");
        check(got.logprob, 1.0 / 16.0);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [3, 1, 2]);
        check(got.top[0].1, 7.0 / 16.0);
        check(got.top[2].1, 4.0 / 16.0);
        assert_eq!(logprob(&logits, 1, 0).top, []);
        assert_eq!(logprob(&logits, 1, 9).top.len(), 4);
    }
}
