// Y = X Wᵀ for many rows of X on a device with cooperative matrices: a workgroup computes a tile of ROWS rows of
// X by OUTS outputs, each of its subgroups of 32 threads 32 of the outputs for half of the rows.
//
// 64 inputs at a time go to workgroup memory in f16, W decoded, X as `halve` made it; products of SIZE × SIZE × SIZE
// are summed in f32. While they are, the next inputs are on their way, and the W of those after them. `tile` says which variants there are. With
// GATED the outputs are half of each of two matrices, in turns of 16, and a subgroup has both for its 16. With SPLIT X
// is the sum of two halves, and exact as far as f32 is.
//
// SIZE is 16; with EIGHT it is 8, as on Metal. There matrices are loaded from single numbers in memory rather than
// from vectors of four, and nothing says that a new one is zero, so the first is loaded, too.
enable f16;
enable wgpu_cooperative_matrix;
//#include formats/common
//#include tile

//#if EIGHT
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
alias Element = f16;
const FOUR = 4u; // elements that are four numbers
//#else
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
alias Element = vec4<f16>;
const FOUR = 1u;
//#endif
const OUTS = THREADS / 2u;
// Elements of a row of 64 numbers: eight numbers more than it needs, so that rows begin at different banks.
const PITCH = 18u * FOUR;
const STEP = SIZE / 4u * FOUR; // elements of SIZE numbers
const STRIP = 16u * SIZE;      // sums of SIZE rows and 16 outputs
var<workgroup> ws: array<Element, OUTS * PITCH>; // [output, input]
var<workgroup> xs: array<Element, ROWS * PITCH>; // [row, input]
//#if SPLIT
var<workgroup> rest: array<Element, ROWS * PITCH>; // what xs lacks
//#endif
var<workgroup> factors: array<f32, ROWS>; // what sums of a row are multiplied by
var<workgroup> sums: array<f32, THREADS / 32u * STRIP>; // [subgroup, row, output]

//#include formats/halves
//#formats

// The unit that a thread brings: what it loads of it, and what that decodes to; `there` is whether the row has it.
fn bits(thread: u32, i: u32) -> Bits {
//#if GATED
    if (thread / 32u) % 2u == 0u { return gate_bits(i); }
//#endif
    return w_bits(i);
}
fn weights(thread: u32, bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
//#if GATED
    if (thread / 32u) % 2u == 0u { return gate_halves(bits, i, there); }
//#endif
    return w_halves(bits, i, there);
}

// The power of two by which a row of X was divided, and W was multiplied less.
fn factor(tile: Tile, r: u32) -> f32 {
    let exponent = i32(x[(x_row(tile, r) + 1u) * p.x_stride - PAD].x);
    return bitcast<f32>(u32(exponent + 127) << 23u) / f32(STEEP);
}

@compute @workgroup_size(THREADS)
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
    // A thread brings one unit of W, and one vector of some rows of X, which lie BETWEEN apart.
    let w_half = thread % 2u;
//#if GATED
    let out0 = group.x * (OUTS / 2u);
    let w_out = out0 + 16u * (thread / 64u) + (thread / 2u) % 16u;
//#else
    let out0 = group.x * OUTS;
    let w_out = out0 + thread / 2u;
//#endif
    let w_at = (tile.w_row + min(w_out, p.rows - 1u)) * p.units;
    let w_to = (thread / 2u) * PITCH + 8u * FOUR * w_half;
    let x_k = thread % 16u;
    let x_to = (thread / 16u) * PITCH + FOUR * x_k;
    if thread < ROWS { factors[thread] = factor(tile, thread); }
    // Where this subgroup's part of the tile begins, and its strip of sums.
    let part_row = (ROWS / 2u) * (thread / (THREADS / 2u));
    let part_out = 32u * ((thread / 32u) % (OUTS / 32u));
    let strip = STRIP * (thread / 32u);
    let mine = strip + thread % 32u;
//#if EIGHT
    //#repeat m PUTS
    sums[mine + 32u * $mu] = 0.0;
    //#end
    workgroupBarrier();
    let zero = coopLoadT<Sum>(&sums[strip], 16u);
//#endif
    // [rows by SIZE, outputs by 16, those by SIZE]
    //#repeat i BANDS
    //#repeat j 2
    //#repeat s SIDES
//#if EIGHT
    var sum$i_$j_$s: Sum = zero;
//#else
    var sum$i_$j_$s: Sum;
//#endif
    //#end
    //#end
    //#end
    // What is loaded of W is a step further than what is decoded, so that decoding need not wait.
    let unit0 = w_at + min(w_half, p.units - 1u);
    var w = weights(thread, bits(thread, unit0), unit0, w_half < p.units);
    var ahead = bits(thread, w_at + min(w_half + 2u, p.units - 1u));
    //#repeat i LOADS
    let x_at$i = x_begin(tile, thread / 16u + BETWEEN * $iu) + x_k;
    var x$i = vec4<f16>();
    if x_k < 8u * p.units { x$i = x[x_at$i]; }
//#if SPLIT
    var rest$i = vec4<f16>();
    if x_k < 8u * p.units { rest$i = x[x_at$i + (p.x_stride - PAD) / 2u]; }
//#endif
    //#end
    for (var u = 0u; u < p.units; u += 2u) {
//#if EIGHT
        //#repeat e 4
        //#repeat k 8
        ws[w_to + 4u * $ku + $eu] = w[$k][$e];
        //#end
        //#repeat i LOADS
        xs[x_to + BETWEEN * $iu * PITCH + $eu] = x$i[$e];
//#if SPLIT
        rest[x_to + BETWEEN * $iu * PITCH + $eu] = rest$i[$e];
//#endif
        //#end
        //#end
//#else
        //#repeat k 8
        ws[w_to + $ku] = w[$k];
        //#end
        //#repeat i LOADS
        xs[x_to + BETWEEN * $iu * PITCH] = x$i;
//#if SPLIT
        rest[x_to + BETWEEN * $iu * PITCH] = rest$i;
//#endif
        //#end
//#endif
        workgroupBarrier();
        if u + 2u < p.units {
            let k = 8u * (u + 2u);
            //#repeat i LOADS
            x$i = vec4<f16>();
            if k + x_k < 8u * p.units { x$i = x[x_at$i + k]; }
//#if SPLIT
            rest$i = vec4<f16>();
            if k + x_k < 8u * p.units { rest$i = x[x_at$i + k + (p.x_stride - PAD) / 2u]; }
//#endif
            //#end
            // Behind the loads of x, which would wait as long as this does.
            w = weights(thread, ahead, w_at + min(w_half + u + 2u, p.units - 1u), w_half + u + 2u < p.units);
            ahead = bits(thread, w_at + min(w_half + u + 4u, p.units - 1u));
        }
        //#repeat k STEPS
        {
            //#repeat j 2
            //#repeat s SIDES
            let b$j_$s = coopLoad<Right>(&ws[(part_out + 16u * $ju + SIZE * $su) * PITCH + STEP * $ku], PITCH);
            //#end
            //#end
            //#repeat i BANDS
            let a$i = coopLoadT<Left>(&xs[(part_row + SIZE * $iu) * PITCH + STEP * $ku], PITCH);
            //#repeat j 2
            //#repeat s SIDES
            sum$i_$j_$s = coopMultiplyAdd(a$i, b$j_$s, sum$i_$j_$s);
            //#end
            //#end
//#if SPLIT
            let c$i = coopLoadT<Left>(&rest[(part_row + SIZE * $iu) * PITCH + STEP * $ku], PITCH);
            //#repeat j 2
            //#repeat s SIDES
            sum$i_$j_$s = coopMultiplyAdd(c$i, b$j_$s, sum$i_$j_$s);
            //#end
            //#end
//#endif
            //#end
        }
        //#end
        workgroupBarrier();
    }
    // A strip at a time; each thread puts every second row of an output.
    let out = thread % 16u;
    //#repeat i BANDS
    let row$i = part_row + SIZE * $iu + (thread / 16u) % 2u;
//#if GATED
    //#repeat s SIDES
    coopStoreT(sum$i_0_$s, &sums[strip + SIZE * $su], 16u);
    //#end
    workgroupBarrier();
    //#repeat m PUTS
    let gate$i_$m = sums[mine + 32u * $mu];
    //#end
    workgroupBarrier();
    //#repeat s SIDES
    coopStoreT(sum$i_1_$s, &sums[strip + SIZE * $su], 16u);
    //#end
    workgroupBarrier();
    //#repeat m PUTS
    {
        let by = factors[row$i + 2u * $mu];
        let value = swiglu(by * gate$i_$m, by * sums[mine + 32u * $mu], p.limit);
        put(tile, row$i + 2u * $mu, out0 + part_out / 2u + out, value);
    }
    //#end
    workgroupBarrier();
//#else
    //#repeat j 2
    //#repeat s SIDES
    coopStoreT(sum$i_$j_$s, &sums[strip + SIZE * $su], 16u);
    //#end
    workgroupBarrier();
    //#repeat m PUTS
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
