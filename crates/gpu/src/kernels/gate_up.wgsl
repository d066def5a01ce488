// The inner activations of experts, for few rows:  h[pair] = share · swiglu(gate·x, up·x)
//
// A pair is a row and one of its `used` experts; of the shared expert, which every row has, the row alone. A team of
// LANES threads owns ROWS outputs of both matrices, as in `linear_vec`.
//#include bound/gate_up

//#formats
//#include reduce

// x, as in `linear_vec`.
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, 8u * PITCH>;

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
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    let base = (pair / p.used) * p.x_stride;
    //#repeat r ROWS
    let at$r = (stack_row - p.first_row + min(first + $ru, FF - 1u)) * UNITS;
    var g$r = 0.0;
    var u$r = 0.0;
    //#end
    for (var start = 0u; start < UNITS; start += CHUNK) {
//#if EXACT
        let here = CHUNK;
//#else
        let here = min(CHUNK, UNITS - start);
//#endif
        workgroupBarrier();
        for (var j = thread; j < 8u * here; j += THREADS) {
            xs[(j % 8u) * PITCH + j / 8u] = x[base + 8u * start + j];
        }
        workgroupBarrier();
        for (var u = lane; u < here; u += LANES) {
            //#repeat r ROWS
            let gate$r = gate_unit(at$r + start + u);
            let up$r = up_unit(at$r + start + u);
            var gate_sum$r = 0.0;
            var up_sum$r = 0.0;
            //#end
            //#repeat k 8
            {
                let v = xs[$ku * PITCH + u];
                //#repeat r ROWS
                gate_sum$r += dot(gate$r.w[$k], v);
                up_sum$r += dot(up$r.w[$k], v);
                //#end
            }
            //#end
            //#repeat r ROWS
            g$r += gate$r.scale * gate_sum$r;
            u$r += up$r.scale * up_sum$r;
            //#end
        }
    }
    //#repeat r ROWS
    {
        let g = team_sum(g$r, thread);
        let v = team_sum(u$r, thread);
        if lane == 0u && first + $ru < FF {
            h[pair * FF + first + $ru] = shares[pair] * swiglu(g, v, p.limit);
        }
    }
    //#end
}
