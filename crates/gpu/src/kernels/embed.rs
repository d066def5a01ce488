//! Launches `embed.wgsl` and `gather.wgsl`.

use crate::array::Array;
use crate::gpu::Inner;
use crate::kernels::{THREADS, threads};
use crate::matrix::Matrix;
use crate::recorder::{Binding, OfTokens, Recorder};

/// Streams `[n, streams, d]` that all start as the tokens' embeddings.
pub(crate) fn embed(
    gpu: &Inner,
    r: &mut Recorder,
    embedding: &Matrix,
    tokens: &[u32],
    streams: usize,
) -> Array {
    let y = Array::empty(gpu, tokens.len(), streams * embedding.cols);
    let tokens_at = r.put_of(gpu, OfTokens::Ids, tokens);
    for part in &embedding.parts {
        let [bits, scales] = part.bind();
        r.launch(
            gpu,
            threads("embed").format("w", embedding.format),
            &[Binding::Read(tokens_at.clone()), bits, scales, y.write()],
            &[
                embedding.units() as u32,
                streams as u32,
                tokens.len() as u32,
                part.first as u32,
                part.rows as u32,
            ],
            [(embedding.units() as u32).div_ceil(THREADS), tokens.len() as u32, 1],
        );
    }
    y
}

/// Some rows of x.
pub(crate) fn gather(gpu: &Inner, r: &mut Recorder, x: &Array, rows: &[u32]) -> Array {
    let y = Array::empty(gpu, rows.len(), x.width);
    let rows_at = r.put(gpu, rows);
    let vectors = (x.width / 4) as u32;
    r.launch(
        gpu,
        threads("gather"),
        &[Binding::Read(rows_at), x.read(), y.write()],
        &[vectors],
        [vectors.div_ceil(THREADS), rows.len() as u32, 1],
    );
    y
}
