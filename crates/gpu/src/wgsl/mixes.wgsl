// A sub-layer's mixture goes along with the first product of the sub-layer, in one workgroup more: a single thread is
// long about it, and nobody needs it before the sub-layer's end.
@group(0) @binding(MIX) var<storage, read> entered: array<f32>;       // [n, ENTERED]: products z, then the inverse RMS
@group(0) @binding(MIX + 1) var<storage, read> base: array<f32>;      // [ENTERED - 1]
@group(0) @binding(MIX + 2) var<storage, read> scale: array<f32>;     // [3]
@group(0) @binding(MIX + 3) var<storage, read_write> mix: array<f32>; // [n, HC + HC·HC]
const ENTERED = HC * (HC + 2u) + 1u;

fn z_at(row: u32, i: u32) -> f32 { return entered[row * ENTERED + i]; }
//#include mixture

fn mixtures(n: u32, iterations: u32, eps: f32, thread: u32) {
    if thread < n { mixture(thread, entered[thread * ENTERED + ENTERED - 1u], iterations, eps); }
}
