// What `linear_vec` and `linear_dot` are given.
//#include formats/common
struct Params {
    n: u32, x_stride: u32, // in vectors
    group_rows: u32, group_stride: u32, first_group: u32, eps: f32,
    //#repeat s SEGMENTS
    base$s: u32, // where the first output goes, in y
    //#end
//#if ROUTE
    route_scale: f32,
//#endif
//#if MIX
    mix_rows: u32, mix_iterations: u32, mix_eps: f32, // rows of the mixture, which may be of another batch
//#endif
}

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;    // [n, x_stride]
//#if ROUTE
@group(0) @binding(1) @coherent var<storage, read_write> y: array<f32>; // as below
@group(0) @binding(ROUTE) var<storage, read_write> arrived: array<atomic<u32>>; // [n / COLUMNS]
@group(0) @binding(ROUTE + 1) var<storage, read_write> ids: array<u32>;         // these as in `route`
@group(0) @binding(ROUTE + 2) var<storage, read_write> shares: array<f32>;
//#if TABLE
@group(0) @binding(ROUTE + 3) var<storage, read> given: array<u32>;
//#else
@group(0) @binding(ROUTE + 3) var<storage, read> given: array<f32>;
//#endif
//#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;      // [n, STRIDE] from a matrix' base on
//#endif
//#if NORM
@group(0) @binding(2) var<storage, read>       norm: array<vec4f>; // [32·UNITS]
//#endif
//#if BIASED
@group(0) @binding(2) var<storage, read>       bias_rows: array<u32>; // [n]
//#endif
//#repeat s SEGMENTS
@group(0) @binding(BITS$s) var<storage, read>  m$s_q: array<vec4u>; // [OUT, 32·UNITS]
//#if SCALES$s
@group(0) @binding(SCALES$s) var<storage, read> m$s_s: array<u32>;
//#endif
//#if BIAS$s
@group(0) @binding(BIAS$s) var<storage, read>  bias$s: array<f32>;  // [.., BIAS_WIDTH]
//#endif
//#end
//#if MIX
//#include mixes
//#endif
var<immediate> p: Params;
