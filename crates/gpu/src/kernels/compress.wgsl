// Compresses windows of tokens into one row each: per channel a softmax over the window's g weighs its
// k; then norm and rotation by the angle of the window's first token. Formula: `Ops::compress`.
//
// One workgroup per window; a thread takes every THREADS-th channel. A frontier row is k then g of one
// token, f32, INNER each. With OVERLAP the slots are first the first halves of the window before, then
// the second halves of this one.
struct Params { stride: u32, eps: f32 } // in words

// Where rows are, in words: the frontier's first one, which is of token `base`, and that of the first window to be written.
struct Place { frontier: u32, base: u32, window: u32, at: u32 }

@group(0) @binding(0) var<storage, read_write> store: array<u32>;
@group(0) @binding(1) var<storage, read>       norm: array<f32>;     // [WIDTH]
@group(0) @binding(2) var<storage, read>       angles: array<vec2f>; // [windows, ROPE / 2]
@group(0) @binding(3) var<storage, read>       place: Place;
var<immediate> p: Params;

//#include rows_write
//#include reduce

// Address of k of a slot of a window.
fn slot(window: u32, i: u32) -> u32 {
//#if OVERLAP
    let position = (window - 1u) * RATIO + i;
    let half = select(0u, INNER - WIDTH, i >= RATIO);
//#else
    let position = window * RATIO + i;
    let half = 0u;
//#endif
    return place.frontier + (position - place.base) * 2u * INNER + half;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let window = place.window + group.x;
//#if OVERLAP
    let slots = 2u * RATIO;
    let first = select(0u, RATIO, window == 0u);
//#else
    let slots = RATIO;
    let first = 0u;
//#endif
    var square = 0.0;
    for (var c = thread; c < WIDTH; c += THREADS) {
        var largest = -3.0e38;
        for (var i = first; i < slots; i += 1u) {
            largest = max(largest, bitcast<f32>(store[slot(window, i) + INNER + c]));
        }
        var sum = 0.0;
        var weights = 0.0;
        for (var i = first; i < slots; i += 1u) {
            let at = slot(window, i) + c;
            let weight = exp(bitcast<f32>(store[at + INNER]) - largest);
            sum += weight * bitcast<f32>(store[at]);
            weights += weight;
        }
        row_values[c] = sum / weights;
        square += row_values[c] * row_values[c];
    }
    let scale = 1.0 / sqrt(group_sum(square, thread) / f32(WIDTH) + p.eps);
    for (var c = thread; c < WIDTH / 2u; c += THREADS) {
        var pair = scale * vec2f(row_values[2u * c] * norm[2u * c], row_values[2u * c + 1u] * norm[2u * c + 1u]);
        if 2u * c >= WIDTH - ROPE {
            let a = angles[group.x * (ROPE / 2u) + c - (WIDTH - ROPE) / 2u];
            pair = vec2f(pair.x * a.x - pair.y * a.y, pair.x * a.y + pair.y * a.x);
        }
        row_values[2u * c] = pair.x;
        row_values[2u * c + 1u] = pair.y;
    }
    store_row(place.at + group.x * p.stride, thread);
}
