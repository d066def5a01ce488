// Y = X Wᵀ for many rows of X on a device with cooperative matrices: a workgroup computes a tile of ROWS rows of
// X by 128 outputs, each of its eight subgroups of 32 threads a quarter of the outputs for half of the rows.
//
// 64 inputs at a time go to workgroup memory in f16, W decoded, X as `halve` made it; products of 16 × 16 × 16 are
// summed in f32. While they are, the next inputs are on their way. `tile` says which variants there are. With GATED
// the outputs are 64 of each of two matrices, in turns of 16, and a subgroup has both for its 16. With SPLIT X is
// the sum of two halves, and exact as far as f32 is.
enable f16;
enable wgpu_cooperative_matrix;
//#include formats/common
//#include tile

const OUTS = 128u;
const PITCH = 18u; // vectors of a row of 64: two more than it needs, so that rows begin at different banks
var<workgroup> ws: array<vec4<f16>, OUTS * PITCH>; // [output, input / 4]
var<workgroup> xs: array<vec4<f16>, ROWS * PITCH>; // [row, input / 4]
//#if SPLIT
var<workgroup> rest: array<vec4<f16>, ROWS * PITCH>; // what xs lacks
//#endif
var<workgroup> factors: array<f32, ROWS>;   // what sums of a row are multiplied by
var<workgroup> sums: array<f32, 8u * 256u>; // [subgroup, row, output]: one product of each

//#include formats/halves
//#formats

// The unit that a thread brings; `there` is whether the row has it.
fn weights(thread: u32, i: u32, there: bool) -> array<vec4<f16>, 8> {
//#if GATED
    if (thread / 32u) % 2u == 0u { return gate_halves(i, there); }
//#endif
    return w_halves(i, there);
}

// The power of two by which a row of X was divided, and W was multiplied less.
fn factor(tile: Tile, r: u32) -> f32 {
    let exponent = i32(x[(x_row(tile, r) + 1u) * p.x_stride - PAD].x);
    return bitcast<f32>(u32(exponent + 127) << 23u) / f32(STEEP);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
//#if EXPERTS
    // Nothing to do. Matrix operations have to be in uniform control flow, and whoever checks that must see it, so
    // this looks at nothing that all threads do not share.
    let first = tiles[group.y].x * p.rows;
    if (tiles[group.y].z == 0u) | (first < p.first_row) | (first - p.first_row >= p.group_rows) { return; }
//#endif
    let tile = tile_of(group);
    // A thread brings one unit of W, and one vector of every 16th row of X.
    let w_half = thread % 2u;
//#if GATED
    let out0 = group.x * (OUTS / 2u);
    let w_out = out0 + 16u * (thread / 64u) + (thread / 2u) % 16u;
//#else
    let out0 = group.x * OUTS;
    let w_out = out0 + thread / 2u;
//#endif
    let w_at = (tile.w_row + min(w_out, p.rows - 1u)) * p.units;
    let w_to = (thread / 2u) * PITCH + 8u * w_half;
    let x_k = thread % 16u;
    let x_to = (thread / 16u) * PITCH + x_k;
    if thread < ROWS { factors[thread] = factor(tile, thread); }
    // Where this subgroup's part of the tile begins.
    let part_row = (ROWS / 2u) * (thread / 128u);
    let part_out = 32u * ((thread / 32u) % 4u);
    //#repeat i BANDS
    //#repeat j 2
    var sum$i_$j: coop_mat16x16<f32, C>;
    //#end
    //#end
    var w = weights(thread, w_at + min(w_half, p.units - 1u), w_half < p.units);
    //#repeat i LOADS
    let x_at$i = x_begin(tile, thread / 16u + 16u * $iu) + x_k;
    var x$i = vec4<f16>();
    if x_k < 8u * p.units { x$i = x[x_at$i]; }
//#if SPLIT
    var rest$i = vec4<f16>();
    if x_k < 8u * p.units { rest$i = x[x_at$i + (p.x_stride - PAD) / 2u]; }
//#endif
    //#end
    for (var u = 0u; u < p.units; u += 2u) {
        //#repeat k 8
        ws[w_to + $ku] = w[$k];
        //#end
        //#repeat i LOADS
        xs[x_to + 16u * $iu * PITCH] = x$i;
//#if SPLIT
        rest[x_to + 16u * $iu * PITCH] = rest$i;
//#endif
        //#end
        workgroupBarrier();
        if u + 2u < p.units {
            let k = 8u * (u + 2u);
            w = weights(thread, w_at + min(u + 2u + w_half, p.units - 1u), u + 2u + w_half < p.units);
            //#repeat i LOADS
            x$i = vec4<f16>();
            if k + x_k < 8u * p.units { x$i = x[x_at$i + k]; }
//#if SPLIT
            rest$i = vec4<f16>();
            if k + x_k < 8u * p.units { rest$i = x[x_at$i + k + (p.x_stride - PAD) / 2u]; }
//#endif
            //#end
        }
        //#repeat k 4
        {
            //#repeat j 2
            let b$j = coopLoad<coop_mat16x16<f16, B>>(&ws[(part_out + 16u * $ju) * PITCH + 4u * $ku], PITCH);
            //#end
            //#repeat i BANDS
            let a$i = coopLoadT<coop_mat16x16<f16, A>>(&xs[(part_row + 16u * $iu) * PITCH + 4u * $ku], PITCH);
            //#repeat j 2
            sum$i_$j = coopMultiplyAdd(a$i, b$j, sum$i_$j);
            //#end
//#if SPLIT
            let c$i = coopLoadT<coop_mat16x16<f16, A>>(&rest[(part_row + 16u * $iu) * PITCH + 4u * $ku], PITCH);
            //#repeat j 2
            sum$i_$j = coopMultiplyAdd(c$i, b$j, sum$i_$j);
            //#end
//#endif
            //#end
        }
        //#end
        workgroupBarrier();
    }
    // Each subgroup has a place for one product of 16 × 16, of which each thread puts every second row of an output.
    let mine = 256u * (thread / 32u) + thread % 32u;
    let out = thread % 16u;
    //#repeat i BANDS
    let row$i = part_row + 16u * $iu + (thread / 16u) % 2u;
//#if GATED
    coopStoreT(sum$i_0, &sums[mine - thread % 32u], 16u);
    workgroupBarrier();
    //#repeat m 8
    let gate$i_$m = sums[mine + 32u * $mu];
    //#end
    workgroupBarrier();
    coopStoreT(sum$i_1, &sums[mine - thread % 32u], 16u);
    workgroupBarrier();
    //#repeat m 8
    {
        let by = factors[row$i + 2u * $mu];
        let value = swiglu(by * gate$i_$m, by * sums[mine + 32u * $mu], p.limit);
        put(tile, row$i + 2u * $mu, out0 + part_out / 2u + out, value);
    }
    //#end
    workgroupBarrier();
//#else
    //#repeat j 2
    coopStoreT(sum$i_$j, &sums[mine - thread % 32u], 16u);
    workgroupBarrier();
    //#repeat m 8
    {
        let r = row$i + 2u * $mu;
        put(tile, r, out0 + part_out + 16u * $ju + out, factors[r] * sums[mine + 32u * $mu]);
    }
    //#end
    workgroupBarrier();
    //#end
//#endif
    //#end
}
