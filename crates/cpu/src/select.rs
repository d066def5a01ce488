//! The largest of some scores, ties to the lower index.

/// Indices of the `k` largest scores, ascending; all of them if there are no more than `k`.
///
/// Equal scores go to the lower index; NaN counts as the least of all.
pub fn largest(scores: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    if order.len() > k {
        let rank = |&i: &u32| (std::cmp::Reverse(ordered(scores[i as usize])), i);
        order.select_nth_unstable_by_key(k, rank);
        order.truncate(k);
        order.sort_unstable();
    }
    order
}

/// A key that sorts as the score does, with -0 equal to 0 and NaN below everything.
pub fn ordered(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(largest(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(largest(&[-1.0, f32::NAN, -2.0], 2), [0, 2]);
        assert_eq!(largest(&[5.0, 4.0], 7), [0, 1]);
    }

    #[test]
    fn keys_sort_as_scores_do() {
        let scores = [f32::NEG_INFINITY, -2.0, -1e-30, 0.0, 1e-30, 1.0, f32::INFINITY];
        assert!(scores.windows(2).all(|w| ordered(w[0]) < ordered(w[1])));
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY));
    }
}
