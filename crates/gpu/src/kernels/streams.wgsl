// One pass over the residual streams: leaving a sub-layer, and what entering the next one needs.
//
//   LEAVE:  streams'[k] = post[k]·y + Σ_j comb[j,k]·streams[j]
//   DOTS:   dots[o] += fn[o] · streams',  dots[OUT] += |streams'|²      for a chunk of the columns
//
// One workgroup per row and CHUNK columns of every stream. The chunk stays in workgroup memory while
// its OUT dot products are taken: a thread takes one row of `fn` and one unit of 32 columns at a time.
//#include formats/common
struct Params { d: u32 }

@group(0) @binding(0) var<storage, read_write> streams: array<f32>;  // [n, HC, d]
@group(0) @binding(1) var<storage, read>       y: array<f32>;        // [n, d]
@group(0) @binding(2) var<storage, read>       mix: array<f32>;      // [n, HC + HC·HC]: post, comb
@group(0) @binding(3) var<storage, read>       w_q: array<vec4u>;    // [OUT, HC·d]
@group(0) @binding(4) var<storage, read>       w_s: array<u32>;
@group(0) @binding(5) var<storage, read_write> dots: array<f32>;     // [n, chunks, OUT + 1]
var<immediate> p: Params;

//#if DOTS
//#format w
//#include reduce
const UNITS = HC * CHUNK / 32u; // of the chunk
var<workgroup> chunk: array<vec4f, HC * CHUNK / 4u>;
var<workgroup> parts: array<f32, OUT * UNITS>;
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
    let column = group.x * CHUNK + thread;
    var s: array<f32, HC>;
    if thread < CHUNK && column < p.d {
        //#repeat j HC
        s[$j] = streams[(row * HC + $ju) * p.d + column];
        //#end
//#if LEAVE
        let old = s;
        let out = y[row * p.d + column];
        let m = row * (HC + HC * HC);
        //#repeat k HC
        s[$k] = mix[m + $ku] * out;
        //#repeat j HC
        s[$k] += mix[m + HC + $ju * HC + $ku] * old[$j];
        //#end
        streams[(row * HC + $ku) * p.d + column] = s[$k];
        //#end
//#endif
    }
//#if DOTS
    var square = 0.0;
    if thread < CHUNK {
        //#repeat j HC
        chunk[($ju * CHUNK + thread) / 4u][thread % 4u] = s[$j];
        square += s[$j] * s[$j];
        //#end
    }
    square = group_sum(square, thread);
    for (var task = thread; task < OUT * UNITS; task += THREADS) {
        let unit = task % UNITS;
        let at = group.x * (CHUNK / 32u) + unit % (CHUNK / 32u);
        var sum = 0.0;
        if 32u * at < p.d {
            let w = w_unit(((task / UNITS) * HC + unit / (CHUNK / 32u)) * (p.d / 32u) + at);
            //#repeat k 8
            sum += dot(w.w[$k], chunk[8u * unit + $ku]);
            //#end
            sum *= w.scale;
        }
        parts[task] = sum;
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
}
