// As `down`, where hardware multiplies bytes: h in 8 bits, all of it in workgroup memory; see `gate_up_dot`. With ROUNDED that
// of routed experts comes so.
//#include bound/down

const X8 = 2u * (USED * UNITS0 + UNITS1);
//#include dot/common
//#formats
//#if ROUNDED
//#include dot/rounded
//#endif

// Of each expert: its first row in this part, and 1 if it is there.
var<workgroup> places: array<vec2u, USED>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let lane = thread % LANES;
    for (var i = thread; i < X8; i += THREADS) {
//#if ROUNDED
        if i < 2u * USED * UNITS0 {
            put_rounded(i, take_over(group.y * USED * UNITS0 * 3u, i));
            continue;
        }
        let at = p.shared_base + group.y * UNITS1 * 8u + 4u * (i - 2u * USED * UNITS0);
        put_16(i, array<vec4f, 4>(bitcast<vec4f>(h[at]), bitcast<vec4f>(h[at + 1u]), bitcast<vec4f>(h[at + 2u]),
            bitcast<vec4f>(h[at + 3u])));
//#else
        var at = (group.y * USED * UNITS0 * 8u) + 4u * i;
        if i >= 2u * USED * UNITS0 { at = p.shared_base + group.y * UNITS1 * 8u + 4u * (i - 2u * USED * UNITS0); }
        put_16(i, array<vec4f, 4>(h[at], h[at + 1u], h[at + 2u], h[at + 3u]));
//#endif
    }
    if thread < USED {
        let stack_row = ids[group.y * USED + thread] * p.d;
        let inside = stack_row >= p.first_row && stack_row - p.first_row < p.rows;
        places[thread] = select(vec2u(0u), vec2u(stack_row - p.first_row, 1u), inside);
    }
    workgroupBarrier();
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let row$r = min(first + $ru, p.d - 1u);
    var sum$r = 0.0;
    //#end
//#if SHARED
    const PIECES1 = 32u * UNITS1 / w1_VALUES;
    for (var step = lane; step < PIECES1; step += UNROLL1 * LANES) {
        //#repeat i UNROLL1
        //#repeat r ROWS
        let w$i_$r = w1_load(row$r * PIECES1 + step + $iu * LANES);
        //#end
        //#end
        //#repeat i UNROLL1
        {
            let m = w1_meets(2u * USED * UNITS0, step + $iu * LANES);
            //#repeat r ROWS
            sum$r += w1_dot(w$i_$r, m);
            //#end
        }
        //#end
    }
//#endif
    const PIECES0 = 32u * UNITS0 / w0_VALUES;
    for (var step = lane; step < USED * PIECES0; step += UNROLL0 * LANES) {
        //#repeat i UNROLL0
        let piece$i = step + $iu * LANES;
        // An expert of another part of a split stack counts for nothing.
        let here$i = places[piece$i / PIECES0];
        //#repeat r ROWS
        let w$i_$r = w0_load((here$i.x + row$r) * PIECES0 + piece$i % PIECES0);
        //#end
        //#end
        //#repeat i UNROLL0
        {
            let m = w0_meets(0u, piece$i);
            //#repeat r ROWS
            sum$r += select(0.0, w0_dot(w$i_$r, m), here$i.y == 1u);
            //#end
        }
        //#end
    }
    //#repeat r ROWS
    {
        let total = subgroupAdd(sum$r);
        if lane == 0u && first + $ru < p.d {
//#if SHARED
            y[group.y * p.d + first + $ru] = total;
//#else
            y[group.y * p.d + first + $ru] += total;
//#endif
        }
    }
    //#end
}
