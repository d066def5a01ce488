// As `gate_up`, where hardware multiplies bytes: x in 8 bits, see `dot/common`. A team has UNROLL pieces of its rows
// under way.
//#include bound/gate_up

const X8 = 2u * UNITS;
//#include dot/common
//#formats

//#repeat e KINDS
fn kind$e(group: u32, pair: u32, row: u32, stack_row: u32, share: f32, to: u32, thread: u32) {
    let lane = thread % LANES;
    const PIECES = X8 / gate$e_VECTORS;
    for (var i = thread; i < X8; i += THREADS) {
        let at = row * p.x_stride + 4u * i;
        put_16(i, array<vec4f, 4>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]));
    }
    workgroupBarrier();
    let first = (group * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let at$r = (stack_row + min(first + $ru, FF$e - 1u)) * PIECES;
    var g$r = 0.0;
    var u$r = 0.0;
    //#end
    for (var step = lane; step < PIECES; step += UNROLL$e * LANES) {
        //#repeat i UNROLL$e
        //#repeat r ROWS
        let gate$i_$r = gate$e_load(at$r + step + $iu * LANES);
        let up$i_$r = up$e_load(at$r + step + $iu * LANES);
        //#end
        //#end
        //#repeat i UNROLL$e
        {
            let m = gate$e_meets(0u, step + $iu * LANES);
            //#repeat r ROWS
            g$r += gate$e_dot(gate$i_$r, m);
            u$r += up$e_dot(up$i_$r, m);
            //#end
        }
        //#end
    }
    //#repeat r ROWS
    {
        let g = subgroupAdd(g$r);
        let v = subgroupAdd(u$r);
        if lane == 0u && first + $ru < FF$e {
            h[to + pair * FF$e + first + $ru] = share * swiglu(g, v, p.limit$e);
        }
    }
    //#end
}
//#end

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    // The shared expert has the most bytes, so its workgroups come first.
    var pair = group.y;
//#if SHARED
    if pair < p.n {
        if group.x * (TEAMS * ROWS) >= FF1 { return; }
        kind1(group.x, pair, pair, 0u, 1.0, p.shared_base, thread);
        return;
    }
    pair -= p.n;
//#endif
    // An expert lies wholly inside one part of a split stack.
    let stack_row = ids[pair] * FF0;
    if stack_row < p.first_row || stack_row - p.first_row >= p.rows { return; }
    if group.x * (TEAMS * ROWS) >= FF0 { return; }
    kind0(group.x, pair, pair / p.used, stack_row - p.first_row, shares[pair], 0u, thread);
}
