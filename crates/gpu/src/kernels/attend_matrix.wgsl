// Attention of one row for HEADS heads on a device with cooperative matrices; what `attend` and `attend_merge` say.
//
// The eight subgroups share out the columns: each holds its own of the queries, in f16, and of the sums, in f32, as
// matrices of 16 heads by 16 columns. KEYS keys at a time are decoded to f16 in workgroup memory. What a subgroup's
// columns add to their scores is summed over the subgroups; the weights that scores become meet the same keys again.
//
// Weights are e^(s - m), where m is the largest score so far or up to FAR less: sums of before are only faded when the
// largest grows by more, since for that they have to go through memory.
enable f16;
enable wgpu_cooperative_matrix;
//#include bound/attend

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
const HEADS = 32u;
const KEYS = 16u;
const FAR = 8.0;
// Vectors of a row, two more than it needs, so that rows begin at different banks; and of a row of weights numbers.
const PITCH = VECTORS + 2u;
const WEIGHTS = KEYS + 8u;
const STRIP = HEADS * 16u;
var<workgroup> keys: array<vec4<f16>, KEYS * PITCH>; // [key, column]; at first queries, [head, column]
var<workgroup> sums: array<f32, 8u * STRIP>;         // [subgroup, head, key] or [subgroup, head, column]
var<workgroup> weights: array<f16, HEADS * WEIGHTS>; // [head, key]
var<workgroup> fades: array<f32, HEADS>;             // what a head's sums are to be multiplied by
var<workgroup> grew: array<u32, 8>;                  // whether that is anything for a subgroup's heads

// The largest of eight neighbouring lanes, and the sum.
fn largest_of_8(x: f32) -> f32 {
    var y = max(x, subgroupShuffleXor(x, 1u));
    y = max(y, subgroupShuffleXor(y, 2u));
    return max(y, subgroupShuffleXor(y, 4u));
}
fn sum_of_8(x: f32) -> f32 {
    var y = x + subgroupShuffleXor(x, 1u);
    y += subgroupShuffleXor(y, 2u);
    return y + subgroupShuffleXor(y, 4u);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = group.z;
    let head0 = group.x * HEADS;
    let row = row_of(n);
    let count = row.window_len + row.compressed;
    let lane = thread % 32u;
    // A subgroup's columns, and its strip of sums.
    let columns = (thread / 32u) * TILES * 4u;
    let strip = (thread / 32u) * STRIP;
    // A thread brings ITEMS pieces of 16 values of KEYS keys; the next ones are on their way while these are used.
    //#repeat i ITEMS
    let key$i = ($iu * THREADS + thread) / (WIDTH / 16u);
    let piece$i = ($iu * THREADS + thread) % (WIDTH / 16u);
    var next$i: Packed;
    var at$i = 0u;
    if key$i < KEYS {
        next$i = packed_16(address(n, row, min(key$i, count - 1u)), piece$i);
        at$i = address(n, row, min(KEYS + key$i, count - 1u));
    }
    //#end
    // Queries: sixteen threads a head.
    //#repeat h 2
    {
        let head = n * p.heads + head0 + 16u * $hu + thread / 16u;
        var square = 0.0;
        //#repeat v SPREAD
        var q$v = q[head * VECTORS + 16u * $vu + thread % 16u];
        square += dot(q$v, q$v);
        //#end
        square = sum_of_8(square);
        square += subgroupShuffleXor(square, 8u);
        let factor = 1.0 / sqrt(square / f32(WIDTH) + p.eps);
        //#repeat v SPREAD
        {
            let c = 16u * $vu + thread % 16u;
            q$v *= factor;
            if 4u * c >= WIDTH - TURNED {
                q$v = turned(q$v, angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u]);
            }
            keys[(thread / 16u) * PITCH + c] = vec4<f16>(q$v);
        }
        //#end
    }
    workgroupBarrier();
    //#repeat t TILES
    let q$h_$t = coopLoadT<Left>(&keys[columns + 4u * $tu], PITCH);
    //#end
    workgroupBarrier();
    //#end
    // Scores: eight threads a head, each two keys.
    let mine = thread % 8u;
    let head = thread / 8u;
    var m = -3.0e38;
    var total = 0.0;
    //#repeat h 2
    //#repeat t TILES
    var o$h_$t: Sum;
    //#end
    //#end
    for (var j = 0u; j < count; j += KEYS) {
        //#repeat i ITEMS
        if key$i < KEYS {
            let values = unscaled(next$i, piece$i);
            let scale = scale_of(next$i, piece$i);
            //#repeat k 4
            keys[key$i * PITCH + 4u * piece$i + $ku] = vec4<f16>(scale * values[$k]);
            //#end
            if j + KEYS < count {
                next$i = packed_16(at$i, piece$i);
                at$i = address(n, row, min(j + 2u * KEYS + key$i, count - 1u));
            }
        }
        //#end
        workgroupBarrier();
        {
            //#repeat h 2
            var s$h: Sum;
            //#end
            //#repeat t TILES
            let k$t = coopLoad<Right>(&keys[columns + 4u * $tu], PITCH);
            //#repeat h 2
            s$h = coopMultiplyAdd(q$h_$t, k$t, s$h);
            //#end
            //#end
            //#repeat h 2
            coopStoreT(s$h, &sums[strip + 256u * $hu], 16u);
            //#end
        }
        workgroupBarrier();
        //#repeat k 2
        var s$k = 0.0;
        //#repeat w 8
        s$k += sums[STRIP * $wu + 16u * head + mine + 8u * $ku];
        //#end
        s$k = select(-3.0e38, p.scale * s$k, j + mine + 8u * $ku < count);
        //#end
        let top = largest_of_8(max(s0, s1));
        var fade = 1.0;
        if top > m + FAR {
            fade = exp(m - top);
            m = top;
        }
        total *= fade;
        //#repeat k 2
        let weight$k = f16(exp(s$k - m));
        total += f32(weight$k);
        weights[head * WEIGHTS + mine + 8u * $ku] = weight$k;
        //#end
        if mine == 0u { fades[head] = fade; }
        let faded = subgroupAny(fade != 1.0 && j > 0u);
        if lane == 0u { grew[thread / 32u] = u32(faded); }
        let any = workgroupUniformLoad(&grew);
        if (any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7]) != 0u {
            //#repeat t TILES
            //#repeat h 2
            coopStoreT(o$h_$t, &sums[strip + 256u * $hu], 16u);
            //#end
            workgroupBarrier();
            for (var i = lane; i < STRIP; i += 32u) { sums[strip + i] *= fades[i / 16u]; }
            workgroupBarrier();
            //#repeat h 2
            o$h_$t = coopLoadT<Sum>(&sums[strip + 256u * $hu], 16u);
            //#end
            workgroupBarrier();
            //#end
        }
        //#repeat h 2
        let w$h = coopLoadT<Left>(&weights[16u * WEIGHTS * $hu], WEIGHTS);
        //#end
        //#repeat t TILES
        let v$t = coopLoadT<Right>(&keys[columns + 4u * $tu], PITCH);
        //#repeat h 2
        o$h_$t = coopMultiplyAdd(w$h, v$t, o$h_$t);
        //#end
        //#end
        workgroupBarrier();
    }
    total = sum_of_8(total);
    let most = max(m, sinks[head0 + head]);
    let share = exp(m - most);
    if mine == 0u { fades[head] = share / (share * total + exp(sinks[head0 + head] - most)); }
    workgroupBarrier();
    //#repeat t TILES
    //#repeat h 2
    coopStoreT(o$h_$t, &sums[strip + 256u * $hu], 16u);
    //#end
    workgroupBarrier();
    for (var i = lane; i < STRIP / 4u; i += 32u) {
        let at = strip + 4u * i;
        let to = i / 4u;
        var v = fades[to] * vec4f(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
        let c = columns + 4u * $tu + i % 4u;
        if 4u * c >= WIDTH - TURNED {
            let a = angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u];
            v = turned(v, a * vec4f(1.0, -1.0, 1.0, -1.0));
        }
        o[(n * p.heads + head0 + to) * VECTORS + c] = v;
    }
    workgroupBarrier();
    //#end
}
