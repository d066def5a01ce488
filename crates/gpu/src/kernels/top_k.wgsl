// The `top_k` largest scores of each row, as ascending indices; on a tie the lower index; all of them if
// there are no more.
//
// One workgroup per row: four passes of radix select over 8 bits each find the smallest key that is
// still chosen and how many of its equals are; then every thread writes the choices of one stretch.
struct Params { first_row: u32, scores_stride: u32, top_k: u32 }

@group(0) @binding(0) var<storage, read>       scores: array<f32>;  // [rows of this launch, scores_stride]
@group(0) @binding(1) var<storage, read>       rows: array<vec4u>;  // [n]: (keys, visible keys, -, -)
@group(0) @binding(2) var<storage, read_write> picks: array<u32>;   // [n, top_k]
var<immediate> p: Params;

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: vec2u;       // the digit, and how many of its keys are still wanted

//#include ordered
//#include scan

// The first keys stay here, since they are looked at six times.
const HELD = 2048u;
var<workgroup> held: array<u32, HELD>;

fn key(base: u32, i: u32) -> u32 {
    if i < HELD { return held[i]; }
    return ordered(scores[base + i]);
}

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
    for (var i = thread; i < min(count, HELD); i += THREADS) { held[i] = ordered(scores[base + i]); }
    var prefix = 0u;
    var wanted = p.top_k;
    for (var pass_idx = 0u; pass_idx < 4u; pass_idx += 1u) {
        let shift = 24u - 8u * pass_idx;
        for (var i = thread; i < 256u; i += THREADS) { atomicStore(&histogram[i], 0u); }
        workgroupBarrier();
        for (var i = thread; i < count; i += THREADS) {
            let here = key(base, i);
            if pass_idx == 0u || (here >> (shift + 8u)) == prefix {
                atomicAdd(&histogram[(here >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        // The digit in which what is wanted runs out, from the largest on. THREADS is 256.
        let digit = 255u - thread;
        let here = atomicLoad(&histogram[digit]);
        let larger = sum_before(here, thread);
        if larger < wanted && wanted <= larger + here { found = vec2u(digit, wanted - larger); }
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
        let here = key(base, i);
        more += select(0u, 1u, here > prefix);
        same += select(0u, 1u, here == prefix);
    }
    var a = sum_before(more, thread);
    var e = sum_before(same, thread);
    for (var i = start; i < end; i += 1u) {
        let here = key(base, i);
        if here > prefix {
            picks[to + a + min(e, wanted)] = i;
            a += 1u;
        } else if here == prefix {
            if e < wanted { picks[to + a + e] = i; }
            e += 1u;
        }
    }
}
