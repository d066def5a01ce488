//! What a file says about a tensor: name, dimensions, type and place. And the table of types.

use crate::error::Problem;

/// The longest tensor name that readers of GGUF accept, in bytes (`GGML_MAX_NAME` less its zero).
pub(crate) const MAX_NAME: usize = 63;

/// The most dimensions a tensor may have (`GGML_MAX_DIMS`).
pub(crate) const MAX_DIMS: usize = 4;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Unique in the model, across shards.
    pub name: String,
    /// Elements along each axis, in ggml's order: the fastest-varying axis first. A matrix of `out`
    /// rows of `in` weights is `[in, out]`. Empty for a single number.
    pub dims: Vec<u64>,
    /// What an element, or a block of elements, looks like in the file.
    pub kind: TensorType,
    /// Size of the data in bytes.
    pub bytes: u64,
    /// Which file of the model holds the data, from 0.
    pub shard: usize,
    /// Where the data starts, in bytes from the start of that file.
    pub offset: u64,
}

impl TensorInfo {
    /// Number of elements: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Elements along `axis`; axes that the file does not mention have one.
    pub fn dim(&self, axis: usize) -> u64 {
        self.dims.get(axis).copied().unwrap_or(1)
    }

    /// Where the data ends, in bytes from the start of its file.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $kind:ident = $id:literal: $bytes:literal bytes for $block:literal;)*) => {
        /// How a tensor's elements are stored: the ids of `enum ggml_type`, with ggml's names.
        ///
        /// Elements lie in blocks along the first axis; a plain number is a block of one. The table
        /// also has types that nothing here computes with, so that a file that uses them can be
        /// listed and named in a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs)] // the names are ggml's, and known by them
        #[non_exhaustive]
        #[repr(u32)]
        pub enum TensorType { $($(#[$doc])* $kind = $id,)* }

        impl TensorType {
            /// Every type of the table, by id.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in ggml, such as `Q8_0`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }

            /// Elements in one block.
            pub fn block_elements(self) -> u64 {
                match self { $(Self::$kind => $block),* }
            }

            /// Bytes of one block.
            pub fn block_bytes(self) -> u64 {
                match self { $(Self::$kind => $bytes),* }
            }
        }
    };
}

tensor_types! {
    F32 = 0: 4 bytes for 1;
    F16 = 1: 2 bytes for 1;
    Q4_0 = 2: 18 bytes for 32;
    Q4_1 = 3: 20 bytes for 32;
    Q5_0 = 6: 22 bytes for 32;
    Q5_1 = 7: 24 bytes for 32;
    Q8_0 = 8: 34 bytes for 32;
    Q8_1 = 9: 36 bytes for 32;
    Q2_K = 10: 84 bytes for 256;
    Q3_K = 11: 110 bytes for 256;
    Q4_K = 12: 144 bytes for 256;
    Q5_K = 13: 176 bytes for 256;
    Q6_K = 14: 210 bytes for 256;
    Q8_K = 15: 292 bytes for 256;
    IQ2_XXS = 16: 66 bytes for 256;
    IQ2_XS = 17: 74 bytes for 256;
    IQ3_XXS = 18: 98 bytes for 256;
    IQ1_S = 19: 50 bytes for 256;
    IQ4_NL = 20: 18 bytes for 32;
    IQ3_S = 21: 110 bytes for 256;
    IQ2_S = 22: 82 bytes for 256;
    IQ4_XS = 23: 136 bytes for 256;
    I8 = 24: 1 bytes for 1;
    I16 = 25: 2 bytes for 1;
    I32 = 26: 4 bytes for 1;
    I64 = 27: 8 bytes for 1;
    F64 = 28: 8 bytes for 1;
    IQ1_M = 29: 56 bytes for 256;
    BF16 = 30: 2 bytes for 1;
    TQ1_0 = 34: 54 bytes for 256;
    TQ2_0 = 35: 66 bytes for 256;
    MXFP4 = 39: 17 bytes for 32;
    NVFP4 = 40: 36 bytes for 64;
    Q1_0 = 41: 18 bytes for 128;
    Q2_0 = 42: 18 bytes for 64;
}

impl TensorType {
    /// The type with this id, if it is a known one.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.id() == id)
    }

    /// The type with this name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// The number that stands for this type in a file.
    pub fn id(self) -> u32 {
        self as u32
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Checks a tensor's name, dimensions and type, and returns the size of its data in bytes.
pub(crate) fn checked_size(name: &str, dims: &[u64], kind: TensorType) -> Result<u64, Problem> {
    let tensor = || name.to_owned();
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Problem::TensorName { name: tensor(), len: name.len() });
    }
    if dims.len() > MAX_DIMS {
        return Err(Problem::DimensionCount { tensor: tensor(), found: dims.len() as u64 });
    }
    if let Some(&found) = dims.iter().find(|&&dim| dim == 0 || dim > i64::MAX as u64) {
        return Err(Problem::Dimension { tensor: tensor(), found });
    }
    let row = dims.first().copied().unwrap_or(1);
    let block = kind.block_elements();
    if row % block != 0 {
        return Err(Problem::BlockSize { tensor: tensor(), kind, row, block });
    }
    let size = || {
        // The number of elements must fit as well, though the bytes may be fewer.
        dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let row_bytes = (row / block).checked_mul(kind.block_bytes())?;
        dims.iter().skip(1).try_fold(row_bytes, |product, &dim| product.checked_mul(dim))
    };
    size().ok_or_else(|| Problem::TooLarge { tensor: tensor(), dims: dims.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_ggml() {
        let size = |dims: &[u64], kind| checked_size("t", dims, kind).unwrap();
        assert_eq!(size(&[], TensorType::F32), 4);
        assert_eq!(size(&[4096, 2048, 256], TensorType::IQ2_XXS), 4096 / 256 * 66 * 2048 * 256);
        assert_eq!(size(&[64, 3], TensorType::Q8_0), 2 * 34 * 3);
    }

    #[test]
    fn ids_and_names_lead_back_to_the_type() {
        for &kind in TensorType::ALL {
            assert_eq!(TensorType::from_id(kind.id()), Some(kind));
            assert_eq!(TensorType::from_name(&kind.name().to_lowercase()), Some(kind));
        }
        assert_eq!(TensorType::from_id(4), None, "Q4_2, long gone");
    }

    #[test]
    fn impossible_tensors_are_refused() {
        let message =
            |name: &str, dims: &[u64], kind| checked_size(name, dims, kind).unwrap_err().to_string();
        let check = |dims: &[u64], kind, want: &str| {
            let found = message("blk.0.x", dims, kind);
            assert!(found.contains(want) && found.contains("blk.0.x"), "{found}");
        };
        check(&[1; 5], TensorType::F32, "5 dimensions");
        check(&[4, 0], TensorType::F32, "dimension of 0");
        check(&[1 << 63], TensorType::F32, "dimension of 9223372036854775808");
        check(&[1 << 32, 1 << 32], TensorType::I8, "too large");
        check(&[1 << 62, 1], TensorType::F32, "too large");
        check(&[33, 1], TensorType::Q8_0, "multiple of 32");
        check(&[], TensorType::Q8_0, "multiple of 32");
        assert!(message("", &[1], TensorType::F32).contains("0 bytes long"));
        assert!(message(&"x".repeat(64), &[1], TensorType::F32).contains("64 bytes long"));
    }
}
