// As `linear_vec`, where hardware multiplies bytes: x in 8 bits, all of it in workgroup memory; see `gate_up_dot`. Rows of
// float weights meet x as it is (FLOATS), in pieces of 16 bytes, too.
//#include bound/linear

const VECTORS = 2u * UNITS; // of 16 values, in a row
const X8 = COLUMNS * VECTORS;
//#include dot/common
//#if FLOATS
struct Floats { even: vec4f, odd: vec4f }
var<workgroup> xf: array<vec4f, COLUMNS * 8u * UNITS>; // of each row the even ones of its vectors, then the odd ones
//#endif
//#formats
var<private> inverse_rms: array<f32, COLUMNS>;
//#if NORM
var<private> squares: array<f32, COLUMNS>; // of what this thread brought
var<workgroup> team_squares: array<f32, COLUMNS * TEAMS>;
//#endif

//#if NORM
fn note_square(column: u32, square: f32) {
    //#repeat c COLUMNS
    squares[$c] += select(0.0, square, column == $cu);
    //#end
}
//#endif

// Brings x in 8 bits, all threads a share of all rows.
fn bring(first_column: u32, part: u32, thread: u32) {
    for (var all = thread; all < X8; all += THREADS) {
        let column = all / VECTORS;
        let i = all % VECTORS;
        let at = min(first_column + column, p.n - 1u) * p.x_stride + part + 4u * i;
        var v = array<vec4f, 4>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
//#if NORM
        var square = 0.0;
        //#repeat k 4
        square += dot(v[$k], v[$k]);
        v[$k] *= norm[4u * i + $ku];
        //#end
        note_square(column, square);
//#endif
        put_16(all, v);
    }
}
//#if FLOATS

// Brings x as it is.
fn bring_floats(first_column: u32, part: u32, thread: u32) {
    for (var all = thread; all < COLUMNS * 8u * UNITS; all += THREADS) {
        let column = all / (8u * UNITS);
        let i = all % (8u * UNITS);
        var v = x[min(first_column + column, p.n - 1u) * p.x_stride + part + i];
//#if NORM
        note_square(column, dot(v, v));
        v *= norm[i];
//#endif
        xf[(2u * column + (i & 1u)) * 4u * UNITS + (i >> 1u)] = v;
    }
}
//#endif

//#repeat s SEGMENTS
fn segment$s(group: vec3u, thread: u32) {
    let lane = thread % LANES;
    let first_column = group.y * COLUMNS;
//#if GROUPED
    let above = group.z * p.group_rows;
//#else
    let above = 0u;
//#endif
    const PIECES = 32u * UNITS / m$s_VALUES;
    let first = ((group.x - START$s) * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let at$r = (above + min(first + $ru, OUT$s - 1u)) * PIECES;
    //#repeat c COLUMNS
    var sum$r_$c = 0.0;
    //#end
    //#end
    for (var step = lane; step < PIECES; step += UNROLL$s * LANES) {
        //#repeat i UNROLL$s
        //#repeat r ROWS
        let w$i_$r = m$s_load(at$r + step + $iu * LANES);
        //#end
        //#end
        //#repeat i UNROLL$s
        {
            //#repeat c COLUMNS
            {
                let m = m$s_meets($cu * VECTORS, step + $iu * LANES);
                //#repeat r ROWS
                sum$r_$c += m$s_dot(w$i_$r, m);
                //#end
            }
            //#end
        }
        //#end
    }
    //#repeat c COLUMNS
    //#repeat r ROWS
    {
        var total = bitcast<f32>(FACTOR$s) * inverse_rms[$c] * subgroupAdd(sum$r_$c);
        let row = first + $ru;
        if lane == 0u && row < OUT$s && first_column + $cu < p.n {
//#if BIAS$s
            total += bias$s[bias_rows[first_column + $cu] * BIAS_WIDTH$s + BIAS_FIRST$s + row];
//#endif
            y[p.base$s + (first_column + $cu) * STRIDE$s + above + row] = total;
        }
    }
    //#end
    //#end
}
//#end

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
//#if MIX
    if group.x == groups.x - 1u {
        if group.y == 0u { mixtures(p.mix_rows, p.mix_iterations, p.mix_eps, thread); }
        return;
    }
//#endif
    //#if PREPARED
    prepare(thread);
    //#endif
//#if GROUPED
    let part = (p.first_group + group.z) * p.group_stride;
//#else
    let part = 0u;
//#endif
//#if FLOATS
    var floats = false;
    //#repeat s SEGMENTS
//#if FLOATS$s
    floats |= group.x >= START$s && group.x < END$s;
//#endif
    //#end
    if floats { bring_floats(group.y * COLUMNS, part, thread); } else { bring(group.y * COLUMNS, part, thread); }
//#else
    bring(group.y * COLUMNS, part, thread);
//#endif
//#if NORM
    //#repeat c COLUMNS
    squares[$c] = subgroupAdd(squares[$c]);
    if thread % LANES == 0u { team_squares[$cu * TEAMS + thread / LANES] = squares[$c]; }
    //#end
//#endif
    workgroupBarrier();
    //#repeat c COLUMNS
    inverse_rms[$c] = 1.0;
//#if NORM
    {
        var sum = 0.0;
        for (var i = 0u; i < TEAMS; i += 1u) { sum += team_squares[$cu * TEAMS + i]; }
        inverse_rms[$c] /= sqrt(sum / f32(32u * UNITS) + p.eps);
    }
//#endif
    //#end
    //#repeat s SEGMENTS
    if group.x >= START$s && group.x < END$s { segment$s(group, thread); }
    //#end
}
