// Prepares the indexer's query for keys in FP4: Hadamard transform and rounding, as the keys had.
//
// One workgroup per head of a row; in place, or, with HALVES, as f16 for matrix units, divided by the power of two that
// is the largest scale of the head, by which its weight is multiplied. The last TURNED values are rotated before.
//#if HALVES
enable f16;
@group(0) @binding(0) var<storage, read>       u: array<f32>;      // [n · heads, WIDTH]
@group(0) @binding(1) var<storage, read>       a: array<f32>;      // [n · heads]
@group(0) @binding(2) var<storage, read_write> halves: array<f16>; // [n · heads, WIDTH]
@group(0) @binding(3) var<storage, read_write> scaled: array<f32>; // [n · heads]
//#else
@group(0) @binding(0) var<storage, read_write> u: array<f32>; // [n · heads, WIDTH]
//#endif
//#if TURNED
@group(0) @binding(ANGLES) var<storage, read> angles: array<vec2f>; // [n, TURNED / 2] of (cos, sin)
struct Params { heads: u32 }
var<immediate> p: Params;
//#endif

//#include rows_write
//#include e8m0

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32,
        @builtin(num_workgroups) groups: vec3u) {
    let vector = group.y * groups.x + group.x;
    let base = vector * WIDTH;
    for (var c = thread; c < WIDTH / 2u; c += THREADS) {
        var pair = vec2f(u[base + 2u * c], u[base + 2u * c + 1u]);
//#if TURNED
        if 2u * c >= WIDTH - TURNED {
            let a = angles[(vector / p.heads) * (TURNED / 2u) + c - (WIDTH - TURNED) / 2u];
            pair = vec2f(pair.x * a.x - pair.y * a.y, pair.x * a.y + pair.y * a.x);
        }
//#endif
        row_values[2u * c] = pair.x;
        row_values[2u * c + 1u] = pair.y;
    }
    workgroupBarrier();
    hadamard(thread);
    find_largest(thread);
//#if HALVES
    var most = 0u;
    for (var block = 0u; block < WIDTH / 32u; block += 1u) { most = max(most, fp4_scale(block)); }
    if thread == 0u { scaled[vector] = a[vector] * e8m0(most); }
//#endif
    for (var i = thread; i < WIDTH; i += THREADS) {
        let e = fp4_scale(i / 32u);
        let code = e2m1_code(row_values[i], e, inverse_scale(min(e, 253u)));
        // Magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6.
        let c = code & 7u;
        let magnitude = select(0.5 * f32(c), f32((2u + (c & 1u)) << ((c >> 1u) - 1u)) * 0.5 , c >= 4u);
        let sign = select(1.0, -1.0, code >= 8u);
//#if HALVES
        halves[base + i] = f16(sign * magnitude * e8m0(u32(max(i32(e) - i32(most) + 127, 0))));
//#else
        u[base + i] = sign * magnitude * e8m0(e);
//#endif
    }
}
