//! The formats a weight tensor may have, by name, number and size, and whole rows of them.

use std::fmt;

use zerocopy::FromBytes;

use crate::float::{BlockBF16, BlockF16, BlockF32};
use crate::iq2_xxs::BlockIq2Xxs;
use crate::mxfp4::BlockMxfp4;
use crate::q2_k::BlockQ2K;
use crate::q3_k::BlockQ3K;
use crate::q4_k::BlockQ4K;
use crate::q5_k::BlockQ5K;
use crate::q6_k::BlockQ6K;
use crate::q8_0::BlockQ8_0;
use crate::{Block, Encode, EncodeError};

/// A format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, a scale and a minimum per 16.
    Q2K,
    /// 3 bits, a scale per 16.
    Q3K,
    /// 4 bits, a scale and a minimum per 32.
    Q4K,
    /// 5 bits, a scale and a minimum per 32.
    Q5K,
    /// 6 bits, a scale per 16.
    Q6K,
    /// 2 bits, a code book of eights, a scale per 32.
    Iq2Xxs,
    /// FP4 with a power of two per 32.
    Mxfp4,
}

/// What a format is, as a row of a table.
struct Facts {
    ggml_id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

/// The facts of a block type.
const fn facts<B: Block<N>, const N: usize>(ggml_id: u32, name: &'static str) -> Facts {
    Facts { ggml_id, name, block_len: N, block_bytes: size_of::<B>() }
}

impl Format {
    /// Every format, in the order of the enum.
    pub const ALL: [Format; 11] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq2Xxs,
        Format::Mxfp4,
    ];

    /// Ids and names are those of `enum ggml_type` in ggml.h.
    const fn facts(self) -> Facts {
        match self {
            Format::F32 => facts::<BlockF32, _>(0, "F32"),
            Format::F16 => facts::<BlockF16, _>(1, "F16"),
            Format::BF16 => facts::<BlockBF16, _>(30, "BF16"),
            Format::Q8_0 => facts::<BlockQ8_0, _>(8, "Q8_0"),
            Format::Q2K => facts::<BlockQ2K, _>(10, "Q2_K"),
            Format::Q3K => facts::<BlockQ3K, _>(11, "Q3_K"),
            Format::Q4K => facts::<BlockQ4K, _>(12, "Q4_K"),
            Format::Q5K => facts::<BlockQ5K, _>(13, "Q5_K"),
            Format::Q6K => facts::<BlockQ6K, _>(14, "Q6_K"),
            Format::Iq2Xxs => facts::<BlockIq2Xxs, _>(16, "IQ2_XXS"),
            Format::Mxfp4 => facts::<BlockMxfp4, _>(39, "MXFP4"),
        }
    }

    /// The format with this type number in a GGUF file, if it is one of ours.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml_id() == id)
    }

    /// The type number in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        self.facts().ggml_id
    }

    /// The usual name, such as `Q8_0`.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Weights in a block. A row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.facts().block_len
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// Bytes of a row of `n` weights; `None` if that is not a whole number of blocks, or too many
    /// bytes to count.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Decodes a row: `bytes` holds `out.len()` weights.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit together: the loader has checked every matrix, so that is our bug.
    pub fn decode_row(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.row_bytes(out.len()), Some(bytes.len()), "{self} row of {} weights", out.len());
        match self {
            Format::F32 => decode::<BlockF32, _>(bytes, out),
            Format::F16 => decode::<BlockF16, _>(bytes, out),
            Format::BF16 => decode::<BlockBF16, _>(bytes, out),
            Format::Q8_0 => decode::<BlockQ8_0, _>(bytes, out),
            Format::Q2K => decode::<BlockQ2K, _>(bytes, out),
            Format::Q3K => decode::<BlockQ3K, _>(bytes, out),
            Format::Q4K => decode::<BlockQ4K, _>(bytes, out),
            Format::Q5K => decode::<BlockQ5K, _>(bytes, out),
            Format::Q6K => decode::<BlockQ6K, _>(bytes, out),
            Format::Iq2Xxs => decode::<BlockIq2Xxs, _>(bytes, out),
            Format::Mxfp4 => decode::<BlockMxfp4, _>(bytes, out),
        }
    }

    /// Encodes a row of weights into `bytes`, which is left untouched on an error.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a value is not finite or too large for the format, or if there is no
    /// encoder for it.
    ///
    /// # Panics
    ///
    /// If `bytes` is not [`row_bytes`](Self::row_bytes) long.
    pub fn encode_row(self, x: &[f32], bytes: &mut [u8]) -> Result<(), EncodeError> {
        assert_eq!(self.row_bytes(x.len()), Some(bytes.len()), "{self} row of {} weights", x.len());
        match self {
            Format::F32 => encode::<BlockF32, _>(self, x, bytes),
            Format::F16 => encode::<BlockF16, _>(self, x, bytes),
            Format::BF16 => encode::<BlockBF16, _>(self, x, bytes),
            Format::Q8_0 => encode::<BlockQ8_0, _>(self, x, bytes),
            Format::Mxfp4 => encode::<BlockMxfp4, _>(self, x, bytes),
            Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::Iq2Xxs => {
                Err(EncodeError::NoEncoder { format: self })
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Views a row in place. [`Format::row_bytes`] has been checked, so the length always fits.
fn blocks<B: Block<N>, const N: usize>(bytes: &[u8]) -> &[B] {
    <[B]>::ref_from_bytes(bytes).expect("a whole number of blocks of alignment 1")
}

fn decode<B: Block<N>, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<B, N>(bytes).iter().zip(out.as_chunks_mut::<N>().0) {
        *out = block.decode();
    }
}

fn encode<B: Encode<N>, const N: usize>(
    format: Format,
    x: &[f32],
    bytes: &mut [u8],
) -> Result<(), EncodeError> {
    for (index, &value) in x.iter().enumerate() {
        if !value.is_finite() {
            return Err(EncodeError::NotFinite { index, value });
        }
        if value.abs() > B::LARGEST {
            return Err(EncodeError::TooLarge { format, index, value, largest: B::LARGEST });
        }
    }
    for (bytes, x) in bytes.chunks_exact_mut(size_of::<B>()).zip(x.as_chunks::<N>().0) {
        bytes.copy_from_slice(B::encode(x).as_bytes());
    }
    Ok(())
}
