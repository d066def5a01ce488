// Chooses each row's experts and their shares; `choose` has the formulas. One workgroup per row. Where a last workgroup
// can go on, the product in front of it does this itself: `linear_vec` with ROUTE.
struct Params { scale: f32 }

@group(0) @binding(0) var<storage, read>       gate: array<f32>;    // [n, EXPERTS]
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;     // [n, USED], ascending
@group(0) @binding(2) var<storage, read_write> shares: array<f32>;  // [n, USED]
//#if TABLE
@group(0) @binding(3) var<storage, read>       given: array<u32>;   // [n, USED]: the experts
//#else
@group(0) @binding(3) var<storage, read>       given: array<f32>;   // [EXPERTS]: the bias
//#endif
var<immediate> p: Params;

fn gate_at(n: u32, expert: u32) -> f32 { return gate[n * EXPERTS + expert]; }
//#include choose

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    choose(group.x, p.scale, thread);
}
