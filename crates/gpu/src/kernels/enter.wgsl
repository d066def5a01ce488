// Finishes the entry of a sub-layer; `entry` and `mixture` have the formulas. Two workgroups per row, which need nothing of each
// other: one makes x, the other the mixture. The head has no second one.
struct Params { d: u32, iterations: u32, eps: f32, rms_eps: f32, norm_eps: f32 }

@group(0) @binding(0) var<storage, read>       dots: array<f32>;     // [n, chunks, OUT + 1]
@group(0) @binding(1) var<storage, read>       base: array<f32>;     // [OUT]
@group(0) @binding(2) var<storage, read>       scale: array<f32>;    // [3], the head's [1]
@group(0) @binding(3) var<storage, read>       streams: array<vec4f>; // [n, HC, d]
@group(0) @binding(4) var<storage, read>       norm: array<vec4f>;   // [d]
@group(0) @binding(5) var<storage, read_write> x: array<vec4f>;      // [n, d]
@group(0) @binding(6) var<storage, read_write> mix: array<f32>;      // [n, HC + HC·HC]
var<immediate> p: Params;

//#include reduce
//#include entry
//#if !HEAD
fn z_at(row: u32, i: u32) -> f32 { return z[i]; }
//#include mixture
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = group.x;
    // The streams are on their way while the products are summed.
    var s: array<array<vec4f, HC>, SPREAD>;
    if group.y == 0u { s = streams_of(row, thread); }
    let inverse = inverse_rms(row, thread);
    if group.y == 0u {
        enter_x(row, inverse, s, given_of(thread), thread);
    }
//#if !HEAD
    else if thread == 0u {
        mixture(row, inverse, p.iterations, p.eps);
    }
//#endif
}
