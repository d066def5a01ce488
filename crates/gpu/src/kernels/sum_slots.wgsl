// Adds up what the experts of each row gave:  y[n] += Σ_i z[n·used + i]
struct Params { d: u32, used: u32 } // d in vectors

@group(0) @binding(0) var<storage, read>       z: array<vec4f>;  // [n·used, d]
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;  // [n, d]
var<immediate> p: Params;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let c = group.x * THREADS + thread;
    if c >= p.d { return; }
    var sum = vec4f(0.0);
    for (var i = 0u; i < p.used; i += 1u) { sum += z[(group.y * p.used + i) * p.d + c]; }
    y[group.y * p.d + c] += sum;
}
