//! How a cached row is stored.
//!
//! Start at [`RowLayout`]: one row's width and byte form. `f32` keeps what the model computed, `f16`
//! rounds it. `f8` is the rounding that the published checkpoints were trained with, and lossless for
//! them: FP8 E4M3 in blocks of 64 with power-of-two scales for the components without rotary embedding,
//! BF16 for the others; index keys are rotated by a Hadamard transform and stored as FP4 in blocks of 32.
//!
//! Source: the DeepSeek V4 reference implementation, its KV quantization.

use crate::config::Config;
use half::{bf16, f16};
use quants::hadamard;
use quants::kv_rounding::{pack_fp4, pack_fp8, unpack_fp4, unpack_fp8};

/// Values that share a scale in an FP8 row.
pub const FP8_BLOCK: usize = 64;

/// Values that share a scale in an FP4 index key.
pub const FP4_BLOCK: usize = 32;

/// The form of all cached rows of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Exact.
    F32,
    /// Half the memory of `F32`.
    F16,
    /// FP8 and BF16 rows, FP4 index keys: what the model was trained with.
    F8,
}

/// Why a KV format does not suit a model.
#[derive(Debug, thiserror::Error)]
pub enum KvFormatError {
    /// The name is not one of ours.
    #[error("unknown KV format {0:?}: choose f32, f16 or f8")]
    Unknown(String),
    /// FP8 blocks do not fit the row.
    #[error(
        "KV format f8 needs rows whose part without rotary embedding is a multiple of 64, and this model's is {0}: use f16 or f32"
    )]
    LatentWidth(usize),
    /// FP4 blocks or the Hadamard transform do not fit the index key.
    #[error(
        "KV format f8 needs index keys whose width is a power of two and a multiple of 32, and this model's is {0}: use f16 or f32"
    )]
    IndexWidth(usize),
}

impl KvFormat {
    /// The name users know it by.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::F8 => "f8",
        }
    }

    /// The format for everyday use: the smallest that suits the model.
    pub fn usual(config: &Config) -> KvFormat {
        match KvFormat::F8.check(config) {
            Ok(()) => KvFormat::F8,
            Err(_) => KvFormat::F16,
        }
    }

    /// Checks that a model's rows can be stored in this form.
    ///
    /// # Errors
    ///
    /// For `F8`, if the widths are not multiples of its blocks.
    pub fn check(self, config: &Config) -> Result<(), KvFormatError> {
        let plain = config.head_dim - config.rope_dim;
        let key = config.index_dim;
        if self == KvFormat::F8 && !plain.is_multiple_of(FP8_BLOCK) {
            return Err(KvFormatError::LatentWidth(plain));
        }
        if self == KvFormat::F8
            && config.has_indexer()
            && !(key.is_multiple_of(FP4_BLOCK) && key.is_power_of_two())
        {
            return Err(KvFormatError::IndexWidth(key));
        }
        Ok(())
    }

    /// Layout of window rows and compressed rows.
    pub fn latent(self, config: &Config) -> RowLayout {
        let (width, rope) = (config.head_dim, config.rope_dim);
        match self {
            KvFormat::F32 => RowLayout::F32 { width },
            KvFormat::F16 => RowLayout::F16 { width },
            KvFormat::F8 => RowLayout::Latent8 { width, rope },
        }
    }

    /// Layout of index rows.
    pub fn index(self, config: &Config) -> RowLayout {
        let width = config.index_dim;
        match self {
            KvFormat::F32 => RowLayout::F32 { width },
            KvFormat::F16 => RowLayout::F16 { width },
            KvFormat::F8 => RowLayout::Index4 { width },
        }
    }
}

impl std::str::FromStr for KvFormat {
    type Err = KvFormatError;

    fn from_str(name: &str) -> Result<Self, KvFormatError> {
        [KvFormat::F32, KvFormat::F16, KvFormat::F8]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| KvFormatError::Unknown(name.to_owned()))
    }
}

/// The form of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowLayout {
    /// `width` f32.
    F32 {
        /// Values in a row.
        width: usize,
    },
    /// `width` f16, rounded to nearest even.
    F16 {
        /// Values in a row.
        width: usize,
    },
    /// `width - rope` E4M3 codes, an E8M0 scale for each 64 of them, `rope` bf16.
    Latent8 {
        /// Values in a row.
        width: usize,
        /// How many of them, at the end, carry the rotary embedding.
        rope: usize,
    },
    /// `width` E2M1 codes of the Hadamard transform, two a byte, and an E8M0 scale for each 32.
    Index4 {
        /// Values in a row.
        width: usize,
    },
}

impl RowLayout {
    /// Values in a row.
    pub fn width(self) -> usize {
        match self {
            RowLayout::F32 { width }
            | RowLayout::F16 { width }
            | RowLayout::Latent8 { width, .. }
            | RowLayout::Index4 { width } => width,
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        match self {
            RowLayout::F32 { width } => 4 * width,
            RowLayout::F16 { width } => 2 * width,
            RowLayout::Latent8 { width, rope } => {
                let plain = width - rope;
                plain + plain / FP8_BLOCK + 2 * rope
            }
            RowLayout::Index4 { width } => width / 2 + width / FP4_BLOCK,
        }
    }

    /// Whether what is stored is the Hadamard transform of the row, so that whatever meets it in a dot
    /// product has to be prepared with [`RowLayout::round`].
    pub fn is_rotated(self) -> bool {
        matches!(self, RowLayout::Index4 { .. })
    }

    /// Stores a row of [`RowLayout::width`] values in [`RowLayout::row_bytes`] bytes.
    pub fn encode(self, row: &[f32], bytes: &mut [u8]) {
        assert_eq!((row.len(), bytes.len()), (self.width(), self.row_bytes()), "cached row");
        match self {
            RowLayout::F32 { .. } => {
                for (to, x) in bytes.chunks_exact_mut(4).zip(row) {
                    to.copy_from_slice(&x.to_le_bytes());
                }
            }
            RowLayout::F16 { .. } => {
                for (to, &x) in bytes.chunks_exact_mut(2).zip(row) {
                    to.copy_from_slice(&f16::from_f32(x).to_le_bytes());
                }
            }
            RowLayout::Latent8 { width, rope } => {
                let plain = width - rope;
                let (codes, rest) = bytes.split_at_mut(plain);
                let (scales, tail) = rest.split_at_mut(plain / FP8_BLOCK);
                pack_fp8(&row[..plain], FP8_BLOCK, codes, scales);
                for (to, &x) in tail.chunks_exact_mut(2).zip(&row[plain..]) {
                    to.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
                }
            }
            RowLayout::Index4 { width } => {
                let mut rotated = row.to_vec();
                hadamard::transform(&mut rotated);
                let (codes, scales) = bytes.split_at_mut(width / 2);
                pack_fp4(&rotated, FP4_BLOCK, codes, scales);
            }
        }
    }

    /// The values of a stored row; for [`RowLayout::is_rotated`] those of the transform.
    pub fn decode(self, bytes: &[u8], row: &mut [f32]) {
        assert_eq!((row.len(), bytes.len()), (self.width(), self.row_bytes()), "cached row");
        match self {
            RowLayout::F32 { .. } => {
                for (x, from) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                    *x = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
                }
            }
            RowLayout::F16 { .. } => {
                for (x, from) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = f16::from_le_bytes([from[0], from[1]]).to_f32();
                }
            }
            RowLayout::Latent8 { width, rope } => {
                let plain = width - rope;
                let (codes, rest) = bytes.split_at(plain);
                let (scales, tail) = rest.split_at(plain / FP8_BLOCK);
                unpack_fp8(codes, scales, FP8_BLOCK, &mut row[..plain]);
                for (x, from) in row[plain..].iter_mut().zip(tail.chunks_exact(2)) {
                    *x = bf16::from_le_bytes([from[0], from[1]]).to_f32();
                }
            }
            RowLayout::Index4 { width } => {
                let (codes, scales) = bytes.split_at(width / 2);
                unpack_fp4(codes, scales, FP4_BLOCK, row);
            }
        }
    }

    /// What a row becomes by being stored and read back.
    pub fn round(self, row: &mut [f32]) {
        let mut bytes = vec![0; self.row_bytes()];
        self.encode(row, &mut bytes);
        self.decode(&bytes, row);
    }
}
