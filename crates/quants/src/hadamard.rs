//! The normalised Hadamard transform: `y[i] = n^(-1/2) sum_j (-1)^popcount(i & j) x[j]`.
//!
//! It is orthonormal and its own inverse. The indexer's queries and keys are turned by it before
//! they are rounded to FP4, which spreads one large component over all of them.

/// Transforms `x` in place: butterflies of distance 1, 2, 4 and so on, then the factor.
///
/// # Panics
///
/// If the length is not a power of two: `Config` has checked it, so that is our bug.
pub fn transform(x: &mut [f32]) {
    let n = x.len();
    assert!(n.is_power_of_two(), "Hadamard transform of {n} values");
    let mut distance = 1;
    while distance < n {
        for pair in x.chunks_exact_mut(2 * distance) {
            let (left, right) = pair.split_at_mut(distance);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        distance *= 2;
    }
    let factor = (1.0 / (n as f64).sqrt()) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
}
