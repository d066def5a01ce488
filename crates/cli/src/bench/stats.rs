//! Samples of a speed, and what they come to.

use serde::Serialize;

/// Repeats of one measurement, in units a second.
#[derive(Clone, Debug, Serialize)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        median(&self.0)
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Standard deviation of the sample; 0 for a single one.
    pub fn stddev(&self) -> f64 {
        let (mean, n) = (self.mean(), self.0.len() as f64);
        if self.0.len() < 2 {
            return 0.0;
        }
        (self.0.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_add_up() {
        let samples = Samples(vec![4.0, 1.0, 2.0, 9.0]);
        assert_eq!((samples.median(), samples.mean(), samples.min(), samples.max()), (3.0, 4.0, 1.0, 9.0));
        assert!((samples.stddev() - (38.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        let one = Samples(vec![5.0]);
        assert_eq!((one.median(), one.stddev()), (5.0, 0.0));
    }
}
