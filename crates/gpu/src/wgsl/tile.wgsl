// What the products by tiles have in common: where a tile lies, and where its results go.
//
// Variants: with EXPERTS the tile's rows of X are (row, slot) pairs of one expert, in the order that
// `group_experts` made, and W is that expert's part of the stack. PAIRS says that X has a row for each
// pair rather than for each row of the batch. With GATED there is a second matrix of the same shape, and the
// results are y = swiglu(gate, w)·share. BIAS as in `linear_vec`. With GROUPED, `rows` is that of one group, and
// the third dimension of the grid goes over the groups. With HALVES rows of X are as `halve` makes them.
//#include activation
struct Params {
    rows: u32, units: u32, n: u32, x_stride: u32, // x_stride in vectors
    y_stride: u32, y_offset: u32, group_rows: u32, group_stride: u32,
    scale: f32, limit: f32, first_row: u32, used: u32,
}

//#if HALVES
@group(0) @binding(0) var<storage, read>       x: array<vec4<f16>>; // [n, x_stride]
//#else
@group(0) @binding(0) var<storage, read>       x: array<vec4f>;    // [n, x_stride]
//#endif
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
//#if GATED
@group(0) @binding(6) var<storage, read>       gate_q: array<vec4u>;   // as w
@group(0) @binding(7) var<storage, read>       gate_s: array<u32>;
//#if EXPERTS
@group(0) @binding(8) var<storage, read>       shares: array<f32>;     // [pairs]
//#endif
//#endif
var<immediate> p: Params;

// A tile has ROWS rows of X.
struct Tile {
    row0: u32,  // of X; with EXPERTS the first pair
    count: u32, // rows of X; none if there is nothing to do
    w_row: u32, // of W, in the part that is bound
    part: u32,  // of a row of X, where it begins, in vectors
}

fn tile_of(group: vec3u) -> Tile {
//#if EXPERTS
    let tile = tiles[group.y];
    // The rows of this expert that lie in this part of a split stack: all or none.
    let stack_row = tile.x * p.rows;
    if stack_row < p.first_row || stack_row - p.first_row >= p.group_rows { return Tile(0u, 0u, 0u, 0u); }
    return Tile(tile.y, tile.z, stack_row - p.first_row, 0u);
//#else
    let row0 = group.y * ROWS;
    let count = min(p.n - row0, ROWS);
//#if GROUPED
    return Tile(row0, count, group.z * p.group_rows, (p.first_row / p.group_rows + group.z) * p.group_stride);
//#else
    return Tile(row0, count, 0u, 0u);
//#endif
//#endif
}

// Row `r` of the tile in X; rows beyond the last are the last.
fn x_row(tile: Tile, r: u32) -> u32 {
    let row = tile.row0 + min(r, tile.count - 1u);
//#if PAIRS
    return order[row];
//#else
//#if EXPERTS
    return order[row] / p.used;
//#else
    return row;
//#endif
//#endif
}

// Where what the tile needs of that row begins, in vectors.
fn x_begin(tile: Tile, r: u32) -> u32 { return x_row(tile, r) * p.x_stride + tile.part; }

// Puts the sum for row `r` of the tile and an output where it belongs.
fn put(tile: Tile, r: u32, out: u32, sum: f32) {
    if r >= tile.count || out >= p.rows { return; }
    var value = sum * p.scale;
//#if EXPERTS
    let row = order[tile.row0 + r];
    let to = row * p.y_stride + p.y_offset + out;
//#else
    let row = tile.row0 + r;
    let to = row * p.y_stride + p.y_offset + p.first_row + tile.w_row + out;
//#endif
//#if BIAS
    value += bias[bias_rows[row] * p.group_rows + p.first_row + out];
//#endif
//#if EXPERTS
//#if GATED
    value *= shares[row];
//#endif
//#endif
    y[to] = value;
}
