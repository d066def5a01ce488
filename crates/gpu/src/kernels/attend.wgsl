// Attention of one row over one stretch of its keys, for TEAMS·HEADS heads:
//
//   s[j] = q·row[j] / sqrt(WIDTH);  m = max s;  sum = Σ e^(s-m);  acc = Σ e^(s-m)·row[j]
//
// Keys are the window rows, oldest first, then compressed rows. KEYS of them at a time are decoded into
// workgroup memory, for all heads; a team of threads holds the query and the sum of each of its HEADS
// heads in registers, spread over the lanes. `attend_merge` puts the stretches together; with MERGE the last workgroup
// of some heads to come does it instead: see `last`. With NORM a head's query is first divided by its RMS and rotated.
struct Params { heads: u32, stride: u32, stretch: u32, splits: u32, top_k: u32, scale: f32, eps: f32 } // stride in vectors

struct Row { window: u32, window_len: u32, compressed: u32, table: u32, block_len: u32, pad: u32 }

@group(0) @binding(0) var<storage, read>       q: array<vec4f>;     // [n, heads, WIDTH]
@group(0) @binding(1) var<storage, read>       kv: array<vec4u>;
@group(0) @binding(2) var<storage, read>       rows: array<u32>;    // [n, 6]: see Row
@group(0) @binding(3) var<storage, read>       blocks: array<u32>;  // where blocks begin, in vectors
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
//#if PICKS
@group(0) @binding(PICKS) var<storage, read>   picks: array<u32>;   // [n, top_k]
//#endif
var<immediate> p: Params;

//#include rows_read
//#include reduce
const VECTORS = WIDTH / 4u;
var<workgroup> keys: array<vec4f, KEYS * VECTORS>;
//#if MERGE
//#include last
var<workgroup> shares: array<vec2f, TEAMS * 64u>; // of each stretch of a team's head: m, or what it counts for; sum
//#endif

fn address(n: u32, row: Row, j: u32) -> u32 {
    if j < row.window_len { return row.window + j * p.stride; }
//#if PICKS
    let w = picks[n * p.top_k + j - row.window_len];
//#else
    let w = j - row.window_len;
//#endif
    return blocks[row.table + w / row.block_len] + (w % row.block_len) * p.stride;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
    let n = group.z;
    let lane = thread % LANES;
    let head0 = (group.x * TEAMS + thread / LANES) * HEADS;
    let r = 6u * n;
    let row = Row(rows[r], rows[r + 1u], rows[r + 2u], rows[r + 3u], rows[r + 4u], 0u);
    let count = row.window_len + row.compressed;
    let start = min(group.y * p.stretch, count);
    let end = min(start + p.stretch, count);
    //#repeat h HEADS
    let query$h = (n * p.heads + min(head0 + $hu, p.heads - 1u)) * VECTORS;
    var m$h = -3.0e38;
    var sum$h = 0.0;
    //#repeat v SPREAD
    var acc$h_$v = vec4f(0.0);
    var q$h_$v = vec4f(0.0);
    if $vu * LANES + lane < VECTORS { q$h_$v = q[query$h + $vu * LANES + lane]; }
    //#end
    //#end
    // A thread brings ITEMS pieces of 16 values of KEYS keys; the next ones are on their way while these are used.
    //#repeat i ITEMS
    let key$i = ($iu * THREADS + thread) / (WIDTH / 16u);
    let piece$i = ($iu * THREADS + thread) % (WIDTH / 16u);
    var next$i: Sixteen;
    var at$i = 0u;
    if start < end && key$i < KEYS {
        next$i = row_16(address(n, row, min(start + key$i, end - 1u)), piece$i);
        at$i = address(n, row, min(start + KEYS + key$i, end - 1u));
    }
    //#end
//#if NORM
    //#repeat h HEADS
    var square$h = 0.0;
    //#repeat v SPREAD
    square$h += dot(q$h_$v, q$h_$v);
    //#end
    let factor$h = 1.0 / sqrt(team_sum(square$h, thread) / f32(WIDTH) + p.eps);
    //#repeat v SPREAD
    {
        q$h_$v *= factor$h;
        let c = $vu * LANES + lane;
        if c < VECTORS && 4u * c >= WIDTH - TURNED {
            let a = angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u];
            q$h_$v = vec4f(
                q$h_$v.x * a.x - q$h_$v.y * a.y, q$h_$v.x * a.y + q$h_$v.y * a.x,
                q$h_$v.z * a.z - q$h_$v.w * a.w, q$h_$v.z * a.w + q$h_$v.w * a.z);
        }
    }
    //#end
    //#end
//#endif
    for (var j = start; j < end; j += KEYS) {
        //#repeat i ITEMS
        if key$i < KEYS {
            //#repeat k 4
            keys[key$i * VECTORS + 4u * piece$i + $ku] = next$i[$k];
            //#end
            if j + KEYS < end {
                next$i = row_16(at$i, piece$i);
                at$i = address(n, row, min(j + 2u * KEYS + key$i, end - 1u));
            }
        }
        //#end
        workgroupBarrier();
        //#repeat h HEADS
        //#repeat t KEYS
        var s$h_$t = 0.0;
        //#end
        //#end
        //#repeat v SPREAD
        if $vu * LANES + lane < VECTORS {
            //#repeat t KEYS
            let k$t = keys[$tu * VECTORS + $vu * LANES + lane];
            //#repeat h HEADS
            s$h_$t += dot(q$h_$v, k$t);
            //#end
            //#end
        }
        //#end
        //#repeat h HEADS
        var top$h = m$h;
        //#repeat t KEYS
        s$h_$t = select(-3.0e38, p.scale * team_sum(s$h_$t, thread), j + $tu < end);
        top$h = max(top$h, s$h_$t);
        //#end
        let fade$h = exp(m$h - top$h);
        m$h = top$h;
        sum$h *= fade$h;
        //#repeat t KEYS
        s$h_$t = select(0.0, exp(s$h_$t - top$h), j + $tu < end);
        sum$h += s$h_$t;
        //#end
        //#end
        //#repeat v SPREAD
        //#repeat h HEADS
        acc$h_$v *= fade$h;
        //#end
        if $vu * LANES + lane < VECTORS {
            //#repeat t KEYS
            let value$t = keys[$tu * VECTORS + $vu * LANES + lane];
            //#repeat h HEADS
            acc$h_$v += s$h_$t * value$t;
            //#end
            //#end
        }
        //#end
        workgroupBarrier();
    }
    //#repeat h HEADS
    if head0 + $hu < p.heads {
        let to = (n * p.heads + head0 + $hu) * p.splits + group.y;
        if lane == 0u { stats[to] = vec2f(m$h, sum$h); }
        //#repeat v SPREAD
        if $vu * LANES + lane < VECTORS { parts[to * VECTORS + $vu * LANES + lane] = acc$h_$v; }
        //#end
    }
    //#end
//#if MERGE
    if !comes_last(n * groups.x + group.x, p.splits, thread) { return; }
    // Each team puts its own heads together: what each stretch counts for, by lanes, then the sums.
    //#repeat h HEADS
    {
        let head = min(head0 + $hu, p.heads - 1u);
        let first = (n * p.heads + head) * p.splits;
        let share = (thread / LANES) * 64u;
        let sink = sinks[head];
        var largest = sink;
        for (var i = lane; i < p.splits; i += LANES) {
            let s = stats[first + i];
            shares[share + i] = s;
            largest = max(largest, s.x);
        }
        largest = subgroupMax(largest);
        var total = select(0.0, exp(sink - largest), lane == 0u);
        for (var i = lane; i < p.splits; i += LANES) {
            let s = shares[share + i];
            let weight = exp(s.x - largest);
            shares[share + i].x = weight;
            total += weight * s.y;
        }
        let inverse = 1.0 / team_sum(total, thread);
        workgroupBarrier();
        //#repeat v SPREAD
        var o$v = vec4f(0.0);
        let c$v = min($vu * LANES + lane, VECTORS - 1u);
        //#end
        for (var i = 0u; i < p.splits; i += 4u) {
            //#repeat k 4
            let share$k = select(0.0, shares[share + min(i + $ku, p.splits - 1u)].x, i + $ku < p.splits);
            let from$k = (first + min(i + $ku, p.splits - 1u)) * VECTORS;
            //#repeat v SPREAD
            let part$k_$v = parts[from$k + c$v];
            //#end
            //#end
            //#repeat v SPREAD
            //#repeat k 4
            o$v += share$k * part$k_$v;
            //#end
            //#end
        }
        //#repeat v SPREAD
        if $vu * LANES + lane < VECTORS && head0 + $hu < p.heads {
            var out = inverse * o$v;
            if 4u * c$v >= WIDTH - TURNED {
                let a = angles[n * (TURNED / 4u) + c$v - (WIDTH - TURNED) / 4u];
                out = vec4f(
                    out.x * a.x + out.y * a.y, out.y * a.x - out.x * a.y,
                    out.z * a.z + out.w * a.w, out.w * a.z - out.z * a.w);
            }
            o[(n * p.heads + head) * VECTORS + c$v] = out;
        }
        //#end
        workgroupBarrier();
    }
    //#end
//#endif
}
