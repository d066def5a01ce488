// The outputs of experts, for few rows:  y += Σ_i down_i · h[pair i], pairs in ascending order of expert
//
// A team of LANES threads owns ROWS outputs of one row and goes over its USED experts.
//#include formats/common
struct Params { d: u32, units: u32, used: u32, first_row: u32, rows: u32 }

@group(0) @binding(0) var<storage, read>       h: array<vec4f>;    // [n·used, 32·units], shares applied
@group(0) @binding(1) var<storage, read>       w_q: array<vec4u>;  // [experts·d, 32·units]
@group(0) @binding(2) var<storage, read>       w_s: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // [n, d]
@group(0) @binding(4) var<storage, read>       ids: array<u32>;    // [n·used]
var<immediate> p: Params;

//#format w
//#include reduce

// h of one pair, as x in `linear_vec`.
const CHUNK = 128u;
const PITCH = CHUNK + 1u;
var<workgroup> xs: array<vec4f, 8u * PITCH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let first = (group.x * TEAMS + thread / LANES) * ROWS;
    //#repeat r ROWS
    let row$r = min(first + $ru, p.d - 1u);
    var sum$r = 0.0;
    //#end
    for (var i = 0u; i < p.used; i += 1u) {
        let pair = group.y * p.used + i;
        let stack_row = ids[pair] * p.d;
        if stack_row < p.first_row || stack_row - p.first_row >= p.rows { continue; }
        for (var start = 0u; start < p.units; start += CHUNK) {
            let here = min(CHUNK, p.units - start);
            workgroupBarrier();
            for (var j = thread; j < 8u * here; j += THREADS) {
                xs[(j % 8u) * PITCH + j / 8u] = h[(pair * p.units + start) * 8u + j];
            }
            workgroupBarrier();
            for (var u = lane; u < here; u += LANES) {
                //#repeat r ROWS
                let w$r = w_unit((stack_row - p.first_row + row$r) * p.units + start + u);
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
    }
    //#repeat r ROWS
    {
        let total = team_sum(sum$r, thread);
        if lane == 0u && first + $ru < p.d { y[group.y * p.d + first + $ru] += total; }
    }
    //#end
}
