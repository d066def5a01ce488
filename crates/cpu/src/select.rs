//! The largest of some scores, ties to the lower index, found by counting and without a sort.
//!
//! A score becomes a key that sorts as it does. Counting the keys by their highest bits says in which
//! range the `k`-th largest lies; counting that range by its next bits narrows it down to one key.

/// Bits of a key that are counted in one pass, highest first.
const DIGITS: [u32; 3] = [11, 11, 10];

/// Indices of the `k` largest scores, ascending; all of them if there are no more than `k`.
///
/// Equal scores go to the lower index; NaN counts as the least of all.
pub fn largest(scores: &[f32], k: usize) -> Vec<u32> {
    let mut chosen = vec![0; k.min(scores.len())];
    largest_into(scores, &mut chosen);
    chosen
}

/// As [`largest`], as many as `chosen` has room for.
///
/// # Panics
///
/// If that is more than there are scores.
pub fn largest_into(scores: &[f32], chosen: &mut [u32]) {
    assert!(chosen.len() <= scores.len(), "{} of {} scores", chosen.len(), scores.len());
    if chosen.len() == scores.len() {
        return chosen.iter_mut().zip(0..).for_each(|(to, i)| *to = i);
    }
    if chosen.is_empty() {
        return;
    }
    let (least, mut ties) = threshold(scores, chosen.len());
    let mut count = 0;
    for (i, &score) in (0..).zip(scores) {
        let key = ordered(score);
        if key >= least {
            if key == least {
                if ties == 0 {
                    continue;
                }
                ties -= 1;
            }
            chosen[count] = i;
            count += 1;
        }
    }
}

/// The key of the `k`-th largest score, and how many scores with just this key are among the `k` largest.
fn threshold(scores: &[f32], k: usize) -> (u32, usize) {
    let (mut prefix, mut known, mut wanted) = (0u32, 0, k);
    for bits in DIGITS {
        let (above, shift) = (32 - known, 32 - known - bits);
        let mut counts = [0u32; 1 << 11];
        for &score in scores {
            let key = ordered(score);
            if known == 0 || key >> above == prefix {
                counts[(key >> shift) as usize & ((1 << bits) - 1)] += 1;
            }
        }
        let mut digit = (1usize << bits) - 1;
        while (counts[digit] as usize) < wanted {
            wanted -= counts[digit] as usize;
            digit -= 1;
        }
        prefix = prefix << bits | digit as u32;
        known += bits;
    }
    (prefix, wanted)
}

/// A key that sorts as the score does, with -0 equal to 0 and NaN below everything.
pub fn ordered(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let key = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    if score.is_nan() { 0 } else { key }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(largest(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(largest(&[-1.0, f32::NAN, -2.0], 2), [0, 2]);
        assert_eq!(largest(&[f32::NAN, f32::NAN, f32::NEG_INFINITY], 2), [0, 2]);
        assert_eq!(largest(&[5.0, 4.0], 7), [0, 1]);
        assert_eq!(largest(&[5.0, 4.0], 0), []);
    }

    #[test]
    fn keys_sort_as_scores_do() {
        let scores = [f32::NEG_INFINITY, -2.0, -1e-30, 0.0, 1e-30, 1.0, f32::INFINITY];
        assert!(scores.windows(2).all(|w| ordered(w[0]) < ordered(w[1])));
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY));
    }

    /// Scores of all kinds: whole bit patterns, and few values so that there are many ties.
    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![any::<u32>().prop_map(f32::from_bits), (-3i8..3).prop_map(f32::from)]
    }

    proptest! {
        #[test]
        fn it_is_what_a_sort_finds(scores in prop::collection::vec(score(), 0..300), k in 0usize..100) {
            let mut order: Vec<u32> = (0..scores.len() as u32).collect();
            order.sort_by_key(|&i| (std::cmp::Reverse(ordered(scores[i as usize])), i));
            order.truncate(k);
            order.sort_unstable();
            prop_assert_eq!(largest(&scores, k), order);
        }
    }
}
