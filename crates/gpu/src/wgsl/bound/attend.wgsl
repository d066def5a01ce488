// What kernels of attention read and write. Keys are the window rows, oldest first, then compressed rows.
struct Params { heads: u32, stride: u32, stretch: u32, splits: u32, top_k: u32, scale: f32, eps: f32 } // stride in vectors

struct Row { window: u32, window_len: u32, compressed: u32, table: u32, block_len: u32 }

@group(0) @binding(0) var<storage, read>       q: array<vec4f>;     // [n, heads, WIDTH]
@group(0) @binding(1) var<storage, read>       kv: array<vec4u>;
@group(0) @binding(2) var<storage, read>       rows: array<u32>;    // [n, 5]: see Row
@group(0) @binding(3) var<storage, read>       blocks: array<u32>;  // where blocks begin, in vectors
//#if WHOLE
@group(0) @binding(4) var<storage, read>       sinks: array<f32>;    // [heads]
@group(0) @binding(5) var<storage, read>       angles: array<vec4f>; // [n, TURNED / 2] of (cos, sin)
@group(0) @binding(6) var<storage, read_write> o: array<vec4f>;      // [n, heads, WIDTH]
//#else
//#if MERGE
@group(0) @binding(4) @coherent var<storage, read_write> parts: array<vec4f>; // [n, heads, splits, WIDTH]
@group(0) @binding(5) @coherent var<storage, read_write> stats: array<vec2f>; // [n, heads, splits]: m, sum
@group(0) @binding(6) var<storage, read>       sinks: array<f32>;    // [heads]
@group(0) @binding(7) var<storage, read>       angles: array<vec4f>; // [n, TURNED / 2] of (cos, sin)
@group(0) @binding(8) var<storage, read_write> o: array<vec4f>;      // [n, heads, WIDTH]
@group(0) @binding(9) var<storage, read_write> arrived: array<atomic<u32>>; // [n, groups of heads], zeros
//#else
@group(0) @binding(4) var<storage, read_write> parts: array<vec4f>; // [n, heads, splits, WIDTH]
@group(0) @binding(5) var<storage, read_write> stats: array<vec2f>; // [n, heads, splits]: m, sum
//#if NORM
@group(0) @binding(6) var<storage, read>       angles: array<vec4f>; // [n, TURNED / 2] of (cos, sin)
//#endif
//#endif
//#endif
//#if PICKS
@group(0) @binding(PICKS) var<storage, read>   picks: array<u32>;   // [n, top_k]
//#endif
var<immediate> p: Params;

//#include rows_read
const VECTORS = WIDTH / 4u;

fn row_of(n: u32) -> Row {
    let r = 5u * n;
    return Row(rows[r], rows[r + 1u], rows[r + 2u], rows[r + 3u], rows[r + 4u]);
}

// Where key `j` of row `n` begins in `kv`.
fn address(n: u32, row: Row, j: u32) -> u32 {
    if j < row.window_len { return row.window + j * p.stride; }
//#if PICKS
    let w = picks[n * p.top_k + j - row.window_len];
//#else
    let w = j - row.window_len;
//#endif
    return blocks[row.table + w / row.block_len] + (w % row.block_len) * p.stride;
}

// Two pairs of values, each turned by its angle.
fn turned(v: vec4f, a: vec4f) -> vec4f {
    return vec4f(v.x * a.x - v.y * a.y, v.x * a.y + v.y * a.x, v.z * a.z - v.w * a.w, v.z * a.w + v.w * a.z);
}
