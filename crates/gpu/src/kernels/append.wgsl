// Appends rows of a batch to cached rows:  store row at `at + i` = round(x[first + i]), with (first, at) in `places`
//
// One workgroup per row. With MORE, other stores get rows too: f32, which need no rounding; the second
// dimension of the grid goes over the stores.
struct Params {
    stride: u32, // in words
    //#repeat m MORE
    width$m: u32,
    //#end
}

@group(0) @binding(0) var<storage, read>       x: array<f32>;     // [n, WIDTH]
@group(0) @binding(1) var<storage, read_write> store: array<u32>;
@group(0) @binding(2) var<storage, read>       places: array<vec2u>; // [1 + MORE]: first row of x, word of the store
//#repeat m MORE
@group(0) @binding(3 + $m) var<storage, read>  x$m: array<u32>;   // [n, width]
//#end
var<immediate> p: Params;

//#include rows_write

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let place = places[group.y];
    //#repeat m MORE
    if group.y == $mu + 1u {
        for (var i = thread; i < p.width$m; i += THREADS) {
            store[place.y + group.x * p.width$m + i] = x$m[(place.x + group.x) * p.width$m + i];
        }
        return;
    }
    //#end
    for (var i = thread; i < WIDTH; i += THREADS) { row_values[i] = x[(place.x + group.x) * WIDTH + i]; }
    store_row(place.y + group.x * p.stride, thread);
}
