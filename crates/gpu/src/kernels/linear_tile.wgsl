// Y = X Wᵀ for many rows of X: a workgroup computes a tile of 64 rows of X by 64 outputs.
//
// 32 inputs at a time go to workgroup memory, W decoded, both with the inputs as slowest axis; each
// thread then keeps 4 × 4 sums in registers. `tile` says which variants there are.
//#include formats/common
//#include tile

//#formats
const OUTS = 64u;
//#if GATED
const MATRICES = 2u;
//#else
const MATRICES = 1u;
//#endif
var<workgroup> ws: array<vec4f, MATRICES * 32 * 16>; // [matrix, input, output / 4]
var<workgroup> xs: array<vec4f, 32 * 16>; // [input, row / 4]

// Unit `i` of one of the matrices.
fn unit_of(matrix: u32, i: u32) -> Unit {
//#if GATED
    if matrix == 1u { return gate_unit(i); }
//#endif
    return w_unit(i);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let tile = tile_of(group);
    if tile.count == 0u { return; }
    let out0 = group.x * OUTS;
    // Where this thread's share of X comes from: 64 rows of 8 vectors, two a thread.
    let x_row = thread % 64u;
    let x_k = thread / 64u;
    let x_at = x_begin(tile, x_row);
    let tx = thread % 16u;
    let ty = thread / 16u;
    var sum: array<vec4f, 4>;
//#if GATED
    var gate: array<vec4f, 4>;
//#endif
    for (var u = 0u; u < p.units; u += 1u) {
        if thread < MATRICES * OUTS {
            let i = (tile.w_row + min(out0 + thread % OUTS, p.rows - 1u)) * p.units + u;
            let w = unit_of(thread / OUTS, i);
            let to = thread / OUTS * 512u + thread % OUTS / 4u;
            //#repeat k 8
            ws[to + (4u * $ku) * 16u][thread % 4u] = w.scale * w.w[$k].x;
            ws[to + (4u * $ku + 1u) * 16u][thread % 4u] = w.scale * w.w[$k].y;
            ws[to + (4u * $ku + 2u) * 16u][thread % 4u] = w.scale * w.w[$k].z;
            ws[to + (4u * $ku + 3u) * 16u][thread % 4u] = w.scale * w.w[$k].w;
            //#end
        }
        for (var k = x_k; k < 8u; k += 4u) {
            let v = x[x_at + 8u * u + k];
            xs[(4u * k) * 16u + x_row / 4u][x_row % 4u] = v.x;
            xs[(4u * k + 1u) * 16u + x_row / 4u][x_row % 4u] = v.y;
            xs[(4u * k + 2u) * 16u + x_row / 4u][x_row % 4u] = v.z;
            xs[(4u * k + 3u) * 16u + x_row / 4u][x_row % 4u] = v.w;
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 1u) {
            let w = ws[k * 16u + tx];
            let v = xs[k * 16u + ty];
            //#repeat r 4
            sum[$r] += v[$r] * w;
            //#end
//#if GATED
            let g = ws[512u + k * 16u + tx];
            //#repeat r 4
            gate[$r] += v[$r] * g;
            //#end
//#endif
        }
        workgroupBarrier();
    }
    //#repeat r 4
    for (var i = 0u; i < 4u; i += 1u) {
//#if GATED
        let value = swiglu(gate[$r][i], sum[$r][i], p.limit);
//#else
        let value = sum[$r][i];
//#endif
        put(tile, 4u * ty + $ru, out0 + 4u * tx + i, value);
    }
    //#end
}
