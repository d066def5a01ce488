// Some rows of x:  y[i] = x[rows[i]]
struct Params { width: u32 } // in vectors

@group(0) @binding(0) var<storage, read>       rows: array<u32>;
@group(0) @binding(1) var<storage, read>       x: array<vec4f>;   // [.., width]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;   // [rows, width]
var<immediate> p: Params;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = group.x * THREADS + thread;
    if i < p.width { y[group.y * p.width + i] = x[rows[group.y] * p.width + i]; }
}
