//! Random numbers that depend on nothing but their key, and are the same on every machine.
//!
//! The generator is SplitMix64: a counter, mixed. Source: Steele, Lea, Flood, "Fast splittable
//! pseudorandom number generators" (2014). Everything made of its output is integer arithmetic, or
//! single f32 operations, which IEEE 754 rounds the same everywhere.

/// The golden ratio's fraction in 64 bits: the step of the counter.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The random numbers of one piece of a tensor.
pub(super) struct Stream {
    counter: u64,
}

impl Stream {
    /// The numbers for piece `piece` of tensor `name` in the model of `seed`.
    pub fn new(seed: u64, name: &str, piece: u64) -> Self {
        let absorb = |key: u64, part: u64| mix(key.wrapping_add(STEP) ^ part);
        let key = name.bytes().fold(absorb(0, seed), |key, byte| absorb(key, byte.into()));
        Self { counter: absorb(key, piece) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(STEP);
        mix(self.counter)
    }

    /// A number in `0..end`. The bias of at most `end / 2^32` is no matter here.
    pub fn below(&mut self, end: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// A number from 0 to just below 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A nearly normal number with mean 0 and variance 1: the sum of four uniform ones, which ends at
    /// 3.46 standard deviations.
    pub fn normal(&mut self) -> f32 {
        self.normal_bits() as f32 * (1.0 / NORMAL_BITS_DEVIATION)
    }

    /// [`normal`](Self::normal) before it is scaled: an integer of magnitude at most 131070, with a
    /// standard deviation of [`NORMAL_BITS_DEVIATION`].
    pub fn normal_bits(&mut self) -> i32 {
        let bits = self.bits();
        let lane = |i: u32| ((bits >> (16 * i)) & 0xffff) as i32;
        lane(0) + lane(1) + lane(2) + lane(3) - 2 * 0xffff
    }

    /// Fills `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.bits().to_le_bytes()[..piece.len()]);
        }
    }
}

/// `sqrt(4 / 12) * 2^16`: four uniform numbers of 16 bits each.
const NORMAL_BITS_DEVIATION: f32 = 37837.23;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 0, as in the reference implementation by Vigna.
    #[test]
    fn it_is_splitmix64() {
        let mut stream = Stream { counter: 0 };
        assert_eq!(stream.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut stream = Stream::new(1, "w", 0);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(stream.normal());
            assert!(x.abs() < 3.47);
            sum += x;
            squares += x * x;
        }
        let (mean, variance) = (sum / f64::from(n), squares / f64::from(n));
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let first = |seed, name, piece| Stream::new(seed, name, piece).bits();
        let all = [first(1, "a", 0), first(2, "a", 0), first(1, "b", 0), first(1, "a", 1), first(1, "aa", 0)];
        for (i, x) in all.iter().enumerate() {
            assert!(!all[..i].contains(x));
        }
    }
}
