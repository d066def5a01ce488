// What `down` and `down_dot` are given.
//#include formats/common
struct Params { d: u32, used: u32, first_row: u32, rows: u32, shared_base: u32 } // shared_base in vectors

//#if ROUNDED
@group(0) @binding(0) var<storage, read>       h: array<vec4u>;    // [n·used, 3·UNITS0] as in `dot/rounded`, f32 [n, 32·UNITS1]
//#else
@group(0) @binding(0) var<storage, read>       h: array<vec4f>;    // [n·used, 32·UNITS0], [n, 32·UNITS1]
//#endif
@group(0) @binding(1) var<storage, read_write> y: array<f32>;      // [n, d]
@group(0) @binding(2) var<storage, read>       ids: array<u32>;    // [n·used]
@group(0) @binding(3) var<storage, read>       w0_q: array<vec4u>; // [experts·d, 32·UNITS0]
@group(0) @binding(4) var<storage, read>       w0_s: array<u32>;
//#if SHARED
@group(0) @binding(5) var<storage, read>       w1_q: array<vec4u>; // [d, 32·UNITS1]
@group(0) @binding(6) var<storage, read>       w1_s: array<u32>;
//#endif
var<immediate> p: Params;
