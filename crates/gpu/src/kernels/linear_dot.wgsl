// As `linear_vec`, where hardware multiplies bytes: x in 8 bits, all of it in workgroup memory; see `gate_up_dot`.
//#include bound/linear

const VECTORS = 2u * UNITS; // of 16 values, in a row
const X8 = COLUMNS * VECTORS;
//#include dot/common
//#formats
//#include reduce
//#if NORM
var<private> squares: array<f32, COLUMNS>; // of what this thread brought
//#endif

//#repeat s SEGMENTS
fn segment$s(group: vec3u, thread: u32) {
    let lane = thread % LANES;
    let first_column = group.y * COLUMNS;
//#if GROUPED
    let above = group.z * p.group_rows;
    let part = (p.first_group + group.z) * p.group_stride;
//#else
    let above = 0u;
    let part = 0u;
//#endif
    for (var i = thread; i < VECTORS; i += THREADS) {
        //#repeat c COLUMNS
        {
            let at = min(first_column + $cu, p.n - 1u) * p.x_stride + part + 4u * i;
            var v = array<vec4f, 4>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
//#if NORM
            //#repeat k 4
            squares[$c] += dot(v[$k], v[$k]);
            v[$k] *= norm[4u * i + $ku];
            //#end
//#endif
            put_16($cu * VECTORS + i, v);
        }
        //#end
    }
    workgroupBarrier();
    //#repeat c COLUMNS
    var factor$c = bitcast<f32>(FACTOR$s);
//#if NORM
    factor$c /= sqrt(group_sum(squares[$c], thread) / f32(32u * UNITS) + p.eps);
//#endif
    //#end
    const PIECES = VECTORS / m$s_VECTORS;
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
        let total = factor$c * subgroupAdd(sum$r_$c);
        let row = first + $ru;
        if lane == 0u && row < OUT$s && first_column + $cu < p.n {
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
    //#repeat s SEGMENTS
    if group.x >= START$s && group.x < END$s { segment$s(group, thread); }
    //#end
}
