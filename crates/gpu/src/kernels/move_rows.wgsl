// Copies words inside the store of cached rows, from one region to another that does not overlap.
struct Params { source: u32, to: u32, count: u32 }

@group(0) @binding(0) var<storage, read_write> store: array<u32>;
var<immediate> p: Params;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    for (var i = id.x; i < p.count; i += groups.x * THREADS) { store[p.to + i] = store[p.source + i]; }
}
