// The tokens of each row whose logit is at least the row's largest minus a margin, in any order, and what the others
// weigh:  rest = Σ e^((logit - largest) / temperature)
//
// One workgroup per stretch of a row, as in `peaks`; each finds the row's largest once more among the peaks.
struct Params { vocab: u32, stretch: u32, out_stride: u32, most: u32 }

@group(0) @binding(0) var<storage, read>       logits: array<f32>;  // [rows, vocab]
@group(0) @binding(1) var<storage, read>       peaks: array<vec2u>; // [rows, stretches]
@group(0) @binding(2) var<storage, read>       asks: array<vec2f>;  // [rows]: margin, temperature
// [rows, out_stride]: how many tokens lead; 1 if a logit is no number; rest of each stretch; `most` times token, logit
@group(0) @binding(3) var<storage, read_write> out: array<atomic<u32>>;
var<immediate> p: Params;

//#include peak
//#include reduce

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    var top = 0u;
    var bad = 0u;
    for (var i = thread; i < groups.x; i += THREADS) {
        let peak = peaks[group.y * groups.x + i];
        top = max(top, peak.x);
        bad |= peak.y;
    }
    let whole = group_peak(vec2u(top, bad), thread);
    let largest = float_of(whole.x);
    let least = largest - asks[group.y].x;
    let to = group.y * p.out_stride;
    let start = group.x * p.stretch;
    let end = min(start + p.stretch, p.vocab);
    var rest = 0.0;
    for (var i = start + thread; i < end; i += THREADS) {
        let x = logits[group.y * p.vocab + i];
        if x >= least {
            let slot = atomicAdd(&out[to], 1u);
            if slot < p.most {
                atomicStore(&out[to + 2u + groups.x + 2u * slot], i);
                atomicStore(&out[to + 3u + groups.x + 2u * slot], bitcast<u32>(x));
            }
        } else {
            rest += exp((x - largest) / asks[group.y].y);
        }
    }
    let sum = group_sum(rest, thread);
    if thread == 0u {
        atomicStore(&out[to + 2u + group.x], bitcast<u32>(sum));
        if group.x == 0u { atomicStore(&out[to + 1u], whole.y); }
    }
}
