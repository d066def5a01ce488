// Vectors of WIDTH values, each divided by its RMS, times a weight, its tail rotated:
//
//   y = weight · x / sqrt(mean(x²) + eps),  then pairs (a, b) of the last ROPE become
//   (a cos - b sin, a sin + b cos)
//
// One workgroup per vector. NORM, WEIGHT and ROTATE choose what is done. Vector i of x belongs to row i / heads of the
// batch, whose angles are used; x is read at vector i / repeat. With STORE the vectors are rows that are appended to
// cached rows, too, and further workgroups append rows of MORE other arrays: each workgroup has its place, see `append`.
struct Params {
    y_stride: u32, y_offset: u32, repeat: u32, heads: u32, count: u32, eps: f32,
//#if STORE
    //#repeat m MORE
    width$m: u32,
    //#end
//#endif
}

@group(0) @binding(0) var<storage, read>       angles: array<vec2f>; // [n, ROPE / 2] of (cos, sin)
@group(0) @binding(1) var<storage, read>       x: array<f32>;        // [vectors, WIDTH]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;        // [vectors, y_stride]
@group(0) @binding(3) var<storage, read>       weight: array<f32>;   // [WIDTH]
//#if STORE
@group(0) @binding(4) var<storage, read_write> store: array<u32>;
@group(0) @binding(5) var<storage, read>       places: array<vec4u>; // which array, row of it, word of the store, 0
//#repeat m MORE
@group(0) @binding(6 + $m) var<storage, read>  more$m: array<u32>;   // [n, width]
//#end
//#endif
var<immediate> p: Params;

//#include reduce
//#if STORE
const NOWHERE = 0xffffffffu;
//#include rows_write

// What `append` does with a row of another array.
fn append_more(place: vec4u, thread: u32) {
    //#repeat m MORE
    if place.x == $mu + 1u {
        for (var c = thread; c < p.width$m; c += THREADS) {
            store[place.z + c] = more$m[place.y * p.width$m + c];
        }
    }
    //#end
}
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
    let i = group.y * groups.x + group.x;
//#if STORE
    if i >= p.count {
        append_more(places[i], thread);
        return;
    }
//#endif
    let base = (min(i, p.count - 1u) / p.repeat) * WIDTH;
    let to = i * p.y_stride + p.y_offset;
    var scale = 1.0;
//#if NORM
    var sum = 0.0;
    for (var c = thread; c < WIDTH; c += THREADS) { sum += x[base + c] * x[base + c]; }
    scale = 1.0 / sqrt(group_sum(sum, thread) / f32(WIDTH) + p.eps);
//#endif
    if i >= p.count { return; }
    for (var c = thread; c < WIDTH / 2u; c += THREADS) {
        var pair = scale * vec2f(x[base + 2u * c], x[base + 2u * c + 1u]);
//#if WEIGHT
        pair *= vec2f(weight[2u * c], weight[2u * c + 1u]);
//#endif
//#if ROTATE
        if 2u * c >= WIDTH - ROPE {
            let a = angles[(i / p.heads) * (ROPE / 2u) + c - (WIDTH - ROPE) / 2u];
            pair = vec2f(pair.x * a.x - pair.y * a.y, pair.x * a.y + pair.y * a.x);
        }
//#endif
        y[to + 2u * c] = pair.x;
        y[to + 2u * c + 1u] = pair.y;
//#if STORE
        row_values[2u * c] = pair.x;
        row_values[2u * c + 1u] = pair.y;
//#endif
    }
//#if STORE
    let to_row = places[i].z;
    if to_row != NOWHERE { store_row(to_row, thread); }
//#endif
}
