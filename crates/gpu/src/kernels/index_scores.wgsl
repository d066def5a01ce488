// Scores of the lightning indexer:  scores[n, w] = Σ_h a[n,h] · max(0, u[n,h]·key_w)
//
// A thread holds one key and goes over one of SLICES parts of the heads; the parts meet in workgroup
// memory. KEYS keys a workgroup: few for few rows, so that all cores have work. Only keys that row n can see are
// scored.
struct Params { first_row: u32, rows: u32, heads: u32, stride: u32, scores_stride: u32 } // stride in vectors

@group(0) @binding(0) var<storage, read>       u: array<vec4f>;     // [n, heads, WIDTH]
@group(0) @binding(1) var<storage, read>       a: array<f32>;       // [n, heads]
@group(0) @binding(2) var<storage, read>       kv: array<vec4u>;
@group(0) @binding(3) var<storage, read>       rows: array<vec4u>;  // [n]: (keys, visible keys, table, rows a block)
@group(0) @binding(4) var<storage, read>       blocks: array<u32>;  // where blocks of keys begin, in vectors
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;  // [rows of this launch, scores_stride]
var<immediate> p: Params;

//#include rows_read
var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = p.first_row + group.y;
    let row = rows[n];
    if group.x * KEYS >= row.y { return; }
    let key = group.x * KEYS + thread % KEYS;
    let slice = thread / KEYS;
    let k = min(key, row.y - 1u);
    let at = blocks[row.z + k / row.w] + (k % row.w) * p.stride;
    var e: array<vec4f, WIDTH / 4u>;
    //#repeat i SIXTEENS
    let x$i = row_16(at, $iu);
    e[4 * $i] = x$i[0];
    e[4 * $i + 1] = x$i[1];
    e[4 * $i + 2] = x$i[2];
    e[4 * $i + 3] = x$i[3];
    //#end
    var sum = 0.0;
    for (var h = slice; h < p.heads; h += SLICES) {
        let q = (n * p.heads + h) * (WIDTH / 4u);
        var product = 0.0;
        //#repeat i SIXTEENS
        product += dot(e[4 * $i], u[q + 4u * $iu]) + dot(e[4 * $i + 1], u[q + 4u * $iu + 1u])
            + dot(e[4 * $i + 2], u[q + 4u * $iu + 2u]) + dot(e[4 * $i + 3], u[q + 4u * $iu + 3u]);
        //#end
        sum += a[n * p.heads + h] * max(product, 0.0);
    }
    parts[thread] = sum;
    workgroupBarrier();
    if slice == 0u && key < row.y {
        var all = 0.0;
        //#repeat i SLICES
        all += parts[$iu * KEYS + thread];
        //#end
        scores[group.y * p.scores_stride + key] = all;
    }
}
