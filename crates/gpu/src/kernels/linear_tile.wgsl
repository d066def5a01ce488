// Y = X Wᵀ for many rows of X: a workgroup computes a tile of 64 rows of X by 64 outputs.
//
// 32 inputs at a time go to workgroup memory, W decoded, both with the inputs as slowest axis; each
// thread then keeps 4 × 4 sums in registers.
//
// Variants: with EXPERTS the tile's rows of X are (row, slot) pairs of one expert, in the order that
// `group_experts` made, and W is that expert's part of the stack. PAIRS says that X has a row for each
// pair rather than for each row of the batch. With SWIGLU the result is combined with that of the gate:
// y = swiglu(gate, y)·share. BIAS as in `linear_vec`. With GROUPED, `rows` is that of one group, and the
// third dimension of the grid goes over the groups.
//#include formats/common
//#include activation
struct Params {
    rows: u32, units: u32, n: u32, x_stride: u32, // x_stride in vectors
    y_stride: u32, y_offset: u32, group_rows: u32, group_stride: u32,
    scale: f32, limit: f32, first_row: u32, used: u32,
}

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;    // [n, x_stride]
@group(0) @binding(1) var<storage, read>       w_q: array<vec4u>;  // [rows, 32·units]
@group(0) @binding(2) var<storage, read>       w_s: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // [n, y_stride], from y_offset
//#if BIAS
@group(0) @binding(4) var<storage, read>       bias: array<f32>;       // [.., rows]
@group(0) @binding(5) var<storage, read>       bias_rows: array<u32>;  // [n]
//#endif
//#if EXPERTS
@group(0) @binding(4) var<storage, read>       tiles: array<vec4u>;    // (expert, first pair, pairs, 0)
@group(0) @binding(5) var<storage, read>       order: array<u32>;      // pairs, by expert
//#endif
//#if SWIGLU
@group(0) @binding(6) var<storage, read>       gate: array<f32>;       // as y
//#if EXPERTS
@group(0) @binding(7) var<storage, read>       shares: array<f32>;     // [pairs]
//#endif
//#endif
var<immediate> p: Params;

//#format w
const TILE = 64u;
var<workgroup> ws: array<vec4f, 32 * 16>; // [input, output / 4]
var<workgroup> xs: array<vec4f, 32 * 16>; // [input, row / 4]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let out0 = group.x * TILE;
//#if EXPERTS
    let tile = tiles[group.y];
    let pair0 = tile.y;
    let count = tile.z;
    // The rows of this expert that lie in this part of a split stack: all or none.
    let stack_row = tile.x * p.rows;
    if count == 0u || stack_row < p.first_row || stack_row - p.first_row >= p.group_rows { return; }
    let w_row = stack_row - p.first_row;
//#else
    let row0 = group.y * TILE;
    let count = min(p.n - row0, TILE);
//#if GROUPED
    let w_row = group.z * p.group_rows;
    let part = (p.first_row / p.group_rows + group.z) * p.group_stride;
//#else
    let w_row = 0u;
    let part = 0u;
//#endif
//#endif
//#if EXPERTS
    let part = 0u;
//#endif
    // Where this thread's share of X comes from: 64 rows of 8 vectors, two a thread.
    let x_row = thread % 64u;
    let x_k = thread / 64u;
    let x_in = min(x_row, count - 1u);
//#if EXPERTS
//#if PAIRS
    let x_at = order[pair0 + x_in] * p.x_stride;
//#else
    let x_at = order[pair0 + x_in] / p.used * p.x_stride;
//#endif
//#else
    let x_at = (row0 + x_in) * p.x_stride;
//#endif
    let tx = thread % 16u;
    let ty = thread / 16u;
    var sum: array<vec4f, 4>;
    for (var u = 0u; u < p.units; u += 1u) {
        if thread < 64u {
            let w = w_unit((w_row + min(out0 + thread, p.rows - 1u)) * p.units + u);
            //#repeat k 8
            ws[(4u * $ku) * 16u + thread / 4u][thread % 4u] = w.scale * w.w[$k].x;
            ws[(4u * $ku + 1u) * 16u + thread / 4u][thread % 4u] = w.scale * w.w[$k].y;
            ws[(4u * $ku + 2u) * 16u + thread / 4u][thread % 4u] = w.scale * w.w[$k].z;
            ws[(4u * $ku + 3u) * 16u + thread / 4u][thread % 4u] = w.scale * w.w[$k].w;
            //#end
        }
        for (var k = x_k; k < 8u; k += 4u) {
            let v = x[x_at + part + 8u * u + k];
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
        }
        workgroupBarrier();
    }
    //#repeat r 4
    {
        let r = 4u * ty + $ru;
        if r < count {
//#if EXPERTS
            let row = order[pair0 + r];
//#else
            let row = row0 + r;
//#endif
            for (var i = 0u; i < 4u; i += 1u) {
                let out = out0 + 4u * tx + i;
                if out < p.rows {
                    var value = sum[$r][i] * p.scale;
//#if EXPERTS
                    let to = row * p.y_stride + p.y_offset + out;
//#else
                    let to = row * p.y_stride + p.y_offset + p.first_row + w_row + out;
//#endif
//#if BIAS
                    value += bias[bias_rows[row] * p.group_rows + p.first_row + out];
//#endif
//#if SWIGLU
                    value = swiglu(gate[to], value, p.limit);
//#if EXPERTS
                    value *= shares[row];
//#endif
//#endif
                    y[to] = value;
                }
            }
        }
    }
    //#end
}
