//! Cached rows to f32.

use crate::isa::Isa;
use crate::lanes::{LANES, Line};
use model::kv::{FP8_BLOCK, RowLayout};
use quants::e8m0;

/// The values of a stored row, exactly as [`RowLayout::decode`] gives them, then zeros.
///
/// - `to`: whole lines, at least as many as the row needs
///
/// # Panics
///
/// For index keys, which are never wanted in this form.
#[inline(always)]
pub fn load_row<I: Isa>(isa: I, layout: RowLayout, bytes: &[u8], to: &mut [Line]) {
    match layout {
        RowLayout::F32 { .. } => load(bytes, to, |x: &[u8; 64]| isa.floats_f32(x), isa),
        RowLayout::F16 { .. } => load(bytes, to, |x: &[u8; 32]| isa.floats_f16(x), isa),
        RowLayout::Latent8 { width, rope } => {
            let plain = width - rope;
            let (codes, rest) = bytes.split_at(plain);
            let (scales, rest) = rest.split_at(plain / FP8_BLOCK);
            let (to, to_rest) = to.split_at_mut(plain / LANES);
            let blocks = codes.as_chunks::<FP8_BLOCK>().0.iter().zip(to.as_chunks_mut::<4>().0);
            for ((codes, to), &scale) in blocks.zip(scales) {
                let scale = isa.splat_float(e8m0::decode(scale));
                for (to, values) in to.iter_mut().zip(isa.fp8(codes)) {
                    isa.put_floats(isa.product(values, scale), &mut to.0);
                }
            }
            load(rest, to_rest, |x: &[u8; 32]| isa.floats_bf16(x), isa);
        }
        RowLayout::Index4 { .. } => panic!("attention to an index key"),
    }
}

/// `N` bytes a line; a last part is padded with zeros.
#[inline(always)]
fn load<I: Isa, const N: usize>(
    bytes: &[u8],
    to: &mut [Line],
    widen: impl Fn(&[u8; N]) -> I::Floats,
    isa: I,
) {
    let (whole, end) = bytes.as_chunks::<N>();
    let (lines, rest) = to.split_at_mut(whole.len());
    for (to, bytes) in lines.iter_mut().zip(whole) {
        isa.put_floats(widen(bytes), &mut to.0);
    }
    rest.fill(Line::default());
    if !end.is_empty() {
        let mut padded = [0; N];
        padded[..end.len()].copy_from_slice(end);
        isa.put_floats(widen(&padded), &mut rest[0].0);
    }
}
