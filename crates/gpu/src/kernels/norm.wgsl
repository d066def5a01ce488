// Vectors of WIDTH values, each divided by its RMS, times a weight, its tail rotated:
//
//   y = weight · x / sqrt(mean(x²) + eps),  then pairs (a, b) of the last ROPE become
//   (a cos - b sin, a sin + b cos)
//
// One workgroup per vector; JOBS sets of vectors, one after the other. NORM, WEIGHT and ROTATE choose what is
// done. Vector i of x belongs to row i / heads of the batch, whose angles are used; x is read at vector
// i / repeat. With STORE the last set's rows are appended to cached rows, too, and MORE workgroups a row do what those
// of `append` do.
struct Params {
    y_stride: u32, y_offset: u32, repeat: u32, // of the only job, where there is one
    //#repeat s JOBS
    heads$s: u32, count$s: u32, eps$s: f32,
    //#end
//#if STORE
    rows: u32, stride: u32, // stride in words
    //#repeat m MORE
    width$m: u32,
    //#end
//#endif
}

@group(0) @binding(0) var<storage, read>       angles: array<vec2f>; // [n, ROPE / 2] of (cos, sin)
//#repeat s JOBS
@group(0) @binding(1 + 3 * $s) var<storage, read>       x$s: array<f32>;       // [vectors, WIDTH]
@group(0) @binding(2 + 3 * $s) var<storage, read_write> y$s: array<f32>;       // [vectors, y_stride]
@group(0) @binding(3 + 3 * $s) var<storage, read>       weight$s: array<f32>;  // [WIDTH]
//#end
//#if STORE
@group(0) @binding(STORE) var<storage, read_write> store: array<u32>;
@group(0) @binding(STORE + 1) var<storage, read> places: array<vec2u>; // [1 + MORE]: first row of x, word of the store
//#repeat m MORE
@group(0) @binding(STORE + 2 + $m) var<storage, read> more$m: array<u32>; // [n, width]
//#end
//#endif
var<immediate> p: Params;

//#include reduce
//#if STORE
//#include rows_write
//#endif

//#repeat s JOBS
fn job$s(i: u32, thread: u32) {
    let base = (min(i, p.count$s - 1u) / p.repeat) * WIDTH$s;
//#if ALONE
    let to = i * p.y_stride + p.y_offset;
//#else
    let to = i * WIDTH$s;
//#endif
    var scale = 1.0;
//#if NORM$s
    var sum = 0.0;
    for (var c = thread; c < WIDTH$s; c += THREADS) { sum += x$s[base + c] * x$s[base + c]; }
    scale = 1.0 / sqrt(group_sum(sum, thread) / f32(WIDTH$s) + p.eps$s);
//#endif
    if i >= p.count$s { return; }
    for (var c = thread; c < WIDTH$s / 2u; c += THREADS) {
        var pair = scale * vec2f(x$s[base + 2u * c], x$s[base + 2u * c + 1u]);
//#if WEIGHT$s
        pair *= vec2f(weight$s[2u * c], weight$s[2u * c + 1u]);
//#endif
//#if ROTATE
        if 2u * c >= WIDTH$s - ROPE {
            let a = angles[(i / p.heads$s) * (ROPE / 2u) + c - (WIDTH$s - ROPE) / 2u];
            pair = vec2f(pair.x * a.x - pair.y * a.y, pair.x * a.y + pair.y * a.x);
        }
//#endif
        y$s[to + 2u * c] = pair.x;
        y$s[to + 2u * c + 1u] = pair.y;
//#if STORE$s
        row_values[2u * c] = pair.x;
        row_values[2u * c + 1u] = pair.y;
//#endif
    }
//#if STORE$s
    let place = places[0];
    if i >= place.x && i - place.x < p.rows { store_row(place.y + (i - place.x) * p.stride, thread); }
//#endif
}
//#end

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
    var i = group.y * groups.x + group.x;
//#if ALONE
    job0(i, thread);
//#else
    //#repeat s JOBS
    if i < p.count$s { job$s(i, thread); return; }
    i -= p.count$s;
    //#end
//#endif
//#if STORE
    //#repeat m MORE
    if i < p.rows {
        let place = places[$m + 1];
        for (var c = thread; c < p.width$m; c += THREADS) {
            store[place.y + i * p.width$m + c] = more$m[(place.x + i) * p.width$m + c];
        }
        return;
    }
    i -= p.rows;
    //#end
//#endif
}
