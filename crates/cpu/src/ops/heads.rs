//! Sixteen heads in lanes.

use crate::isa::Isa;
use crate::lanes::{LANES, Line};
use zerocopy::IntoBytes;

/// Brings up to sixteen heads into lanes: line `i` has component `i` of each. Missing heads, and lines
/// beyond the last component, are zero.
///
/// - `heads`: `[heads, width]`; `to`: `[width to whole lines]`
#[inline(always)]
pub fn to_lanes<I: Isa>(isa: I, heads: &[f32], width: usize, to: &mut [Line]) {
    for (start, to) in (0..width).step_by(LANES).zip(to.chunks_exact_mut(LANES)) {
        let len = LANES.min(width - start);
        let mut rows = [isa.splat(0); LANES];
        for (row, head) in rows.iter_mut().zip(heads.chunks_exact(width)) {
            *row = match head[start..].first_chunk::<LANES>() {
                Some(whole) => isa.bytes(whole.as_bytes().try_into().expect("sixteen floats")),
                None => {
                    let mut part = [0.0f32; LANES];
                    part[..len].copy_from_slice(&head[start..start + len]);
                    isa.bytes(part.as_bytes().try_into().expect("sixteen floats"))
                }
            };
        }
        for (to, column) in to.iter_mut().zip(isa.transpose(rows)) {
            isa.put_bytes(column, to.as_mut_bytes().try_into().expect("sixteen floats"));
        }
    }
}
