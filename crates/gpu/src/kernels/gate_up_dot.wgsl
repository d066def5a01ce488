// As `gate_up`, where hardware multiplies bytes: x in 8 bits, see `dot/common`. A team has UNROLL pieces of its rows
// under way. With ROUNDS the result is in 8 bits, too: a workgroup has all of each 32 values.
//#include bound/gate_up

const X8 = 2u * UNITS;
//#include dot/common
//#formats
//#if ROUNDS
//#include dot/rounded
var<workgroup> made: array<f32, TEAMS * ROWS>;
//#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let pair = group.y;
    // An expert lies wholly inside one part of a split stack.
    let stack_row = ids[pair] * FF;
    if stack_row < p.first_row || stack_row - p.first_row >= p.rows { return; }
    let lane = thread % LANES;
    const PIECES = 32u * UNITS / gate_VALUES;
    for (var i = thread; i < X8; i += THREADS) {
        let at = (pair / p.used) * p.x_stride + 4u * i;
        put_16(i, array<vec4f, 4>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]));
    }
    workgroupBarrier();
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let at$r = (stack_row - p.first_row + min(first + $ru, FF - 1u)) * PIECES;
    var g$r = 0.0;
    var u$r = 0.0;
    //#end
    for (var step = lane; step < PIECES; step += UNROLL * LANES) {
        //#repeat i UNROLL
        //#repeat r ROWS
        let gate$i_$r = gate_load(at$r + step + $iu * LANES);
        let up$i_$r = up_load(at$r + step + $iu * LANES);
        //#end
        //#end
        //#repeat i UNROLL
        {
            let m = gate_meets(0u, step + $iu * LANES);
            //#repeat r ROWS
            g$r += gate_dot(gate$i_$r, m);
            u$r += up_dot(up$i_$r, m);
            //#end
        }
        //#end
    }
    //#repeat r ROWS
    {
        let g = subgroupAdd(g$r);
        let v = subgroupAdd(u$r);
        if lane == 0u && first + $ru < FF {
            let value = shares[pair] * swiglu(g, v, p.limit);
//#if ROUNDS
            made[thread / LANES * ROWS + $ru] = value;
//#else
            h[pair * FF + first + $ru] = value;
//#endif
        }
    }
    //#end
//#if ROUNDS
    workgroupBarrier();
    let at = group.x * (TEAMS * ROWS / 16u) + thread;
    if thread < TEAMS * ROWS / 16u && at < FF / 16u {
        var v: array<vec4f, 4>;
        //#repeat k 4
        v[$k] = vec4f(made[16u * thread + 4u * $ku], made[16u * thread + 4u * $ku + 1u],
            made[16u * thread + 4u * $ku + 2u], made[16u * thread + 4u * $ku + 3u]);
        //#end
        hand_over(pair * (FF / 32u * 3u), at, v);
    }
//#endif
}
