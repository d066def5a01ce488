//! Random blocks of each format, made directly: what matters is that they are valid, that every code
//! occurs, and that the weights they stand for have mean 0 and a given deviation.
//!
//! Encoding real numbers would give the same statistics and take many times as long; a benchmark model
//! has ten billion weights.

use quants::Format;
use quants::float::{BlockBF16, BlockF16, BlockF32, f16_bits};
use quants::iq2_xxs::BlockIq2Xxs;
use quants::mxfp4::BlockMxfp4;
use quants::q2_k::BlockQ2K;
use quants::q3_k::BlockQ3K;
use quants::q4_k::{BlockQ4K, ScalesMins};
use quants::q5_k::BlockQ5K;
use quants::q6_k::BlockQ6K;
use quants::q8_0::BlockQ8_0;
use quants::{Block, Encode, e8m0};
use zerocopy::{FromBytes, IntoBytes};

use super::stream::Stream;

/// A block that can be made at random.
trait Random<const N: usize>: Block<N> {
    /// A block of weights with mean 0 and a deviation in proportion to `scale`.
    fn random(scale: f32, stream: &mut Stream) -> Self;
}

/// How to make blocks of one format, so that their weights have a given deviation.
pub(super) struct Blocks {
    format: Format,
    scale: f32,
    fill: fn(f32, &mut [u8], &mut Stream),
}

impl Blocks {
    /// Blocks of `format` whose weights have the standard deviation `deviation`.
    pub fn new(format: Format, deviation: f32) -> Self {
        match format {
            Format::F32 => Self::of::<BlockF32, _>(format, deviation),
            Format::F16 => Self::of::<BlockF16, _>(format, deviation),
            Format::BF16 => Self::of::<BlockBF16, _>(format, deviation),
            Format::Q8_0 => Self::of::<BlockQ8_0, _>(format, deviation),
            Format::Q2K => Self::of::<BlockQ2K, _>(format, deviation),
            Format::Q3K => Self::of::<BlockQ3K, _>(format, deviation),
            Format::Q4K => Self::of::<BlockQ4K, _>(format, deviation),
            Format::Q5K => Self::of::<BlockQ5K, _>(format, deviation),
            Format::Q6K => Self::of::<BlockQ6K, _>(format, deviation),
            Format::Iq2Xxs => Self::of::<BlockIq2Xxs, _>(format, deviation),
            Format::Mxfp4 => Self::of::<BlockMxfp4, _>(format, deviation),
        }
    }

    fn of<B: Random<N>, const N: usize>(format: Format, deviation: f32) -> Self {
        Self { format, scale: deviation / deviation_at_scale_1::<B, N>(), fill: fill::<B, N> }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Fills `bytes`, a whole number of blocks.
    pub fn fill(&self, bytes: &mut [u8], stream: &mut Stream) {
        (self.fill)(self.scale, bytes, stream);
    }
}

fn fill<B: Random<N>, const N: usize>(scale: f32, bytes: &mut [u8], stream: &mut Stream) {
    for block in bytes.chunks_exact_mut(size_of::<B>()) {
        block.copy_from_slice(B::random(scale, stream).as_bytes());
    }
}

/// The deviation of the weights of blocks made with scale 1, measured on a fixed sample.
fn deviation_at_scale_1<B: Random<N>, const N: usize>() -> f32 {
    const WEIGHTS: usize = 1 << 16;
    let mut stream = Stream::new(0, "deviation", 0);
    let squares: f64 = (0..WEIGHTS / N)
        .flat_map(|_| B::random(1.0, &mut stream).decode())
        .map(|x| f64::from(x) * f64::from(x))
        .sum();
    (squares / WEIGHTS as f64).sqrt() as f32
}

/// `scale`, changed by up to a quarter: the blocks of a row differ in size.
fn varied(scale: f32, stream: &mut Stream) -> f32 {
    scale * (0.75 + 0.5 * stream.unit())
}

/// A block of random bytes. All bits of the formats below are free, so it is a valid one; only its
/// scale is still to be set.
fn noise<B: FromBytes + IntoBytes>(stream: &mut Stream) -> B {
    let mut block = B::new_zeroed();
    stream.fill(block.as_mut_bytes());
    block
}

macro_rules! plain_floats {
    ($($block:ty),*) => {$(
        impl Random<1> for $block {
            fn random(scale: f32, stream: &mut Stream) -> Self {
                Self::encode(&[scale * stream.normal()])
            }
        }
    )*};
}

plain_floats!(BlockF32, BlockF16, BlockBF16);

impl Random<32> for BlockQ8_0 {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        // The largest is 131070 * 31 / 2^15 = 124.
        let q = std::array::from_fn(|_| ((stream.normal_bits() * 31 + (1 << 14)) >> 15) as i8);
        Self { d: f16_bits(varied(scale, stream)), q }
    }
}

impl Random<32> for BlockMxfp4 {
    /// The scale is a power of two, so it is drawn from the two neighbours of what it should be, with
    /// shares that give the right mean square.
    fn random(scale: f32, stream: &mut Stream) -> Self {
        let lower = (scale.to_bits() >> 23) as u8;
        let excess = scale / e8m0::decode(lower);
        let share = (excess * excess - 1.0) / 3.0;
        Self { e: lower + u8::from(stream.unit() < share), ..noise(stream) }
    }
}

impl Random<256> for BlockIq2Xxs {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        Self { d: f16_bits(varied(scale, stream)), ..noise(stream) }
    }
}

impl Random<256> for BlockQ3K {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        Self { d: f16_bits(varied(scale, stream)), ..noise(stream) }
    }
}

impl Random<256> for BlockQ6K {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        Self { d: f16_bits(varied(scale, stream)), ..noise(stream) }
    }
}

// The formats with minima. A weight is `d s q - dmin m`, and `q` has the mean `top / 2`; so with `m`
// about `s` and `dmin = d top / 2` its mean is 0.

impl Random<256> for BlockQ2K {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        let d = varied(scale, stream);
        let scales = std::array::from_fn(|_| {
            let (scale, min) = scale_and_min(2, 14, stream);
            scale | min << 4
        });
        Self { scales, d: f16_bits(d), dmin: f16_bits(d * 1.5), ..noise(stream) }
    }
}

impl Random<256> for BlockQ4K {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        let d = varied(scale, stream);
        let scales = scales_mins(stream);
        Self { d: f16_bits(d), dmin: f16_bits(d * 7.5), scales, ..noise(stream) }
    }
}

impl Random<256> for BlockQ5K {
    fn random(scale: f32, stream: &mut Stream) -> Self {
        let d = varied(scale, stream);
        let scales = scales_mins(stream);
        Self { d: f16_bits(d), dmin: f16_bits(d * 15.5), scales, ..noise(stream) }
    }
}

/// A scale in `low..=high`, and a minimum that is at most 1 off.
fn scale_and_min(low: u8, high: u8, stream: &mut Stream) -> (u8, u8) {
    let scale = low + stream.below(u32::from(high - low + 1)) as u8;
    (scale, scale - 1 + stream.below(3) as u8)
}

/// Eight of them in six bits each, laid out as [`ScalesMins`] reads them.
fn scales_mins(stream: &mut Stream) -> ScalesMins {
    let pairs: [(u8, u8); 8] = std::array::from_fn(|_| scale_and_min(16, 62, stream));
    let mut bytes = [0; 12];
    for j in 0..4 {
        let ((scale, min), (late_scale, late_min)) = (pairs[j], pairs[j + 4]);
        bytes[j] = scale | late_scale >> 4 << 6;
        bytes[j + 4] = min | late_min >> 4 << 6;
        bytes[j + 8] = late_scale & 15 | late_min << 4;
    }
    ScalesMins(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_deviation_asked_for() {
        for format in Format::ALL {
            for want in [1.0, 0.02, 0.005] {
                let blocks = 1 << 16 >> format.block_len().ilog2();
                let mut bytes = vec![0; blocks * format.block_bytes()];
                Blocks::new(format, want).fill(&mut bytes, &mut Stream::new(3, "w", 0));
                let mut weights = vec![0.0; 1 << 16];
                format.decode_row(&bytes, &mut weights);
                let n = weights.len() as f32;
                let mean = weights.iter().sum::<f32>() / n;
                let deviation = (weights.iter().map(|x| x * x).sum::<f32>() / n).sqrt();
                assert!((deviation / want - 1.0).abs() < 0.05, "{format}: {deviation}, needed {want}");
                assert!(mean.abs() < 0.03 * want, "{format}: mean {mean} of deviation {want}");
            }
        }
    }

    #[test]
    fn packed_scales_come_out_again() {
        let mut stream = Stream::new(5, "scales", 0);
        for _ in 0..100 {
            let packed = scales_mins(&mut stream);
            for j in 0..8 {
                let (scale, min) = packed.get(j);
                assert!((16..=62).contains(&scale) && scale.abs_diff(min) <= 1, "{scale} {min}");
            }
        }
    }
}
