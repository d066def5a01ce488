// Appends rows of a batch to cached rows:  store row at `at + i` = round(x[first + i])
//
// One workgroup per row.
struct Params { first: u32, at: u32, stride: u32 } // `at` and `stride` in words

@group(0) @binding(0) var<storage, read>       x: array<f32>;     // [n, WIDTH]
@group(0) @binding(1) var<storage, read_write> store: array<u32>;
var<immediate> p: Params;

//#include rows_write

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < WIDTH; i += THREADS) { row_values[i] = x[(p.first + group.x) * WIDTH + i]; }
    store_row(p.at + group.x * p.stride, thread);
}
