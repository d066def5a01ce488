// Puts the stretches of an attention together, with the sink, and turns the result back:
//
//   o = Σ_i e^(m_i - m)·acc_i / (Σ_i e^(m_i - m)·sum_i + e^(sink - m)),   m = max(m_i, sink)
//
// One workgroup per head of a row.
struct Params { heads: u32, splits: u32 }

@group(0) @binding(0) var<storage, read>       parts: array<vec2f>;  // [n, heads, splits, WIDTH]
@group(0) @binding(1) var<storage, read>       stats: array<vec2f>;  // [n, heads, splits]
@group(0) @binding(2) var<storage, read>       sinks: array<f32>;    // [heads]
@group(0) @binding(3) var<storage, read>       angles: array<vec2f>; // [n, ROPE / 2]
@group(0) @binding(4) var<storage, read_write> o: array<vec2f>;      // [n, heads, WIDTH]
var<immediate> p: Params;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = group.y;
    let head = n * p.heads + group.x;
    let sink = sinks[group.x];
    var m = sink;
    for (var i = 0u; i < p.splits; i += 1u) { m = max(m, stats[head * p.splits + i].x); }
    var total = exp(sink - m);
    for (var i = 0u; i < p.splits; i += 1u) {
        let s = stats[head * p.splits + i];
        total += exp(s.x - m) * s.y;
    }
    for (var c = thread; c < WIDTH / 2u; c += THREADS) {
        var pair = vec2f(0.0);
        for (var i = 0u; i < p.splits; i += 1u) {
            let at = head * p.splits + i;
            pair += exp(stats[at].x - m) * parts[at * (WIDTH / 2u) + c];
        }
        pair /= total;
        if 2u * c >= WIDTH - ROPE {
            let a = angles[n * (ROPE / 2u) + c - (WIDTH - ROPE) / 2u];
            pair = vec2f(pair.x * a.x + pair.y * a.y, pair.y * a.x - pair.x * a.y);
        }
        o[head * (WIDTH / 2u) + c] = pair;
    }
}
