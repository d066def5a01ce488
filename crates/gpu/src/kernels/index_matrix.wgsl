// Scores of the lightning indexer on a device with cooperative matrices, for keys in FP4 whose scales are one word, so 128
// wide; what `index_scores` says.
//
// A workgroup has KEYS keys and goes over ROWS rows of the batch. Its eight subgroups share out 64 heads and the keys: each
// holds 32 keys as matrices, and multiplies 16 heads of a row by them at a time. Each thread then adds up what 16
// heads give one key. Keys and queries are divided by powers of two, so that f16 loses nothing of them but what is
// 2^-23 times as large as the largest scale of a key or head.
enable f16;
enable wgpu_cooperative_matrix;
struct Params { first_row: u32, rows: u32, heads: u32, stride: u32, scores_stride: u32 } // stride in vectors

@group(0) @binding(0) var<storage, read>       q: array<vec4<f16>>; // [n, heads, WIDTH], as `round_query` makes them
@group(0) @binding(1) var<storage, read>       a: array<f32>;       // [n, heads], times what queries were divided by
@group(0) @binding(2) var<storage, read>       kv: array<vec4u>;
@group(0) @binding(3) var<storage, read>       rows: array<vec4u>;  // [n]: (keys, visible keys, table, rows a block)
@group(0) @binding(4) var<storage, read>       blocks: array<u32>;  // where blocks of keys begin, in vectors
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;  // [rows of this launch, scores_stride]
var<immediate> p: Params;

//#include rows_read
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
const KEYS = 64u;
const VECTORS = WIDTH / 4u;
const PITCH = VECTORS + 2u; // so that keys begin at different banks
const TILE = 272u;          // 16 heads by 16 keys, and as much more that two of them begin at different banks
var<workgroup> keys: array<vec4<f16>, KEYS * PITCH>; // [key, column]
var<workgroup> factors: array<f32, KEYS>;            // what keys were divided by
var<workgroup> products: array<f32, 16u * TILE>;     // [subgroup, half of its keys, head, key]
var<workgroup> parts: array<f32, 256>;               // [quarter of the heads, key]

fn largest_byte(w: u32) -> u32 {
    return max(max(w & 255u, (w >> 8u) & 255u), max((w >> 16u) & 255u, w >> 24u));
}

// Brings the keys from `first` on that a row may see.
fn bring(row: vec4u, first: u32, thread: u32) {
    for (var i = thread; i < KEYS * SIXTEENS; i += 256u) {
        let k = min(first + i / SIXTEENS, row.x - 1u);
        let piece = i % SIXTEENS;
        let packed = packed_16(blocks[row.z + k / row.w] + (k % row.w) * p.stride, piece);
        let values = unscaled(packed, piece);
        let scale = (packed.scales >> (8u * (piece / 2u))) & 255u;
        let most = largest_byte(packed.scales);
        // Values come divided by 2^14.
        let by = bitcast<f32>(u32(max(i32(scale) - i32(most) + 141, 0)) << 23u);
        let to = (i / SIXTEENS) * PITCH + 4u * piece;
        //#repeat k 4
        keys[to + $ku] = vec4<f16>(by * values[$k]);
        //#end
        if piece == 0u { factors[i / SIXTEENS] = e8m0(most); }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * KEYS;
    let row0 = group.y * ROWS;
    // What a subgroup multiplies, and where it puts that.
    let heads = 16u * ((thread / 32u) % 4u);
    let half = 32u * (thread / 128u) * PITCH;
    let strip = (thread / 32u) * 2u * TILE;
    // What a thread adds up.
    let key = thread % KEYS;
    let quarter = thread / KEYS;
    let at_key = ((4u * (key / 32u) + quarter) * 2u + (key / 16u) % 2u) * TILE + key % 16u;
    //#repeat k SIXTEENS
    var left$k: Right;
    var right$k: Right;
    //#end
    let end = min(row0 + ROWS, p.rows);
    // Rows of one timeline at a time.
    for (var i = row0; i < end; ) {
        let timeline = rows[p.first_row + i];
        if first >= timeline.x {
            i += 1u;
            continue;
        }
        workgroupBarrier();
        bring(timeline, first, thread);
        workgroupBarrier();
        //#repeat k SIXTEENS
        left$k = coopLoad<Right>(&keys[half + 4u * $ku], PITCH);
        right$k = coopLoad<Right>(&keys[half + 16u * PITCH + 4u * $ku], PITCH);
        //#end
        for (; i < end; i += 1u) {
            let n = p.first_row + i;
            let row = rows[n];
            if row.z != timeline.z { break; }
            if first >= row.y { continue; }
            var sum = 0.0;
            for (var h = 0u; h < p.heads; h += 64u) {
                let at = (n * p.heads + h + heads) * VECTORS;
                var x: Sum;
                var y: Sum;
                //#repeat k SIXTEENS
                let q$k = coopLoadT<Left>(&q[at + 4u * $ku], VECTORS);
                x = coopMultiplyAdd(q$k, left$k, x);
                y = coopMultiplyAdd(q$k, right$k, y);
                //#end
                coopStoreT(x, &products[strip], 16u);
                coopStoreT(y, &products[strip + TILE], 16u);
                workgroupBarrier();
                //#repeat m 16
                sum += a[n * p.heads + h + 16u * quarter + $mu] * max(products[at_key + 16u * $mu], 0.0);
                //#end
                parts[thread] = sum;
                workgroupBarrier();
            }
            if quarter == 0u && first + key < row.y {
                let all = parts[key] + parts[key + 64u] + parts[key + 128u] + parts[key + 192u];
                scores[i * p.scores_stride + first + key] = factors[key] * all;
            }
        }
    }
}
