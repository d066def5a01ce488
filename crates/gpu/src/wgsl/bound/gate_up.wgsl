// What `gate_up` and `gate_up_dot` are given.
//#include formats/common
//#include activation
struct Params {
    n: u32, x_stride: u32, used: u32, first_row: u32, rows: u32, shared_base: u32, // x_stride in vectors
    limit0: f32, limit1: f32,
}

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;       // [n, x_stride]
@group(0) @binding(1) var<storage, read_write> h: array<f32>;         // [n·used, FF0], [n, FF1] from shared_base
@group(0) @binding(2) var<storage, read>       ids: array<u32>;       // [n·used]
@group(0) @binding(3) var<storage, read>       shares: array<f32>;    // [n·used]
@group(0) @binding(4) var<storage, read>       gate0_q: array<vec4u>; // [experts·FF0, 32·UNITS]
@group(0) @binding(5) var<storage, read>       gate0_s: array<u32>;
@group(0) @binding(6) var<storage, read>       up0_q: array<vec4u>;   // as gate
@group(0) @binding(7) var<storage, read>       up0_s: array<u32>;
//#if SHARED
@group(0) @binding(8) var<storage, read>       gate1_q: array<vec4u>; // [FF1, 32·UNITS]
@group(0) @binding(9) var<storage, read>       gate1_s: array<u32>;
@group(0) @binding(10) var<storage, read>      up1_q: array<vec4u>;
@group(0) @binding(11) var<storage, read>      up1_s: array<u32>;
//#endif
var<immediate> p: Params;
