//! How weights are laid out on the device.
//!
//! Blocks whose size is not a multiple of 16 bytes are laid out anew on their way there: first a plane
//! with the bits, whole vectors for each block, then a plane with the scales, both in the order of the
//! file. Kernels can then read 16 bytes at a time, and the bytes stay as many, but for two of padding in
//! a Q3_K block. The signs of IQ2_XXS lie in another order, see [`by_bytes`].

use quants::Format;
use quants::iq2_xxs::GRID_LEVELS;

/// How the blocks of a format are laid out: which of their bytes go to the plane of bits, and which to that of scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    format: Format,
    /// Bytes of a block's bits in the file.
    bits: usize,
    /// The same on the device, a multiple of 16 where a block has scales apart.
    pub(crate) padded: usize,
    /// Bytes of a block's scales.
    pub(crate) scales: usize,
    /// Whether the scales come first in the file.
    scales_first: bool,
    /// Bytes ahead of all scales.
    pub(crate) table: usize,
}

impl Planes {
    pub(crate) fn of(format: Format) -> Planes {
        let block = format.block_bytes();
        let (scales, scales_first) = match format {
            Format::F32 | Format::F16 | Format::BF16 | Format::Q4K | Format::Q5K | Format::Q3K => (0, false),
            Format::Q2K => (4, false),
            Format::Q6K => (2, false),
            Format::Q8_0 | Format::Iq2Xxs => (2, true),
            Format::Mxfp4 => (1, true),
        };
        let bits = block - scales;
        let padded = if format == Format::Q3K { 112 } else { bits };
        let table = if format == Format::Iq2Xxs { 2 * GRID_LEVELS.len() } else { 0 };
        Planes { format, bits, padded, scales, scales_first, table }
    }

    /// Bytes of a block in the file.
    pub(crate) fn block(&self) -> usize {
        self.bits + self.scales
    }

    /// Whether a block stays as it is.
    pub(crate) fn as_in_file(&self) -> bool {
        self.padded == self.block()
    }

    /// Bytes that so many blocks have on the device.
    pub(crate) fn bytes(&self, blocks: u64) -> u64 {
        blocks * (self.padded + self.scales) as u64 + self.table as u64
    }

    /// What is ahead of all scales.
    pub(crate) fn table_bytes(&self) -> Vec<u8> {
        let levels: &[u16] = if self.table > 0 { &GRID_LEVELS } else { &[] };
        levels.iter().flat_map(|levels| levels.to_le_bytes()).collect()
    }

    /// Lays whole blocks out, in planes of just their size.
    pub(crate) fn lay_out(&self, blocks: &[u8], bits: &mut [u8], scales: &mut [u8]) {
        match self.format {
            Format::Q8_0 => self.lay_out_of::<34, 32, 32, 2>(blocks, bits, scales),
            Format::Q2K => self.lay_out_of::<84, 80, 80, 4>(blocks, bits, scales),
            Format::Q6K => self.lay_out_of::<210, 208, 208, 2>(blocks, bits, scales),
            Format::Iq2Xxs => {
                self.lay_out_of::<66, 64, 64, 2>(blocks, bits, scales);
                // Two words for each group: rows of the code book, and signs.
                for [_, signs] in bits.as_chunks_mut::<4>().0.as_chunks_mut::<2>().0 {
                    *signs = by_bytes(u32::from_le_bytes(*signs)).to_le_bytes();
                }
            }
            Format::Mxfp4 => self.lay_out_of::<17, 16, 16, 1>(blocks, bits, scales),
            Format::Q3K => self.lay_out_of::<110, 110, 112, 0>(blocks, bits, scales),
            Format::F32 | Format::F16 | Format::BF16 | Format::Q4K | Format::Q5K => {
                bits.copy_from_slice(blocks)
            }
        }
    }

    /// The same for sizes that the compiler knows, so that it copies a block in a few instructions.
    fn lay_out_of<const BLOCK: usize, const BITS: usize, const PADDED: usize, const SCALES: usize>(
        &self,
        blocks: &[u8],
        bits: &mut [u8],
        scales: &mut [u8],
    ) {
        let sizes = (BLOCK, BITS, PADDED, SCALES);
        assert_eq!(sizes, (self.block(), self.bits, self.padded, self.scales), "{:?}", self.format);
        let count = blocks.len() / BLOCK;
        let sizes = (count * BLOCK, count * PADDED, count * SCALES);
        assert_eq!(sizes, (blocks.len(), bits.len(), scales.len()), "planes of whole blocks");
        let (bits_at, scales_at) = if self.scales_first { (SCALES, 0) } else { (0, BITS) };
        for (i, (block, bits)) in
            blocks.as_chunks::<BLOCK>().0.iter().zip(bits.as_chunks_mut::<PADDED>().0).enumerate()
        {
            bits[..BITS].copy_from_slice(&block[bits_at..][..BITS]);
            bits[BITS..].fill(0);
            scales[i * SCALES..][..SCALES].copy_from_slice(&block[scales_at..][..SCALES]);
        }
    }
}

/// The signs of a group of IQ2_XXS, in an order that kernels need few instructions for: that of weight 8k + i at bit
/// 8 (i % 4) + 4 (i / 4) + k. The file has no eighth one; its place has a bit of the group's scale.
fn by_bytes(word: u32) -> u32 {
    const SPREAD: [u32; 128] = {
        let mut spread = [0; 128];
        let mut seven = 0;
        while seven < 128 {
            let mut i = 0;
            while i < 7 {
                spread[seven] |= (seven as u32 >> i & 1) << (8 * (i % 4) + 4 * (i / 4));
                i += 1;
            }
            seven += 1;
        }
        spread
    };
    (0..4).fold(word & 0xf000_0000, |all, k| all | SPREAD[(word >> (7 * k)) as usize & 127] << k)
}

/// The planes of bits and of scales of some rows, as they lie on the device.
#[cfg(test)]
pub(crate) fn planes_of(format: Format, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let planes = Planes::of(format);
    let (count, table) = (bytes.len() / planes.block(), planes.table_bytes());
    let mut bits = vec![0; count * planes.padded];
    let mut scales = [&table[..], &vec![0; count * planes.scales]].concat();
    planes.lay_out(bytes, &mut bits, &mut scales[planes.table..]);
    scales.resize((scales.len() + 4).next_multiple_of(4), 0);
    (bits, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_block_goes_to_one_plane() {
        let check = |format: Format,
                     want_bits: &[std::ops::Range<u8>],
                     want_scales: &[std::ops::Range<u8>]| {
            let block = format.block_bytes() as u8;
            let two: Vec<u8> = (0..2 * block).collect();
            let planes = Planes::of(format);
            let (mut bits, mut scales) = (vec![9; 2 * planes.padded], vec![9; 2 * planes.scales]);
            planes.lay_out(&two, &mut bits, &mut scales);
            let bytes = |ranges: &[std::ops::Range<u8>]| ranges.iter().cloned().flatten().collect::<Vec<_>>();
            assert_eq!((bits, scales), (bytes(want_bits), bytes(want_scales)), "{format:?}");
        };
        check(Format::Q8_0, &[2..34, 36..68], &[0..2, 34..36]);
        check(Format::Mxfp4, &[1..17, 18..34], &[0..1, 17..18]);
        check(Format::Q2K, &[0..80, 84..164], &[80..84, 164..168]);
        check(Format::F16, &[0..2, 2..4], &[]);
        check(Format::Q3K, &[0..110, 0..1, 0..1, 110..220, 0..1, 0..1], &[]);
    }

    #[test]
    fn signs_of_iq2_xxs_lie_by_bytes() {
        for word in [0x5a5a_1234, 0x0fff_ffff, 0xf000_0001, 0x8765_4321] {
            let mut block = [0; 66];
            block[2 + 4..2 + 8].copy_from_slice(&u32::to_le_bytes(word));
            block[60] = 7;
            let (mut bits, mut scales) = ([0; 64], [9; 2]);
            Planes::of(Format::Iq2Xxs).lay_out(&block, &mut bits, &mut scales);
            let got = u32::from_le_bytes(bits[4..8].try_into().unwrap());
            for (k, i) in (0..4).flat_map(|k| (0..7).map(move |i| (k, i))) {
                let want = word >> (7 * k + i) & 1;
                assert_eq!(got >> (8 * (i % 4) + 4 * (i / 4) + k) & 1, want, "{word:x}, {i} of {k}");
            }
            assert_eq!((got >> 28, bits[..4] == [0; 4], bits[58], scales), (word >> 28, true, 7, [0, 0]));
        }
    }
}
