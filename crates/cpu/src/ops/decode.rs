//! Cached rows to f32, on all threads.

use crate::fast::Cpu;
use crate::pool::Shards;
use crate::rows::Rows;

/// Rows of one item: a few microseconds of work.
const ROWS: usize = 16;

/// Decodes some rows to their places among `count`; the others are zero, and their memory untouched.
///
/// - `wanted`: each row once; `find`: where a row is stored
/// - returns `[count, width]`
pub fn decode<'a>(
    cpu: &Cpu,
    wanted: &[usize],
    count: usize,
    width: usize,
    find: impl Fn(usize) -> (&'a Rows, usize) + Sync,
) -> Vec<f32> {
    let mut values = vec![0.0; count * width];
    let shards = Shards::new(&mut values);
    cpu.pool.each(wanted.len().div_ceil(ROWS), |item| {
        for &i in &wanted[item * ROWS..wanted.len().min((item + 1) * ROWS)] {
            let (rows, at) = find(i);
            // SAFETY: `wanted` names each row once.
            rows.decode(at, unsafe { shards.part(i * width, width) });
        }
    });
    values
}
