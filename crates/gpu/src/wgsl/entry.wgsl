// What entering a sub-layer comes to, given the chunks' dot products with the streams:
//
//   z = fn · rms(v);  pre[j] = σ(z[j]·scale[0] + base[j]) + eps
//   x = rms(Σ_j pre[j]·streams[j], norm)                                        `enter_x`
//   post[j] = 2σ(z[HC+j]·scale[1] + base[HC+j]);  comb = sinkhorn(..)           `mixture`
//
// The kernel has bindings `dots`, `base`, `scale`, `streams`, `norm`, `x` and `mix`, and their parameters.
var<workgroup> z: array<f32, OUT + 1u>;

fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }

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

//#if !HEAD
fn mixture(row: u32, inverse: f32) {
    let to = row * (HC + HC * HC);
    //#repeat j HC
    mix[to + $ju] = 2.0 * sigmoid(z[HC + $ju] * inverse * scale[1] + base[HC + $ju]);
    var m$j: array<f32, HC>;
    //#repeat k HC
    m$j[$k] = z[2u * HC + $ju * HC + $ku] * inverse * scale[2] + base[2u * HC + $ju * HC + $ku];
    //#end
    var largest$j = m$j[0];
    //#repeat k HC
    largest$j = max(largest$j, m$j[$k]);
    //#end
    var sum$j = 0.0;
    //#repeat k HC
    m$j[$k] = exp(m$j[$k] - largest$j);
    sum$j += m$j[$k];
    //#end
    //#repeat k HC
    m$j[$k] = m$j[$k] / sum$j + p.eps;
    //#end
    //#end
    for (var i = 0u; i < p.iterations; i += 1u) {
        if i > 0u {
            //#repeat j HC
            var row_sum$j = p.eps;
            //#repeat k HC
            row_sum$j += m$j[$k];
            //#end
            row_sum$j = 1.0 / row_sum$j;
            //#repeat k HC
            m$j[$k] *= row_sum$j;
            //#end
            //#end
        }
        //#repeat k HC
        var column_sum$k = p.eps;
        //#repeat j HC
        column_sum$k += m$j[$k];
        //#end
        column_sum$k = 1.0 / column_sum$k;
        //#repeat j HC
        m$j[$k] *= column_sum$k;
        //#end
        //#end
    }
    //#repeat j HC
    //#repeat k HC
    mix[to + HC + $ju * HC + $ku] = m$j[$k];
    //#end
    //#end
}
//#endif


// The mean square of the streams, as its inverse root; `z` is ready then.
fn inverse_rms(row: u32, thread: u32) -> f32 {
    sum_dots(row, thread);
    return 1.0 / sqrt(z[OUT] / f32(HC * p.d) + p.rms_eps);
}

fn enter_x(row: u32, inverse: f32, s: array<array<vec4f, HC>, SPREAD>, thread: u32) {
    let width = p.d / 4u;
    //#repeat i SPREAD
    var v$i = vec4f(0.0);
    //#end
    //#repeat j HC
    let pre$j = sigmoid(z[$j] * inverse * scale[0] + base[$j]) + p.eps;
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
        if c < width { x[row * width + c] = factor * v$i * norm[c]; }
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
