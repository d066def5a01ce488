//! What this CPU can do: instruction sets as values.
//!
//! Having a value of [`Avx2`], [`Avx512`] or [`Neon`] is the proof that this CPU can run it, so a
//! [`Kernel`] is ordinary generic code over [`Isa`], written once, and `unsafe` stays in the small
//! methods of each instruction set. [`Scalar`], in plain Rust, is what the others are tested
//! against; every operation is exact or rounds once, so **all of them give the same bits**.
//!
//! Start at [`Isa`], the vocabulary of the kernels; then [`dispatch`], which picks the best
//! instruction set of this CPU, or the one asked for with [`choose`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::dot::{Chunk32, Chunk256, GroupPart, Turned256, iq2_xxs};
use quants::iq2_xxs::BlockIq2Xxs;
use quants::mxfp4::BlockMxfp4;
use quants::q2_k::BlockQ2K;
use quants::q4_k::BlockQ4K;
use quants::q8_0::BlockQ8_0;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::{Neon, Sdot, Widened};
pub use scalar::Scalar;

/// The vector operations our kernels are built from, for one instruction set.
///
/// Two shapes of integer product recur. A *group* is 256 weights in four vectors of 64, where vector
/// `v` holds weights `32 v..32 v + 32` and then `128 + 32 v..160 + 32 v`; K-quants keep the two
/// halves of a block apart, so they unpack into this order without a shuffle. A *pair* is two blocks
/// of 32 in one vector.
///
/// Every method is `#[inline(always)]`, so that it is compiled into a [`Kernel`] with the features
/// that the value proves. A kernel's own helpers must be too.
pub trait Isa: Copy {
    /// 64 bytes, signed or not as each operation says.
    type Bytes: Copy;
    /// One 16-bit number for each 16 weights of a group.
    type Sixteen: Copy;
    /// [`Sixteen`](Self::Sixteen), each number repeated beside its weights.
    type Spread: Copy;
    /// 64 signed weights, as [`dot_pair`](Self::dot_pair) likes them.
    type Signed: Copy;
    /// Partial sums of a group; only their total has a meaning.
    type Sums: Copy;
    /// Partial sums of the two halves of a pair.
    type PairSums: Copy;
    /// 16 f32.
    type Floats: Copy;
    /// 16 i32.
    type Ints: Copy;

    // ----- bytes -----

    /// 64 bytes from memory.
    fn bytes(self, x: &[u8; 64]) -> Self::Bytes;
    /// 32 bytes and then 32 others.
    fn halves(self, low: &[u8; 32], high: &[u8; 32]) -> Self::Bytes;
    /// The same 16 bytes in each quarter.
    fn quarters(self, x: &[u8; 16]) -> Self::Bytes;
    /// The low nibbles of 32 bytes and then their high nibbles.
    fn nibbles(self, x: &[u8; 32]) -> Self::Bytes;
    /// The low nibbles of 16 bytes, their high nibbles, and the same of 16 other bytes.
    fn nibbles_of_two(self, a: &[u8; 16], b: &[u8; 16]) -> Self::Bytes;
    /// Eight bytes from each of eight words, the lowest byte first.
    fn eights(self, x: [u64; 8]) -> Self::Bytes;
    /// The same byte everywhere.
    fn splat(self, x: u8) -> Self::Bytes;
    /// `0xff` where the bit is set, bit 0 for the first byte.
    fn mask(self, bits: u64) -> Self::Bytes;
    /// Bitwise and.
    fn and(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bitwise or.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Sum, wrapping.
    fn add(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each byte shifted right by `N`, zeros coming in.
    fn shr<const N: u32>(self, a: Self::Bytes) -> Self::Bytes;
    /// Each byte shifted left by `N`, zeros coming in.
    fn shl<const N: u32>(self, a: Self::Bytes) -> Self::Bytes;
    /// `table[index]` within each quarter; every index is below 16.
    fn lookup(self, table: Self::Bytes, index: Self::Bytes) -> Self::Bytes;

    // ----- dot products of a group of 256 -----

    /// Sixteen signed bytes, widened; the lowest byte of the first word is the first.
    fn sixteen(self, bytes: [u64; 2]) -> Self::Sixteen;
    /// Each number times `factor`; the product must fit 16 bits.
    fn times(self, a: Self::Sixteen, factor: i16) -> Self::Sixteen;
    /// Each number repeated for its 16 weights.
    fn spread(self, a: Self::Sixteen) -> Self::Spread;
    /// Nothing summed yet.
    fn no_sums(self) -> Self::Sums;
    /// Adds `Σ_j a[j] b[j]`.
    fn dot_sixteen(self, sums: Self::Sums, a: Self::Sixteen, b: &[i16; 16]) -> Self::Sums;
    /// Adds `Σ_i scale[i / 16] w[i] a[i]` over a group.
    ///
    /// - `w`: unsigned, at most 127
    /// - `a`: -127 to 127, in the order of `w`
    fn dot_group(
        self,
        sums: Self::Sums,
        w: &[Self::Bytes; 4],
        scale: &Self::Spread,
        a: &[Self::Bytes; 4],
    ) -> Self::Sums;
    /// The totals of four groups.
    fn totals(self, sums: [Self::Sums; 4]) -> [i32; 4];
    /// `Σ_i s[i / 32] w[i] a[i]` of four blocks of IQ2_XXS and each column, with their scales as the odd
    /// integers `2 s + 1`.
    #[inline(always)]
    fn iq2_xxs_dots<const C: usize>(
        self,
        blocks: [&[quants::iq2_xxs::Group; 8]; 4],
        cols: [&Turned256; C],
    ) -> [[i32; 4]; C] {
        iq2_xxs::dots_portably(self, blocks, cols)
    }

    /// Brings a group's activations, in the order of a group, into that of [`Turned256::turned`].
    #[inline(always)]
    fn turn(self, q: &[[i8; 64]; 4], turned: &mut [[i8; 32]; 8]) {
        for (v, vector) in q.iter().enumerate() {
            for (half, q) in vector.as_chunks::<32>().0.iter().enumerate() {
                let first_row = 4 * (v + 4 * half);
                for (j, &q) in q.iter().enumerate() {
                    turned[j % 8][first_row + j / 8] = q;
                }
            }
        }
    }

    // ----- dot products of a pair of 32 -----

    /// Whether [`dot_pair`](Self::dot_pair) takes each weight plus 128; then the caller makes it good by
    /// [`Chunk32::unbias`].
    const PAIR_BIASED: bool;
    /// Prepares signed weights.
    fn signed(self, w: Self::Bytes) -> Self::Signed;
    /// Prepares the signed weights `table[index]`, looked up as by [`lookup`](Self::lookup).
    #[inline(always)]
    fn signed_lookup(self, table: Self::Bytes, index: Self::Bytes) -> Self::Signed {
        self.signed(self.lookup(table, index))
    }
    /// `Σ_i w[i] a[i]` of both halves, or with `w[i] + 128`; `a` is -127 to 127.
    fn dot_pair(self, w: Self::Signed, a: &[i8; 64]) -> Self::PairSums;
    /// The totals of the first halves of four pairs, and of the second.
    fn pair_totals(self, sums: [Self::PairSums; 4]) -> [[i32; 4]; 2];

    // ----- panels: 16 rows side by side, a lane each -----

    /// Numbers to memory.
    fn put_sixteen(self, x: Self::Sixteen, to: &mut [i16; 16]);
    /// Signed weights as [`loaded`](Self::loaded) takes them from memory.
    fn stored(self, w: Self::Signed) -> Self::Bytes;
    /// Signed weights from what [`stored`](Self::stored) made of them.
    fn loaded(self, w: Self::Bytes) -> Self::Signed;
    /// Unpacks 16 blocks of IQ2_XXS, each weight plus 43: line `8 (i % 2) + g` of vector `i / 2` holds weight `i` of
    /// the four rows of the code book in group `g`, and line `g` of the scales `2 s + 1` as little-endian i32.
    #[inline(always)]
    fn iq2_xxs_panel(
        self,
        blocks: [&[quants::iq2_xxs::Group; 8]; 16],
        w: &mut [[Line; 16]; 4],
        scales: &mut [Line; 8],
    ) {
        iq2_xxs::panel_portably(self, blocks, w, scales);
    }
    /// Unpacks 16 blocks of MXFP4 as [`stored`](Self::stored) has them: line `i` has weights `4 i..4 i + 4` of each,
    /// doubled. Returns whether it did, for other instruction sets have no better way than block by block.
    #[inline(always)]
    fn mxfp4_panel(self, _blocks: [&BlockMxfp4; 16], _to: &mut [Line; 8]) -> bool {
        false
    }
    /// Unpacks 16 blocks of Q2_K. Returns whether it did, as [`mxfp4_panel`](Self::mxfp4_panel).
    #[inline(always)]
    fn q2_k_panel(self, _blocks: [&BlockQ2K; 16], _part: &mut GroupPart) -> bool {
        false
    }
    /// Unpacks 16 blocks of Q4_K. Returns whether it did, as [`mxfp4_panel`](Self::mxfp4_panel).
    #[inline(always)]
    fn q4_k_panel(self, _blocks: [&BlockQ4K; 16], _part: &mut GroupPart) -> bool {
        false
    }
    /// Products of the bytes with 16-bit numbers, of which each byte gets the low byte; the product of
    /// an unsigned byte and its number must fit one.
    fn scale_bytes(self, w: Self::Bytes, scale: &Self::Spread, v: usize) -> Self::Bytes;
    /// The same four bytes, 16 times.
    fn fours(self, x: &[i8; 4]) -> Self::Bytes;
    /// Adds `Σ_b w[4 r + b] a[4 r + b]` to each lane `r`.
    ///
    /// - `w`: unsigned, at most 127
    /// - `a`: -127 to 127
    fn dot_fours(self, sums: Self::Ints, w: Self::Bytes, a: Self::Bytes) -> Self::Ints;
    /// Adds `Σ_b w[4 r + b] a[4 r + b]` to each lane `r`, or with 128 added to each `w`; `a` is -127 to 127.
    fn dot_fours_signed(self, sums: Self::Ints, w: Self::Signed, a: Self::Bytes) -> Self::Ints;
    /// [`dot_fours`](Self::dot_fours) of a run of vectors, `N` from each panel and `N` fours of activations from
    /// each column, if this instruction set has a better way than one by one: returns whether it did it.
    ///
    /// - `SIGNED`: it is [`dot_fours_signed`](Self::dot_fours_signed), with weights as [`stored`](Self::stored) has
    ///   them
    /// - `largest`: no magnitude of a weight is above it; where it is small, sums fit fewer bits for longer
    /// - `scale`: what the sums of the run are multiplied by before they are added, if anything: 16 little-endian
    ///   i32 of each panel, 0 to 127
    #[inline(always)]
    fn dot_run<const SIGNED: bool, const N: usize, const P: usize, const C: usize>(
        self,
        _largest: u8,
        _w: [&[Line; N]; P],
        _a: [&[[i8; 4]; N]; C],
        _scale: Option<[&Line; P]>,
        _sums: &mut [[Self::Ints; C]; P],
    ) -> bool {
        false
    }
    /// Adds `Σ_b w[2 r + b] a[2 r + b]` of 16-bit numbers to each lane `r`.
    fn dot_twos(self, sums: Self::Ints, w: Self::Bytes, a: Self::Bytes) -> Self::Ints;
    /// Adds the products of 32-bit integers, which must fit; `factor` as 16 little-endian i32.
    fn add_times(self, sums: Self::Ints, x: Self::Ints, factor: Self::Bytes) -> Self::Ints;
    /// Whether [`add_two_times`](Self::add_two_times) is better than twice [`add_times`](Self::add_times).
    const TWO_TIMES: bool = false;
    /// Adds the products of two integers that fit 16 bits with the two 16-bit numbers of each lane of `factors`: the
    /// first with the lower one.
    #[inline(always)]
    fn add_two_times(self, _sums: Self::Ints, _x: [Self::Ints; 2], _factors: Self::Bytes) -> Self::Ints {
        unreachable!("only where it is better")
    }

    // ----- whole formats: the products of 16 rows and each column, `[columns, 16 rows]`, if this instruction
    //       set has a better way than four rows at a time -----

    /// 16 rows of MXFP4.
    #[inline(always)]
    fn mxfp4_products<const C: usize>(
        self,
        _rows: [&[BlockMxfp4]; 16],
        _cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }
    /// 16 rows of Q8_0.
    #[inline(always)]
    fn q8_0_products<const C: usize>(
        self,
        _rows: [&[BlockQ8_0]; 16],
        _cols: [&[Chunk32]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }
    /// 16 rows of Q2_K.
    #[inline(always)]
    fn q2_k_products<const C: usize>(
        self,
        _rows: [&[BlockQ2K]; 16],
        _cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }
    /// 16 rows of Q4_K.
    #[inline(always)]
    fn q4_k_products<const C: usize>(
        self,
        _rows: [&[BlockQ4K]; 16],
        _cols: [&[Chunk256]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }
    /// 16 rows of IQ2_XXS.
    #[inline(always)]
    fn iq2_xxs_products<const C: usize>(
        self,
        _rows: [&[BlockIq2Xxs]; 16],
        _cols: [&[Turned256]; C],
    ) -> Option<[[f32; 16]; C]> {
        None
    }

    // ----- floats -----

    /// The values of four f16, exactly.
    fn f16x4(self, bits: [u16; 4]) -> [f32; 4];
    /// 16 floats from memory.
    fn floats(self, x: &[f32; 16]) -> Self::Floats;
    /// The values of 16 little-endian f32.
    fn floats_f32(self, x: &[u8; 64]) -> Self::Floats;
    /// The values of 16 little-endian f16, exactly.
    fn floats_f16(self, x: &[u8; 32]) -> Self::Floats;
    /// The values of 16 little-endian bf16, exactly.
    fn floats_bf16(self, x: &[u8; 32]) -> Self::Floats;
    /// 16 zeros.
    fn no_floats(self) -> Self::Floats;
    /// Adds the products, each rounded before it is added: no fused multiply-add, so that every
    /// instruction set gives the same bits.
    fn add_products(self, sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Sums.
    fn sum_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Differences.
    fn difference(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The sum of all 16, as a tree: lane `i` plus lane `i + 8`, then 4, 2, 1 apart.
    fn sum(self, a: Self::Floats) -> f32;

    // ----- 16 lanes: a float, an integer or a word of four bytes each -----

    /// Whether 16 vectors of sums fit the registers beside what they are made from; else it is four.
    const WIDE: bool;
    /// The same float in every lane.
    fn splat_float(self, x: f32) -> Self::Floats;
    /// To memory.
    fn put_floats(self, a: Self::Floats, to: &mut [f32; 16]);
    /// `sum + a·b`, rounded once.
    fn fused(self, sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a·b`
    fn product(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a·power`, where `power` is a power of two and both, and the product, are positive normal numbers.
    #[inline(always)]
    fn times_power(self, a: Self::Floats, power: Self::Floats) -> Self::Floats {
        self.product(a, power)
    }
    /// The larger; `b` if one of them is NaN.
    fn larger(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The values of 64 E4M3 codes, in order.
    #[inline(always)]
    fn fp8(self, codes: &[u8; 64]) -> [Self::Floats; 4] {
        let quarters = codes.as_chunks::<16>().0;
        std::array::from_fn(|q| self.floats(&quarters[q].map(scalar::fp8_value)))
    }
    /// The same integer in every lane.
    fn splat_int(self, x: i32) -> Self::Ints;
    /// 16 integers from memory.
    fn ints(self, x: &[i32; 16]) -> Self::Ints;
    /// To memory.
    fn put_ints(self, a: Self::Ints, to: &mut [i32; 16]);
    /// The lowest byte of the bits of each float, to memory.
    #[inline(always)]
    fn put_low_bytes(self, a: Self::Floats, to: &mut [i8; 16]) {
        let mut floats = [0.0f32; 16];
        self.put_floats(a, &mut floats);
        for (to, x) in to.iter_mut().zip(floats) {
            *to = x.to_bits() as i8;
        }
    }
    /// The sums of each 16 of 64 signed bytes: `sums[j][v]` of the `j`-th 16 of vector `v`.
    #[inline(always)]
    fn sums_of_quarters(self, q: &[[i8; 64]; 4]) -> [[i32; 4]; 4] {
        let mut sums = [[0; 4]; 4];
        for (v, q) in q.iter().enumerate() {
            let mut fours = [0; 16];
            let q = self.bytes(zerocopy::transmute_ref!(q));
            self.put_ints(self.dot_fours(self.splat_int(0), self.splat(1), q), &mut fours);
            for (j, [a, b, c, d]) in fours.as_chunks().0.iter().enumerate() {
                sums[j][v] = (a + b) + (c + d);
            }
        }
        sums
    }
    /// Integers as floats, rounded to the nearest, ties to even.
    fn as_floats(self, a: Self::Ints) -> Self::Floats;
    /// To memory.
    fn put_bytes(self, a: Self::Bytes, to: &mut [u8; 64]);
    /// Transposes a square of words: word `i` of row `j` becomes word `j` of row `i`.
    #[inline(always)]
    fn transpose(self, rows: [Self::Bytes; 16]) -> [Self::Bytes; 16] {
        let mut words = [[0; 64]; 16];
        for (row, words) in rows.into_iter().zip(&mut words) {
            self.put_bytes(row, words);
        }
        std::array::from_fn(|i| {
            let column = std::array::from_fn(|at| words[at / 4][4 * i + at % 4]);
            self.bytes(&column)
        })
    }

    /// Asks for the cache line `offset` bytes after the start of `base`, which may lie beyond its
    /// end: nothing is read.
    fn prefetch(self, base: &[u8], offset: usize);
}

/// 64 bytes that are a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    /// All zero.
    pub const ZERO: Self = Self([0; 64]);
}

/// A piece of work that is compiled once for each instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;
}

/// An instruction set by name, with what we ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// AVX2, FMA and F16C (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, DQ, VL with VNNI, VBMI and GFNI: Ice Lake, Zen 4 and later.
    Avx512,
    /// NEON, which every aarch64 has.
    Neon,
    /// NEON with the dot product of bytes: Armv8.2 and later.
    NeonDotprod,
}

impl Level {
    /// All of them, those that are better where they exist later.
    const ALL: [Level; 5] = [Level::Scalar, Level::Avx2, Level::Avx512, Level::Neon, Level::NeonDotprod];

    /// The name, as [`choose`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
            Level::NeonDotprod => "neon-dotprod",
        }
    }

    /// Whether this CPU has it.
    pub fn available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Neon::<Widened>::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => Neon::<Sdot>::detect().is_some(),
            #[allow(unreachable_patterns, reason = "which are left depends on the target")]
            _ => false,
        }
    }

    /// Runs `kernel` with this instruction set.
    ///
    /// # Panics
    ///
    /// If this CPU does not have it.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        const CHECKED: &str = "an available instruction set";
        match self {
            Level::Scalar => kernel.eval(Scalar),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::detect().expect(CHECKED).run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::detect().expect(CHECKED).run(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Neon::<Widened>::detect().expect(CHECKED).run(kernel),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => Neon::<Sdot>::detect().expect(CHECKED).run(kernel),
            #[allow(unreachable_patterns, reason = "which are left depends on the target")]
            _ => panic!("{self} is not {CHECKED}"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why an instruction set could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No such name.
    #[error("{name:?} is not an instruction set; there are scalar, avx2, avx512, neon and neon-dotprod")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A name we know, but this CPU cannot do it.
    #[error("this CPU does not have {level}; it has {}", names_of_available())]
    Unavailable {
        /// What was asked for.
        level: Level,
    },
}

fn names_of_available() -> String {
    available().map(Level::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Level {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let found = Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| IsaError::Unknown { name: name.to_owned() })
    }
}

/// The instruction sets of this CPU, the best last.
pub fn available() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.available())
}

/// The level [`dispatch`] uses, as an index into [`Level::ALL`]; [`UNDECIDED`] until the first use.
static LEVEL: AtomicU8 = AtomicU8::new(UNDECIDED);
const UNDECIDED: u8 = u8::MAX;

/// The instruction set in use: the best of this CPU, or the one that was chosen.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        UNDECIDED => {
            let best = available().last().unwrap_or(Level::Scalar);
            LEVEL.store(best as u8, Ordering::Relaxed);
            best
        }
        index => Level::ALL[usize::from(index)],
    }
}

/// Makes the whole process use one instruction set, by name: `scalar`, `avx2`, `avx512`, `neon`, `neon-dotprod`.
///
/// All give the same bits, so this is for measuring, and for doubting that sentence.
///
/// # Errors
///
/// [`IsaError`] if there is no such name or this CPU does not have it.
pub fn choose(name: &str) -> Result<Level, IsaError> {
    let level: Level = name.parse()?;
    if !level.available() {
        return Err(IsaError::Unavailable { level });
    }
    LEVEL.store(level as u8, Ordering::Relaxed);
    Ok(level)
}

/// Runs `kernel` with the instruction set in use.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    level().run(kernel)
}

/// Runs `kernel` with every instruction set of this CPU, for tests.
pub fn on_each<K: Kernel + Clone>(kernel: K) -> impl Iterator<Item = (Level, K::Output)> {
    available().map(move |level| (level, level.run(kernel.clone())))
}

#[cfg(test)]
mod tests;
