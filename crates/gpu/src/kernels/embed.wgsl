// Every stream of a row starts as the token's embedding:  streams[n, j] = embedding[tokens[n]]
//
// One thread per unit of 32 components.
//#include formats/common
struct Params { units: u32, streams: u32, n: u32, first_row: u32, rows: u32 }

@group(0) @binding(0) var<storage, read>       tokens: array<u32>;   // [n]
@group(0) @binding(1) var<storage, read>       w_q: array<vec4u>;    // [vocab, d]
@group(0) @binding(2) var<storage, read>       w_s: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;      // [n, streams, d]
var<immediate> p: Params;

//#format w

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let unit = group.x * THREADS + thread;
    let row = tokens[group.y];
    if unit >= p.units || row < p.first_row || row - p.first_row >= p.rows { return; }
    let x = w_unit((row - p.first_row) * p.units + unit);
    for (var j = 0u; j < p.streams; j += 1u) {
        let at = ((group.y * p.streams + j) * p.units + unit) * 8u;
        //#repeat k 8
        y[at + $ku] = x.scale * x.w[$k];
        //#end
    }
}
