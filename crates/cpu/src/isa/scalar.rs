//! The operations in plain Rust: what they mean, for any CPU.

use super::Isa;
use std::array::from_fn;

/// Plain Rust; every CPU has it.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// Which sixteenth of a group byte `i` of vector `v` belongs to.
pub(super) const fn sixteenth(v: usize, i: usize) -> usize {
    2 * v + 8 * (i / 32) + i % 32 / 16
}

impl Isa for Scalar {
    type Bytes = [u8; 64];
    type Sixteen = [i16; 16];
    type Spread = [i16; 16];
    type Signed = [i8; 64];
    type Sums = i32;
    type PairSums = [i32; 2];
    type Floats = [f32; 16];
    type Ints = [i32; 16];

    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> [u8; 64] {
        *x
    }

    #[inline(always)]
    fn halves(self, low: &[u8; 32], high: &[u8; 32]) -> [u8; 64] {
        from_fn(|i| if i < 32 { low[i] } else { high[i - 32] })
    }

    #[inline(always)]
    fn quarters(self, x: &[u8; 16]) -> [u8; 64] {
        from_fn(|i| x[i % 16])
    }

    #[inline(always)]
    fn nibbles(self, x: &[u8; 32]) -> [u8; 64] {
        from_fn(|i| x[i % 32] >> (4 * (i / 32)) & 15)
    }

    #[inline(always)]
    fn nibbles_of_two(self, a: &[u8; 16], b: &[u8; 16]) -> [u8; 64] {
        from_fn(|i| if i < 32 { a } else { b }[i % 16] >> (4 * (i / 16 % 2)) & 15)
    }

    #[inline(always)]
    fn eights(self, x: [u64; 8]) -> [u8; 64] {
        from_fn(|i| x[i / 8].to_le_bytes()[i % 8])
    }

    #[inline(always)]
    fn splat(self, x: u8) -> [u8; 64] {
        [x; 64]
    }

    #[inline(always)]
    fn mask(self, bits: u64) -> [u8; 64] {
        from_fn(|i| if bits >> i & 1 == 1 { 0xff } else { 0 })
    }

    #[inline(always)]
    fn and(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] & b[i])
    }

    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn xor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn add(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn shr<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        a.map(|a| a >> N)
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        a.map(|a| a << N)
    }

    #[inline(always)]
    fn lookup(self, table: [u8; 64], index: [u8; 64]) -> [u8; 64] {
        from_fn(|i| table[i / 16 * 16 + usize::from(index[i])])
    }

    #[inline(always)]
    fn sixteen(self, bytes: [u64; 2]) -> [i16; 16] {
        from_fn(|j| i16::from(bytes[j / 8].to_le_bytes()[j % 8] as i8))
    }

    #[inline(always)]
    fn times(self, a: [i16; 16], factor: i16) -> [i16; 16] {
        a.map(|a| a * factor)
    }

    #[inline(always)]
    fn spread(self, a: [i16; 16]) -> [i16; 16] {
        a
    }

    #[inline(always)]
    fn no_sums(self) -> i32 {
        0
    }

    #[inline(always)]
    fn dot_sixteen(self, sums: i32, a: [i16; 16], b: &[i16; 16]) -> i32 {
        sums + a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>()
    }

    #[inline(always)]
    fn dot_group(self, mut sums: i32, w: &[[u8; 64]; 4], scale: &[i16; 16], a: &[[u8; 64]; 4]) -> i32 {
        for (v, (w, a)) in w.iter().zip(a).enumerate() {
            for (i, (&w, &a)) in w.iter().zip(a).enumerate() {
                sums += i32::from(scale[sixteenth(v, i)]) * i32::from(w) * i32::from(a as i8);
            }
        }
        sums
    }

    #[inline(always)]
    fn totals(self, sums: [i32; 4]) -> [i32; 4] {
        sums
    }

    const PAIR_BIASED: bool = false;

    #[inline(always)]
    fn signed(self, w: [u8; 64]) -> [i8; 64] {
        w.map(|w| w as i8)
    }

    #[inline(always)]
    fn dot_pair(self, w: [i8; 64], a: &[i8; 64]) -> [i32; 2] {
        from_fn(|half| (32 * half..32 * half + 32).map(|i| i32::from(w[i]) * i32::from(a[i])).sum())
    }

    #[inline(always)]
    fn pair_totals(self, sums: [[i32; 2]; 4]) -> [[i32; 4]; 2] {
        from_fn(|half| sums.map(|sums| sums[half]))
    }

    #[inline(always)]
    fn put_sixteen(self, x: [i16; 16], to: &mut [i16; 16]) {
        *to = x;
    }

    #[inline(always)]
    fn stored(self, w: [i8; 64]) -> [u8; 64] {
        w.map(|w| w as u8)
    }

    #[inline(always)]
    fn loaded(self, w: [u8; 64]) -> [i8; 64] {
        w.map(|w| w as i8)
    }

    #[inline(always)]
    fn scale_bytes(self, w: [u8; 64], scale: &[i16; 16], v: usize) -> [u8; 64] {
        from_fn(|i| (i16::from(w[i]) * scale[sixteenth(v, i)]) as u8)
    }

    #[inline(always)]
    fn fours(self, x: &[i8; 4]) -> [u8; 64] {
        from_fn(|i| x[i % 4] as u8)
    }

    #[inline(always)]
    fn dot_fours(self, sums: [i32; 16], w: [u8; 64], a: [u8; 64]) -> [i32; 16] {
        from_fn(|r| {
            sums[r] + (4 * r..4 * r + 4).map(|i| i32::from(w[i]) * i32::from(a[i] as i8)).sum::<i32>()
        })
    }

    #[inline(always)]
    fn dot_fours_signed(self, sums: [i32; 16], w: [i8; 64], a: [u8; 64]) -> [i32; 16] {
        from_fn(|r| {
            sums[r] + (4 * r..4 * r + 4).map(|i| i32::from(w[i]) * i32::from(a[i] as i8)).sum::<i32>()
        })
    }

    #[inline(always)]
    fn dot_twos(self, sums: [i32; 16], w: [u8; 64], a: [u8; 64]) -> [i32; 16] {
        let number = |x: &[u8; 64], i: usize| i32::from(i16::from_le_bytes([x[2 * i], x[2 * i + 1]]));
        from_fn(|r| sums[r] + (2 * r..2 * r + 2).map(|i| number(&w, i) * number(&a, i)).sum::<i32>())
    }

    #[inline(always)]
    fn add_times(self, sums: [i32; 16], x: [i32; 16], factor: [u8; 64]) -> [i32; 16] {
        let factor = factor.as_chunks::<4>().0;
        from_fn(|r| sums[r] + x[r] * i32::from_le_bytes(factor[r]))
    }

    #[inline(always)]
    fn f16x4(self, bits: [u16; 4]) -> [f32; 4] {
        bits.map(f16_value)
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    #[inline(always)]
    fn floats_f32(self, x: &[u8; 64]) -> [f32; 16] {
        from_fn(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }

    #[inline(always)]
    fn floats_f16(self, x: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| f16_value(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }

    #[inline(always)]
    fn floats_bf16(self, x: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| f32::from_bits(u32::from_le_bytes([0, 0, x[2 * i], x[2 * i + 1]])))
    }

    #[inline(always)]
    fn no_floats(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    fn add_products(self, sum: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| sum[i] + a[i] * b[i])
    }

    #[inline(always)]
    fn sum_floats(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn difference(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn sum(self, a: [f32; 16]) -> f32 {
        sum_tree(a)
    }

    const WIDE: bool = false;

    #[inline(always)]
    fn splat_float(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn put_floats(self, a: [f32; 16], to: &mut [f32; 16]) {
        *to = a;
    }

    #[inline(always)]
    fn fused(self, sum: [f32; 16], a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i].mul_add(b[i], sum[i]))
    }

    #[inline(always)]
    fn product(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn larger(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [i32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn ints(self, x: &[i32; 16]) -> [i32; 16] {
        *x
    }

    #[inline(always)]
    fn put_ints(self, a: [i32; 16], to: &mut [i32; 16]) {
        *to = a;
    }

    #[inline(always)]
    fn as_floats(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn put_bytes(self, a: [u8; 64], to: &mut [u8; 64]) {
        *to = a;
    }

    #[inline(always)]
    fn prefetch(self, _base: &[u8], _offset: usize) {}
}

/// The sum in the order that [`Isa::sum`] lays down.
#[inline(always)]
pub(super) fn sum_tree(mut a: [f32; 16]) -> f32 {
    for apart in [8, 4, 2, 1] {
        for i in 0..apart {
            a[i] += a[i + apart];
        }
    }
    a[0]
}

/// The value of an f16, exactly, without a branch: the exponent is rebased by a multiplication,
/// which also normalises subnormal numbers; infinities and NaN get the rest of their exponent.
#[inline(always)]
pub(super) fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    let rebased = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000); // 2^112
    f32::from_bits(rebased.to_bits() | special | (bits & 0x8000) << 16)
}

/// The value of an E4M3 code, exactly, without a branch or a subnormal number on the way.
#[inline(always)]
pub(super) const fn fp8_value(code: u8) -> f32 {
    // The exponent is rebased from 7 to 127. Where it is 0, there is no hidden bit: it is taken as 1,
    // and the hidden bit off again.
    let magnitude = ((code & 0x7f) as u32) << 20;
    let value = f32::from_bits(magnitude + (120 << 23));
    let hidden = f32::from_bits(121 << 23);
    let small = f32::from_bits(magnitude + (121 << 23)) - hidden;
    let value = if code & 0x78 == 0 { small } else { value };
    let value = if code & 0x7f == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | ((code & 0x80) as u32) << 24)
}
