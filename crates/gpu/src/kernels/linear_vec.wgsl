// y = W x for few rows of x: every weight is read once for COLUMNS rows of x.
//
// A team of LANES threads owns ROWS outputs and strides over the inputs in units of 32; a team's sums
// meet at the end. x goes through workgroup memory, CHUNK units at a time. With NORM, x is first divided
// by its RMS and multiplied by a weight: the workgroup sees all of x anyway, and the division commutes with
// the product. With BIAS, a row of `bias` is added, the one that `bias_rows` names. With GROUPED, outputs
// [g·group_rows, (g+1)·group_rows) read the g-th part of x; `rows` is then that of one group, and the
// third dimension of the grid goes over the groups.
//#include formats/common
struct Params {
    rows: u32, units: u32, n: u32, x_stride: u32, // x_stride in vectors
    y_stride: u32, y_offset: u32, group_rows: u32, group_stride: u32,
    scale: f32, eps: f32, first_row: u32,
}

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;    // [n, x_stride]
@group(0) @binding(1) var<storage, read>       w_q: array<vec4u>;  // [rows, 32·units]
@group(0) @binding(2) var<storage, read>       w_s: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // [n, y_stride], from y_offset
//#if NORM
@group(0) @binding(4) var<storage, read>       norm: array<vec4f>; // [32·units]
//#endif
//#if BIAS
@group(0) @binding(4) var<storage, read>       bias: array<f32>;       // [.., rows]
@group(0) @binding(5) var<storage, read>       bias_rows: array<u32>;  // [n]
//#endif
var<immediate> p: Params;

//#format w
//#include reduce

fn store(row: u32, column: u32, sum: f32) {
    if column >= p.n { return; }
    var value = sum * p.scale;
//#if BIAS
    value += bias[bias_rows[column] * p.group_rows + p.first_row + row];
//#endif
    y[column * p.y_stride + p.y_offset + p.first_row + row] = value;
}

// The part of x that all teams work on, by the eight vectors of a unit: lanes read neighbours then. The
// odd pitch keeps writes to different banks, too.
const CHUNK = 128u / COLUMNS;
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, COLUMNS * 8u * PITCH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    let first_column = group.y * COLUMNS;
//#if GROUPED
    let above = group.z * p.group_rows;
    let part = (p.first_row / p.group_rows + group.z) * p.group_stride;
//#else
    let above = 0u;
    let part = 0u;
//#endif
    //#repeat c COLUMNS
    let x$c = min(first_column + $cu, p.n - 1u) * p.x_stride + part;
    var square$c = 0.0;
    //#repeat r ROWS
    var sum$r_$c = 0.0;
    //#end
    //#end
    //#repeat r ROWS
    let at$r = (above + min(first + $ru, p.rows - 1u)) * p.units;
    //#end
    for (var start = 0u; start < p.units; start += CHUNK) {
        let here = min(CHUNK, p.units - start);
        workgroupBarrier();
        for (var j = thread; j < 8u * here; j += THREADS) {
//#if NORM
            let weight = norm[8u * start + j];
//#endif
            //#repeat c COLUMNS
            {
                var v = x[x$c + 8u * start + j];
//#if NORM
                square$c += dot(v, v);
                v *= weight;
//#endif
                xs[($cu * 8u + j % 8u) * PITCH + j / 8u] = v;
            }
            //#end
        }
        workgroupBarrier();
        for (var u = lane; u < here; u += LANES) {
            //#repeat r ROWS
            let w$r = w_unit(at$r + start + u);
            //#end
            //#repeat c COLUMNS
            //#repeat r ROWS
            var unit$r_$c = 0.0;
            //#end
            //#end
            //#repeat k 8
            //#repeat c COLUMNS
            {
                let v = xs[($cu * 8u + $ku) * PITCH + u];
                //#repeat r ROWS
                unit$r_$c += dot(w$r.w[$k], v);
                //#end
            }
            //#end
            //#end
            //#repeat c COLUMNS
            //#repeat r ROWS
            sum$r_$c += w$r.scale * unit$r_$c;
            //#end
            //#end
        }
    }
    //#repeat c COLUMNS
    {
        var factor = 1.0;
//#if NORM
        factor = 1.0 / sqrt(group_sum(square$c, thread) / f32(32u * p.units) + p.eps);
//#endif
        //#repeat r ROWS
        let total$r = factor * team_sum(sum$r_$c, thread);
        if lane == 0u && first + $ru < p.rows { store(above + first + $ru, first_column + $cu, total$r); }
        //#end
    }
    //#end
}
