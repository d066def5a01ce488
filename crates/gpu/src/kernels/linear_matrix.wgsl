// Y = X Wᵀ for many rows of X on a device with cooperative matrices: a workgroup computes a tile of 64 rows of
// X by 128 outputs, each of its eight subgroups of 32 threads a quarter of the outputs for half of the rows.
//
// 64 inputs at a time go to workgroup memory as f16, W decoded; products of 16 × 16 × 16 are summed in f32.
// While they are, the next inputs are on their way. Experts do not go this way.
enable f16;
enable wgpu_cooperative_matrix;
//#include formats/common
//#include tile

//#format w
const OUTS = 128u;
const PITCH = 18u; // vectors of a row of 64: two more than it needs, so that rows begin at different banks
var<workgroup> ws: array<vec4<f16>, OUTS * PITCH>; // [output, input / 4]
var<workgroup> xs: array<vec4<f16>, ROWS * PITCH>; // [row, input / 4]
var<workgroup> sums: array<f32, 8u * 256u>;        // [subgroup, row, output]: one product of each

// The largest f16; what is beyond would be infinite.
fn half4(v: vec4f) -> vec4<f16> { return vec4<f16>(clamp(v, vec4f(-65504.0), vec4f(65504.0))); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
//#if PREPARED
    prepare(thread);
//#endif
    let tile = tile_of(group);
    let out0 = group.x * OUTS;
    // A thread brings one unit of W and four vectors of X.
    let w_half = thread % 2u;
    let w_at = (tile.w_row + min(out0 + thread / 2u, p.rows - 1u)) * p.units;
    let w_to = (thread / 2u) * PITCH + 8u * w_half;
    let x_at = x_begin(tile, thread / 4u);
    let x_to = (thread / 4u) * PITCH + thread % 4u;
    // Where this subgroup's part of the tile begins.
    let part_row = 32u * (thread / 128u);
    let part_out = 32u * ((thread / 32u) % 4u);
    //#repeat i 2
    //#repeat j 2
    var sum$i_$j: coop_mat16x16<f32, C>;
    //#end
    //#end
    var unit = w_unit(w_at + min(w_half, p.units - 1u));
    //#repeat i 4
    var x$i = vec4f(0.0);
    if 4u * $iu + thread % 4u < 8u * p.units { x$i = x[x_at + 4u * $iu + thread % 4u]; }
    //#end
    for (var u = 0u; u < p.units; u += 2u) {
        let scale = select(unit.scale, 0.0, u + w_half >= p.units);
        //#repeat k 8
        ws[w_to + $ku] = half4(scale * unit.w[$k]);
        //#end
        //#repeat i 4
        xs[x_to + 4u * $iu] = half4(x$i);
        //#end
        workgroupBarrier();
        if u + 2u < p.units {
            unit = w_unit(w_at + min(u + 2u + w_half, p.units - 1u));
            //#repeat i 4
            {
                let k = 8u * (u + 2u) + 4u * $iu + thread % 4u;
                x$i = vec4f(0.0);
                if k < 8u * p.units { x$i = x[x_at + k]; }
            }
            //#end
        }
        //#repeat k 4
        {
            //#repeat i 2
            let a$i = coopLoadT<coop_mat16x16<f16, A>>(&xs[(part_row + 16u * $iu) * PITCH + 4u * $ku], PITCH);
            //#end
            //#repeat j 2
            let b$j = coopLoad<coop_mat16x16<f16, B>>(&ws[(part_out + 16u * $ju) * PITCH + 4u * $ku], PITCH);
            //#end
            //#repeat i 2
            //#repeat j 2
            sum$i_$j = coopMultiplyAdd(a$i, b$j, sum$i_$j);
            //#end
            //#end
        }
        //#end
        workgroupBarrier();
    }
    let mine = 256u * (thread / 32u);
    let lane = thread % 32u;
    //#repeat i 2
    //#repeat j 2
    coopStoreT(sum$i_$j, &sums[mine], 16u);
    workgroupBarrier();
    for (var at = lane; at < 256u; at += 32u) {
        put(tile, part_row + 16u * $iu + at / 16u, out0 + part_out + 16u * $ju + at % 16u, sums[mine + at]);
    }
    workgroupBarrier();
    //#end
    //#end
}
