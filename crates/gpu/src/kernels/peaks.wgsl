// The largest logit of each stretch of a row, and whether all of the stretch are numbers.
//
// One workgroup per stretch of a row. Also empties the row's list of leaders.
struct Params { vocab: u32, stretch: u32, out_stride: u32 }

@group(0) @binding(0) var<storage, read>       logits: array<f32>;  // [rows, vocab]
@group(0) @binding(1) var<storage, read_write> peaks: array<vec2u>; // [rows, stretches]: ordered logit, 1 if one is no number
@group(0) @binding(2) var<storage, read_write> out: array<u32>;     // [rows, out_stride], see `leaders`
var<immediate> p: Params;

//#include peak

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let start = group.x * p.stretch;
    let end = min(start + p.stretch, p.vocab);
    var top = 0u;
    var bad = 0u;
    for (var i = start + thread; i < end; i += THREADS) {
        let x = logits[group.y * p.vocab + i];
        top = max(top, ordered(x));
        // Infinite downwards is a token that cannot be; infinite upwards and NaN say nothing.
        let bits = bitcast<u32>(x);
        bad |= select(0u, 1u, (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u);
    }
    let peak = group_peak(vec2u(top, bad), thread);
    if thread == 0u {
        peaks[group.y * groups.x + group.x] = peak;
        if group.x == 0u { out[group.y * p.out_stride] = 0u; }
    }
}
