// Appends rows of a batch to cached rows:  store row at `word` = round(x[row]), for all that `places` names
//
// One workgroup per row, the second dimension of the grid goes over the places; with a grid wider than one, each place is the
// first of so many rows that follow each other. With MORE, rows of other arrays are appended to stores of f32, too, which need
// no rounding.
struct Params {
    stride: u32, // in words
    //#repeat m MORE
    width$m: u32,
    //#end
}

@group(0) @binding(0) var<storage, read>       x: array<f32>;     // [n, WIDTH]
@group(0) @binding(1) var<storage, read_write> store: array<u32>;
@group(0) @binding(2) var<storage, read>       places: array<vec4u>; // which array, row of it, word of the store, 0
//#repeat m MORE
@group(0) @binding(3 + $m) var<storage, read>  x$m: array<u32>;   // [n, width]
//#end
var<immediate> p: Params;

//#include rows_write

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let place = places[group.y];
    let row = place.y + group.x;
    //#repeat m MORE
    if place.x == $mu + 1u {
        for (var i = thread; i < p.width$m; i += THREADS) {
            store[place.z + group.x * p.width$m + i] = x$m[row * p.width$m + i];
        }
        return;
    }
    //#end
    for (var i = thread; i < WIDTH; i += THREADS) { row_values[i] = x[row * WIDTH + i]; }
    store_row(place.z + group.x * p.stride, thread);
}
