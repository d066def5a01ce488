// y = W x for few rows of x and SEGMENTS matrices: every weight is read once for COLUMNS rows of x.
//
// Each matrix has workgroups of its own, from START on. A team of LANES threads owns ROWS outputs and strides
// over the inputs in units of 32, UNROLL at a time so that several loads are under way; a team's sums meet at
// the end. x goes through workgroup memory, CHUNK units at a time; with WHOLE all of it at once, and a team owns
// as many outputs PASSES times, so that fetching x is paid for once. With NORM, x is first divided by its RMS
// and multiplied by a weight: the workgroup sees all of x anyway, and the division commutes with the product.
// With BIAS, a row of a bias is added, the one that `bias_rows` names. With GROUPED, outputs
// [g·group_rows, (g+1)·group_rows) read the g-th part of x; the third dimension of the grid goes over the
// groups. With ROUTE the outputs are a router's, and the last workgroup to come chooses experts by them: see `last`
// and `choose`.
//#include bound/linear

//#formats
//#include reduce

// The part of x that all teams work on, by the eight vectors of a unit: lanes read neighbours then. The
// odd pitch keeps writes to different banks, too.
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, COLUMNS * 8u * PITCH>;
//#if NORM
var<private> squares: array<f32, COLUMNS>; // of what this thread brought
//#endif
//#if ROUTE
//#include last
fn gate_at(n: u32, expert: u32) -> f32 { return y[p.base0 + n * STRIDE0 + expert]; }
//#include choose
//#endif

// Brings units [start, start + here) of COLUMNS rows of x.
fn fetch(first_column: u32, part: u32, start: u32, here: u32, thread: u32) {
    //#repeat c COLUMNS
    let x$c = min(first_column + $cu, p.n - 1u) * p.x_stride + part;
    //#end
    for (var j = thread; j < 8u * here; j += THREADS) {
//#if NORM
        let weight = norm[8u * start + j];
//#endif
        //#repeat c COLUMNS
        {
            var v = x[x$c + 8u * start + j];
//#if NORM
            squares[$c] += dot(v, v);
            v *= weight;
//#endif
            xs[($cu * 8u + j % 8u) * PITCH + j / 8u] = v;
        }
        //#end
    }
    workgroupBarrier();
}

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
//#if WHOLE
    fetch(first_column, part, 0u, UNITS, thread);
    //#repeat c COLUMNS
    var factor$c = bitcast<f32>(FACTOR$s);
//#if NORM
    factor$c /= sqrt(group_sum(squares[$c], thread) / f32(32u * UNITS) + p.eps);
//#endif
    //#end
//#endif
    for (var turn = 0u; turn < PASSES; turn += 1u) {
        let first = (((group.x - START$s) * PASSES + turn) * TEAMS + thread / LANES) * ROWS;
//#if WHOLE
//#if SUBGROUPS
        // No barrier is left that the others would wait at.
        if first >= OUT$s { break; }
//#endif
//#endif
        //#repeat r ROWS
        let at$r = (above + min(first + $ru, OUT$s - 1u)) * UNITS;
        //#repeat c COLUMNS
        var sum$r_$c = 0.0;
        //#end
        //#end
        for (var start = 0u; start < UNITS; start += CHUNK) {
//#if EXACT
            let here = CHUNK;
//#else
            let here = min(CHUNK, UNITS - start);
//#endif
//#if !WHOLE
            workgroupBarrier();
            fetch(first_column, part, start, here, thread);
//#endif
            for (var step = 0u; step < here; step += UNROLL$s * LANES) {
                let u = step + lane;
//#if !EXACT
                if u >= here { continue; }
//#endif
                //#repeat i UNROLL$s
                //#repeat r ROWS
                let w$i_$r = m$s_unit(at$r + start + u + $iu * LANES);
                //#end
                //#end
                //#repeat i UNROLL$s
                {
                    //#repeat c COLUMNS
                    //#repeat r ROWS
                    var unit$r_$c = 0.0;
                    //#end
                    //#end
                    //#repeat k 8
                    //#repeat c COLUMNS
                    {
                        let v = xs[($cu * 8u + $ku) * PITCH + u + $iu * LANES];
                        //#repeat r ROWS
                        unit$r_$c += dot(w$i_$r.w[$k], v);
                        //#end
                    }
                    //#end
                    //#end
                    //#repeat c COLUMNS
                    //#repeat r ROWS
                    sum$r_$c += w$i_$r.scale * unit$r_$c;
                    //#end
                    //#end
                }
                //#end
            }
        }
        //#repeat c COLUMNS
        {
            let column = first_column + $cu;
//#if WHOLE
            let factor = factor$c;
//#else
            var factor = bitcast<f32>(FACTOR$s);
//#if NORM
            factor /= sqrt(group_sum(squares[$c], thread) / f32(32u * UNITS) + p.eps);
//#endif
//#endif
            //#repeat r ROWS
            {
                var total = factor * team_sum(sum$r_$c, thread);
                let row = first + $ru;
                if lane == 0u && row < OUT$s && column < p.n {
//#if BIAS$s
                    total += bias$s[bias_rows[column] * BIAS_WIDTH$s + BIAS_FIRST$s + row];
//#endif
                    y[p.base$s + column * STRIDE$s + above + row] = total;
                }
            }
            //#end
        }
        //#end
    }
}
//#end

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
//#if MIX
    let others = groups.x - 1u;
    if group.x == others {
        if group.y == 0u { mixtures(p.mix_rows, p.mix_iterations, p.mix_eps, thread); }
        return;
    }
//#else
    let others = groups.x;
//#endif
    //#if PREPARED
    prepare(thread);
    //#endif
    //#repeat s SEGMENTS
    if group.x >= START$s && group.x < END$s { segment$s(group, thread); }
    //#end
//#if ROUTE
    if !comes_last(group.y, others, thread) { return; }
    //#repeat c COLUMNS
    if group.y * COLUMNS + $cu < p.n { choose(group.y * COLUMNS + $cu, p.route_scale, thread); }
    //#end
//#endif
}
