// The `top_k` largest scores of each row, as ascending indices; on a tie the lower index; all of them if
// there are no more.
//
// One workgroup per row: four passes of radix select over 8 bits each find the smallest key that is
// still chosen and how many of its equals are; then every thread writes the choices of one stretch.
struct Params { first_row: u32, scores_stride: u32, top_k: u32 }

@group(0) @binding(0) var<storage, read>       scores: array<f32>;  // [rows of this launch, scores_stride]
@group(0) @binding(1) var<storage, read>       rows: array<vec4u>;  // [n]: (-, visible keys, -, -)
@group(0) @binding(2) var<storage, read_write> picks: array<u32>;   // [n, top_k]
var<immediate> p: Params;

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: vec2u;       // the digit, and how many of its keys are still wanted
var<workgroup> above: array<u32, THREADS>;  // of each thread's stretch: keys above the threshold
var<workgroup> equal: array<u32, THREADS>;  // and keys equal to it

//#include ordered

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = p.first_row + group.x;
    let count = rows[n].y;
    let base = group.x * p.scores_stride;
    let to = n * p.top_k;
    if count <= p.top_k {
        for (var i = thread; i < count; i += THREADS) { picks[to + i] = i; }
        return;
    }
    var prefix = 0u;
    var wanted = p.top_k;
    for (var pass_idx = 0u; pass_idx < 4u; pass_idx += 1u) {
        let shift = 24u - 8u * pass_idx;
        for (var i = thread; i < 256u; i += THREADS) { atomicStore(&histogram[i], 0u); }
        workgroupBarrier();
        for (var i = thread; i < count; i += THREADS) {
            let key = ordered(scores[base + i]);
            if pass_idx == 0u || (key >> (shift + 8u)) == prefix {
                atomicAdd(&histogram[(key >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if thread == 0u {
            var digit = 255u;
            var left = wanted;
            loop {
                let here = atomicLoad(&histogram[digit]);
                if here >= left || digit == 0u { break; }
                left -= here;
                digit -= 1u;
            }
            found = vec2u(digit, left);
        }
        let result = workgroupUniformLoad(&found);
        prefix = (prefix << 8u) | result.x;
        wanted = result.y;
    }
    let stretch = (count + THREADS - 1u) / THREADS;
    let start = min(thread * stretch, count);
    let end = min(start + stretch, count);
    var more = 0u;
    var same = 0u;
    for (var i = start; i < end; i += 1u) {
        let key = ordered(scores[base + i]);
        more += select(0u, 1u, key > prefix);
        same += select(0u, 1u, key == prefix);
    }
    above[thread] = more;
    equal[thread] = same;
    workgroupBarrier();
    if thread == 0u {
        var a = 0u;
        var e = 0u;
        for (var i = 0u; i < THREADS; i += 1u) {
            let next_a = above[i];
            let next_e = equal[i];
            above[i] = a;
            equal[i] = e;
            a += next_a;
            e += next_e;
        }
    }
    workgroupBarrier();
    var a = above[thread];
    var e = equal[thread];
    for (var i = start; i < end; i += 1u) {
        let key = ordered(scores[base + i]);
        if key > prefix {
            picks[to + a + min(e, wanted)] = i;
            a += 1u;
        } else if key == prefix {
            if e < wanted { picks[to + a + e] = i; }
            e += 1u;
        }
    }
}
