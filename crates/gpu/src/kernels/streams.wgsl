// One pass over the residual streams: leaving a sub-layer, and entering the next one.
//
//   LEAVE:  streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]
//   DOTS:   dots[o] += fn[o] · streams',  dots[OUT] += |streams'|²      for a chunk of the columns
//
// One workgroup per ROWS rows and CHUNK columns of every stream. The chunks stay in workgroup memory while
// their OUT dot products are taken: a thread takes one row of `fn` and one unit of 32 columns at a time.
//
// With FINISH the last workgroup of a row to come goes on and makes x, as `enter` does: see `last`. The mixture it leaves to
// the product that follows: see `mixes`.
//#include formats/common
struct Params {
    d: u32, n: u32,
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
const UNITS = HC * CHUNK / 32u; // of the chunk
// By the eight vectors of a unit, so that neighbours read neighbours; the odd pitch keeps writes to different banks.
const PITCH = UNITS + 1u;
var<workgroup> chunk: array<vec4f, ROWS * 8u * PITCH>;
// The last output is the sum of squares.
const TASKS = (OUT + 1u) * UNITS;
var<workgroup> parts: array<f32, ROWS * TASKS>;

// A task is a row of `fn` and a unit of the chunk. What is beyond the last column meets zeros.
fn task_weights(group: u32, task: u32) -> Unit {
    let unit = task % UNITS;
    let at = min(group * (CHUNK / 32u) + unit % (CHUNK / 32u), p.d / 32u - 1u);
    let o = min(task / UNITS, OUT - 1u);
    return w_unit((o * HC + unit / (CHUNK / 32u)) * (p.d / 32u) + at);
}

// The task's sum for each row.
fn do_task(w: Unit, task: u32) {
    let unit = task % UNITS;
    //#repeat r ROWS
    var sum$r = 0.0;
    //#end
    if task < OUT * UNITS {
        //#repeat r ROWS
        //#repeat k 8
        sum$r += dot(w.w[$k], chunk[($ru * 8u + $ku) * PITCH + unit]);
        //#end
        sum$r *= w.scale;
        //#end
    } else {
        //#repeat r ROWS
        for (var k = 0u; k < 8u; k += 1u) {
            let v = chunk[($ru * 8u + k) * PITCH + unit];
            sum$r += dot(v, v);
        }
        //#end
    }
    //#repeat r ROWS
    parts[$ru * TASKS + task] = sum$r;
    //#end
}
//#endif
//#if FINISH
//#include reduce
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
    let first = group.y * ROWS;
    let width = p.d / 4u;
//#if DOTS
    // The first weights are on their way while the streams are read.
    let early = task_weights(group.x, min(thread, TASKS - 1u));
//#endif
    // A thread has LOADS vectors, each of one row's stream.
    //#repeat i LOADS
    let at$i = $iu * THREADS + thread;
    let row$i = min(first + at$i / (HC * VECTORS), p.n - 1u);
    let stream$i = at$i / VECTORS % HC;
    let column$i = group.x * VECTORS + at$i % VECTORS;
    let there$i = at$i < ROWS * HC * VECTORS && column$i < width;
    var s$i = vec4f(0.0);
    if there$i {
//#if LEAVE
        let m = row$i * (HC + HC * HC);
        s$i = left[m + stream$i] * y[row$i * width + column$i];
        //#repeat j HC
        s$i += left[m + HC + $ju * HC + stream$i] * streams[(row$i * HC + $ju) * width + column$i];
        //#end
//#else
        s$i = streams[(row$i * HC + stream$i) * width + column$i];
//#endif
    }
//#if DOTS
    if at$i < ROWS * HC * VECTORS {
        let mine = at$i % (HC * VECTORS);
        chunk[(at$i / (HC * VECTORS) * 8u + mine % 8u) * PITCH + mine / 8u] = s$i;
    }
//#endif
    //#end
    workgroupBarrier();
//#if LEAVE
    // All threads have read the old ones.
    //#repeat i LOADS
    if there$i && first + at$i / (HC * VECTORS) < p.n {
        streams[(row$i * HC + stream$i) * width + column$i] = s$i;
    }
    //#end
//#endif
//#if DOTS
    if thread < TASKS { do_task(early, thread); }
    for (var task = thread + THREADS; task < TASKS; task += THREADS) {
        do_task(task_weights(group.x, task), task);
    }
    workgroupBarrier();
    for (var i = thread; i < ROWS * (OUT + 1u); i += THREADS) {
        var sum = 0.0;
        for (var unit = 0u; unit < UNITS; unit += 1u) { sum += parts[i * UNITS + unit]; }
        let row = first + i / (OUT + 1u);
        if row < p.n { dots[(row * groups.x + group.x) * (OUT + 1u) + i % (OUT + 1u)] = sum; }
    }
//#endif
//#if FINISH
    let row = first;
    let given = given_of(thread);
    if !comes_last(row, groups.x, thread) { return; }
    let old = streams_of(row, thread);
    let inverse = inverse_rms(row, thread);
    if thread < OUT { entered[row * (OUT + 1u) + thread] = z[thread]; }
    if thread == 0u { entered[row * (OUT + 1u) + OUT] = inverse; }
    enter_x(row, inverse, old, given, thread);
//#endif
}
