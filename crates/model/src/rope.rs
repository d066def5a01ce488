//! Rotary position embedding: which angle each pair of components turns by.
//!
//! The last `dim` components of a vector are `dim / 2` interleaved pairs `(a, b)`; with the angle
//! `t = position · frequency` they become `(a·cos t - b·sin t, a·sin t + b·cos t)`. Layers that
//! compress use a larger base and YaRN's interpolation; there is no YaRN magnitude factor.
//!
//! The angle is the f32 product of the f32 position and the f32 frequency, in every backend: at a
//! position of a million that product is off by up to 0.03 rad, which is harmless only as long as
//! every cached key was turned by the same number. So tables are made here, on the host.
//!
//! Source: the DeepSeek V4 reference implementation; YaRN, arXiv 2309.00071, section 3.2.

/// YaRN's parameters for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How much longer than the original the context is.
    pub factor: f32,
    /// Context length before the extension, in tokens.
    pub original_context: u32,
    /// Pairs that turn more often than this over the original context keep their frequency.
    pub beta_fast: f32,
    /// Pairs that turn less often than this are slowed down by the whole factor.
    pub beta_slow: f32,
}

/// The frequencies of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[dim / 2]`, radians per token.
    frequencies: Vec<f32>,
}

impl Rope {
    /// Frequencies `theta^(-2i/dim)` for `dim / 2` pairs, interpolated by `yarn` where given.
    pub fn new(dim: usize, theta: f32, yarn: Option<Yarn>) -> Rope {
        let theta = f64::from(theta);
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64);
        let pairs = 0..dim / 2;
        let Some(yarn) = yarn else {
            return Rope { frequencies: pairs.map(|i| plain(i) as f32).collect() };
        };
        // The pair that makes `turns` turns over the original context.
        let pair_of = |turns: f32| {
            let turn_len = f64::from(yarn.original_context) / (f64::from(turns) * std::f64::consts::TAU);
            dim as f64 * turn_len.ln() / (2.0 * theta.ln())
        };
        let low = pair_of(yarn.beta_fast).floor().max(0.0);
        let high = pair_of(yarn.beta_slow).ceil().min(dim as f64 - 1.0);
        let span = if high == low { 0.001 } else { high - low };
        let frequencies = pairs
            .map(|i| {
                let ramp = ((i as f64 - low) / span).clamp(0.0, 1.0);
                (plain(i) / f64::from(yarn.factor) * ramp + plain(i) * (1.0 - ramp)) as f32
            })
            .collect();
        Rope { frequencies }
    }

    /// The angles of some positions.
    pub fn angles(&self, positions: impl IntoIterator<Item = usize>) -> Angles {
        let mut cos_sin = Vec::new();
        for position in positions {
            cos_sin.extend(self.frequencies.iter().map(|&f| {
                let angle = f64::from(position as f32 * f);
                [angle.cos() as f32, angle.sin() as f32]
            }));
        }
        Angles { pairs: self.frequencies.len(), cos_sin }
    }
}

/// Cosine and sine of every pair's angle, for a list of positions.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    pairs: usize,
    cos_sin: Vec<[f32; 2]>,
}

impl Angles {
    /// `[dim / 2]` of (cos, sin) for entry `i` of the list.
    pub fn row(&self, i: usize) -> &[[f32; 2]] {
        &self.cos_sin[i * self.pairs..(i + 1) * self.pairs]
    }

    /// Turns the tail of `x` by the angles of entry `i`.
    pub fn rotate(&self, i: usize, x: &mut [f32]) {
        self.turn(i, x, 1.0);
    }

    /// Turns the tail of `x` back by the angles of entry `i`.
    pub fn rotate_back(&self, i: usize, x: &mut [f32]) {
        self.turn(i, x, -1.0);
    }

    fn turn(&self, i: usize, x: &mut [f32], sign: f32) {
        let tail = x.len() - 2 * self.pairs;
        for (pair, &[cos, sin]) in x[tail..].chunks_exact_mut(2).zip(self.row(i)) {
            let (a, b, sin) = (pair[0], pair[1], sign * sin);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLASH: Yarn = Yarn { factor: 16.0, original_context: 65536, beta_fast: 32.0, beta_slow: 1.0 };

    /// Published check values of the Flash frequencies.
    #[test]
    fn frequencies_are_those_of_the_reference() {
        let plain = Rope::new(64, 1e4, None).frequencies;
        let yarn = Rope::new(64, 1.6e5, Some(FLASH)).frequencies;
        for (i, want_plain, want_yarn) in [
            (0, 1.0, 1.0),
            (1, 0.749_894_2, 0.687_656_05),
            (15, 0.013_335_215, 0.003_635_538_5),
            (16, 0.01, 0.002_265_625),
            (20, 0.003_162_277_9, 2.969_777_9e-4),
            (25, 7.498_942e-4, 5.372_312e-6),
            (31, 1.333_521_5e-4, 5.680_529_4e-7),
        ] {
            assert!((plain[i] / want_plain - 1.0f32).abs() < 1e-6, "plain {i}: {}", plain[i]);
            assert!((yarn[i] / want_yarn - 1.0f32).abs() < 1e-6, "yarn {i}: {}", yarn[i]);
        }
    }

    #[test]
    fn turning_back_undoes_turning() {
        let angles = Rope::new(8, 1e4, None).angles([0, 5, 1_000_000]);
        for i in 0..3 {
            let x: Vec<f32> = (0..12).map(|j| j as f32 - 3.5).collect();
            let mut y = x.clone();
            angles.rotate(i, &mut y);
            assert_eq!(y[..4], x[..4], "only the tail turns");
            angles.rotate_back(i, &mut y);
            assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
