// What entering a sub-layer comes to, given the chunks' dot products with the streams:
//
//   z = fn · rms(v);  pre[j] = σ(z[j]·scale[0] + base[j]) + eps
//   x = rms(Σ_j pre[j]·streams[j], norm)                                        `enter_x`
//
// The rest of z is for `mixture`. The kernel has bindings `dots`, `base`, `scale`, `streams`, `norm` and `x`, and their
// parameters.
var<workgroup> z: array<f32, OUT + 1u>;

//#include sigmoid

// Sums the CHUNKS chunks: several threads share the chunks of each product, and all of a thread's are under way
// at once.
const SLICES = THREADS / (OUT + 1u);
var<workgroup> slices: array<f32, SLICES * (OUT + 1u)>;

fn sum_dots(row: u32, thread: u32) {
    if thread < SLICES * (OUT + 1u) {
        var sum = 0.0;
        for (var start = thread / (OUT + 1u); start < CHUNKS; start += 8u * SLICES) {
            //#repeat i 8
            let chunk$i = start + $iu * SLICES;
            let dot$i = dots[(row * CHUNKS + min(chunk$i, CHUNKS - 1u)) * (OUT + 1u) + thread % (OUT + 1u)];
            //#end
            //#repeat i 8
            sum += select(0.0, dot$i, chunk$i < CHUNKS);
            //#end
        }
        slices[thread] = sum;
    }
    workgroupBarrier();
    if thread < OUT + 1u {
        var sum = 0.0;
        for (var i = 0u; i < SLICES; i += 1u) { sum += slices[i * (OUT + 1u) + thread]; }
        z[thread] = sum;
    }
    workgroupBarrier();
}

// The mean square of the streams, as its inverse root; `z` is ready then.
fn inverse_rms(row: u32, thread: u32) -> f32 {
    sum_dots(row, thread);
    return 1.0 / sqrt(z[OUT] / f32(HC * p.d) + p.rms_eps);
}

// Weights that a thread of `enter_x` needs. Asked for ahead of what it has to wait for, they are there by then.
struct Given { norm: array<vec4f, SPREAD>, base: array<f32, HC>, scale: f32 }

fn given_of(thread: u32) -> Given {
    var given: Given;
    //#repeat i SPREAD
    given.norm[$i] = norm[min($iu * THREADS + thread, p.d / 4u - 1u)];
    //#end
    //#repeat j HC
    given.base[$j] = base[$j];
    //#end
    given.scale = scale[0];
    return given;
}

fn enter_x(row: u32, inverse: f32, s: array<array<vec4f, HC>, SPREAD>, given: Given, thread: u32) {
    let width = p.d / 4u;
    //#repeat i SPREAD
    var v$i = vec4f(0.0);
    //#end
    //#repeat j HC
    let pre$j = sigmoid(z[$j] * inverse * given.scale + given.base[$j]) + p.eps;
    //#repeat i SPREAD
    v$i += pre$j * s[$i][$j];
    //#end
    //#end
    var sum = 0.0;
    //#repeat i SPREAD
    sum += dot(v$i, v$i);
    //#end
    let factor = 1.0 / sqrt(group_sum(sum, thread) / f32(p.d) + p.norm_eps);
    //#repeat i SPREAD
    {
        let c = $iu * THREADS + thread;
        if c < width { x[row * width + c] = factor * v$i * given.norm[$i]; }
    }
    //#end
}

// This thread's vectors of the streams of a row.
fn streams_of(row: u32, thread: u32) -> array<array<vec4f, HC>, SPREAD> {
    let width = p.d / 4u;
    var s: array<array<vec4f, HC>, SPREAD>;
    //#repeat i SPREAD
    if $iu * THREADS + thread < width {
        //#repeat j HC
        s[$i][$j] = streams[(row * HC + $ju) * width + $iu * THREADS + thread];
        //#end
    }
    //#end
    return s;
}
