// One pass over the residual streams: leaving a sub-layer, and entering the next one.
//
//   LEAVE:  streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]
//   DOTS:   dots[o] += fn[o] · streams',  dots[OUT] += |streams'|²      for a chunk of the columns
//
// One workgroup per row and CHUNK columns of every stream. The chunk stays in workgroup memory while
// its OUT dot products are taken: a thread takes one row of `fn` and one unit of 32 columns at a time.
//
// With FINISH the last workgroup of a row to come goes on and makes x, as `enter` does: see `last`. The mixture it leaves to
// the product that follows: see `mixes`.
//#include formats/common
struct Params {
    d: u32,
//#if FINISH
    eps: f32, rms_eps: f32, norm_eps: f32,
//#endif
}

//#if FINISH
@group(0) @binding(0) @coherent var<storage, read_write> streams: array<vec4f>;  // [n, HC, d]
//#else
@group(0) @binding(0) var<storage, read_write> streams: array<vec4f>;  // [n, HC, d]
//#endif
@group(0) @binding(1) var<storage, read>       y: array<vec4f>;      // [n, d]
@group(0) @binding(2) var<storage, read>       left: array<f32>;     // [n, HC + HC·HC]: post, comb
@group(0) @binding(3) var<storage, read>       w_q: array<vec4u>;    // [OUT, HC·d]
@group(0) @binding(4) var<storage, read>       w_s: array<u32>;
//#if FINISH
@group(0) @binding(5) @coherent var<storage, read_write> dots: array<f32>; // [n, chunks, OUT + 1]
@group(0) @binding(6) var<storage, read_write> arrived: array<atomic<u32>>; // [n], zeros before and after
@group(0) @binding(7) var<storage, read>       base: array<f32>;     // from here on as in `enter`
@group(0) @binding(8) var<storage, read>       scale: array<f32>;
@group(0) @binding(9) var<storage, read>       norm: array<vec4f>;
@group(0) @binding(10) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(11) var<storage, read_write> entered: array<f32>; // [n, OUT + 1]: z, then the inverse RMS
//#else
@group(0) @binding(5) var<storage, read_write> dots: array<f32>;     // [n, chunks, OUT + 1]
//#endif
var<immediate> p: Params;

const VECTORS = CHUNK / 4u; // of a stream, in the chunk
//#if DOTS
//#format w
//#include reduce
const UNITS = HC * CHUNK / 32u; // of the chunk
// By the eight vectors of a unit, so that neighbours read neighbours; the odd pitch keeps writes to different banks.
const PITCH = UNITS + 1u;
var<workgroup> chunk: array<vec4f, 8u * PITCH>;
var<workgroup> parts: array<f32, OUT * UNITS>;

// A task is a row of `fn` and a unit of the chunk. What is beyond the last column meets zeros.
fn task_weights(group: u32, task: u32) -> Unit {
    let unit = task % UNITS;
    let at = min(group * (CHUNK / 32u) + unit % (CHUNK / 32u), p.d / 32u - 1u);
    return w_unit(((task / UNITS) * HC + unit / (CHUNK / 32u)) * (p.d / 32u) + at);
}

fn product(w: Unit, unit: u32) -> f32 {
    var sum = 0.0;
    //#repeat k 8
    sum += dot(w.w[$k], chunk[$ku * PITCH + unit]);
    //#end
    return w.scale * sum;
}
//#endif
//#if FINISH
//#include entry
//#include last
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
//#if PREPARED
    prepare(thread);
//#endif
    let row = group.y;
    let width = p.d / 4u;
    // A thread has a vector of one stream.
    let stream = thread / VECTORS;
    let column = group.x * VECTORS + thread % VECTORS;
    let mine = stream < HC && column < width;
//#if DOTS
    // The first weights are on their way while the streams are read.
    let early = task_weights(group.x, min(thread, OUT * UNITS - 1u));
//#endif
    var s = vec4f(0.0);
    if mine {
//#if LEAVE
        let m = row * (HC + HC * HC);
        s = left[m + stream] * y[row * width + column];
        //#repeat j HC
        s += left[m + HC + $ju * HC + stream] * streams[(row * HC + $ju) * width + column];
        //#end
//#else
        s = streams[(row * HC + stream) * width + column];
//#endif
    }
//#if DOTS
    if thread < HC * VECTORS { chunk[(thread % 8u) * PITCH + thread / 8u] = s; }
//#endif
    workgroupBarrier();
//#if LEAVE
    // All threads have read the old ones.
    if mine { streams[(row * HC + stream) * width + column] = s; }
//#endif
//#if DOTS
    let square = group_sum(dot(s, s), thread);
    if thread < OUT * UNITS { parts[thread] = product(early, thread % UNITS); }
    for (var task = thread + THREADS; task < OUT * UNITS; task += THREADS) {
        parts[task] = product(task_weights(group.x, task), task % UNITS);
    }
    workgroupBarrier();
    let to = (row * groups.x + group.x) * (OUT + 1u);
    for (var o = thread; o < OUT; o += THREADS) {
        var sum = 0.0;
        for (var unit = 0u; unit < UNITS; unit += 1u) { sum += parts[o * UNITS + unit]; }
        dots[to + o] = sum;
    }
    if thread == 0u { dots[to + OUT] = square; }
//#endif
//#if FINISH
    let given = given_of(thread);
    if !comes_last(row, groups.x, thread) { return; }
    let old = streams_of(row, thread);
    let inverse = inverse_rms(row, thread);
    if thread < OUT { entered[row * (OUT + 1u) + thread] = z[thread]; }
    if thread == 0u { entered[row * (OUT + 1u) + OUT] = inverse; }
    enter_x(row, inverse, old, given, thread);
//#endif
}
