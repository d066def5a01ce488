// What `gate_up` and `gate_up_dot` are given.
//#include formats/common
//#include activation
struct Params {
    x_stride: u32, used: u32, first_row: u32, rows: u32, limit: f32, // x_stride in vectors
}

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;       // [n, x_stride]
//#if ROUNDS
@group(0) @binding(1) var<storage, read_write> h: array<vec4u>;       // [n·used, FF / 32 · 3], see `dot/rounded`
//#else
@group(0) @binding(1) var<storage, read_write> h: array<f32>;         // [n·used, FF]
//#endif
@group(0) @binding(2) var<storage, read>       ids: array<u32>;       // [n·used]
@group(0) @binding(3) var<storage, read>       shares: array<f32>;    // [n·used]
@group(0) @binding(4) var<storage, read>       gate_q: array<vec4u>;  // [experts·FF, 32·UNITS]
@group(0) @binding(5) var<storage, read>       gate_s: array<u32>;
@group(0) @binding(6) var<storage, read>       up_q: array<vec4u>;    // as gate
@group(0) @binding(7) var<storage, read>       up_s: array<u32>;
var<immediate> p: Params;
