// The inner activations of experts, for few rows:  h[pair] = share · swiglu(gate·x, up·x)
//
// A pair is a row and one of its USED experts; with SHARED a row and the shared expert. A team of LANES
// threads owns ROWS outputs of both matrices, as in `linear_vec`.
//#include formats/common
//#include activation
struct Params { ff: u32, units: u32, x_stride: u32, used: u32, limit: f32, first_row: u32, rows: u32 }

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;       // [n, x_stride]
@group(0) @binding(1) var<storage, read>       gate_q: array<vec4u>;  // [experts·ff, 32·units]
@group(0) @binding(2) var<storage, read>       gate_s: array<u32>;
@group(0) @binding(3) var<storage, read>       up_q: array<vec4u>;    // as gate
@group(0) @binding(4) var<storage, read>       up_s: array<u32>;
@group(0) @binding(5) var<storage, read_write> h: array<f32>;         // [n·used, ff]
//#if !SHARED
@group(0) @binding(6) var<storage, read>       ids: array<u32>;       // [n·used]
@group(0) @binding(7) var<storage, read>       shares: array<f32>;    // [n·used]
//#endif
var<immediate> p: Params;

//#format gate
//#format up
//#include reduce

// x, as in `linear_vec`.
const CHUNK = 128u;
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, 8u * PITCH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let pair = group.y;
//#if SHARED
    let stack_row = 0u;
    let share = 1.0;
//#else
    let stack_row = ids[pair] * p.ff;
    let share = shares[pair];
//#endif
    // An expert lies wholly inside one part of a split stack.
    if stack_row < p.first_row || stack_row - p.first_row >= p.rows { return; }
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    let base = pair / p.used * p.x_stride;
    //#repeat r ROWS
    let at$r = (stack_row - p.first_row + min(first + $ru, p.ff - 1u)) * p.units;
    var g$r = 0.0;
    var u$r = 0.0;
    //#end
    for (var start = 0u; start < p.units; start += CHUNK) {
        let here = min(CHUNK, p.units - start);
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
        if lane == 0u && first + $ru < p.ff { h[pair * p.ff + first + $ru] = share * swiglu(g, v, p.limit); }
    }
    //#end
}
