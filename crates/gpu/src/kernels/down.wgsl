// The outputs of experts, for few rows:  y = Σ_i down_i · h[pair i] + shared · h[shared], pairs in ascending
// order of expert
//
// A team of LANES threads owns ROWS outputs of one row and goes over its USED experts, whose inputs follow
// each other; then, with SHARED, over the shared expert. Without SHARED the result is added to y: that is
// a further part of a split stack.
//#include bound/down

//#formats
//#include reduce

// Some of h, as x in `linear_vec`.
const CHUNK = 128u;
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, 8u * PITCH>;

fn fetch(base: u32, count: u32, thread: u32) {
    workgroupBarrier();
    for (var j = thread; j < 8u * count; j += THREADS) { xs[(j % 8u) * PITCH + j / 8u] = h[base + j]; }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let lane = thread % LANES;
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let row$r = min(first + $ru, p.d - 1u);
    var sum$r = 0.0;
    //#end
    let all = p.used * UNITS0;
    for (var start = 0u; start < all; start += CHUNK) {
        let here = min(CHUNK, all - start);
        fetch((group.y * all + start) * 8u, here, thread);
        for (var u = lane; u < here; u += LANES) {
            let i = (start + u) / UNITS0;
            let stack_row = ids[group.y * p.used + i] * p.d;
            if stack_row < p.first_row || stack_row - p.first_row >= p.rows { continue; }
            let unit = (start + u) % UNITS0;
            //#repeat r ROWS
            let w$r = w0_unit((stack_row - p.first_row + row$r) * UNITS0 + unit);
            var unit$r = 0.0;
            //#end
            //#repeat k 8
            {
                let v = xs[$ku * PITCH + u];
                //#repeat r ROWS
                unit$r += dot(w$r.w[$k], v);
                //#end
            }
            //#end
            //#repeat r ROWS
            sum$r += w$r.scale * unit$r;
            //#end
        }
    }
//#if SHARED
    for (var start = 0u; start < UNITS1; start += CHUNK) {
        let here = min(CHUNK, UNITS1 - start);
        fetch(p.shared_base + (group.y * UNITS1 + start) * 8u, here, thread);
        for (var u = lane; u < here; u += LANES) {
            //#repeat r ROWS
            let w$r = w1_unit(row$r * UNITS1 + start + u);
            var unit$r = 0.0;
            //#end
            //#repeat k 8
            {
                let v = xs[$ku * PITCH + u];
                //#repeat r ROWS
                unit$r += dot(w$r.w[$k], v);
                //#end
            }
            //#end
            //#repeat r ROWS
            sum$r += w$r.scale * unit$r;
            //#end
        }
    }
//#endif
    //#repeat r ROWS
    {
        let total = team_sum(sum$r, thread);
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
