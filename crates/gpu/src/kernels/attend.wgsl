// Attention of one row over one stretch of its keys, for TEAMS·HEADS heads:
//
//   s[j] = q·row[j] / sqrt(WIDTH);  m = max s;  sum = Σ e^(s-m);  acc = Σ e^(s-m)·row[j]
//
// KEYS of them at a time are decoded into workgroup memory, for all heads; a team of threads holds the query and
// the sum of each of its HEADS heads in registers, spread over the lanes. `attend_merge` puts the stretches together.
// With NORM a head's query is first divided by its RMS and rotated. For few rows there is `attend_few`.
//#include bound/attend
//#include reduce
var<workgroup> keys: array<vec4f, KEYS * VECTORS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = group.z;
    let lane = thread % LANES;
    let head0 = (group.x * TEAMS + thread / LANES) * HEADS;
    let row = row_of(n);
    let count = row.window_len + row.compressed;
    let start = min(group.y * p.stretch, count);
    let end = min(start + p.stretch, count);
    //#repeat h HEADS
    let query$h = (n * p.heads + min(head0 + $hu, p.heads - 1u)) * VECTORS;
    var m$h = -3.0e38;
    var sum$h = 0.0;
    //#repeat v SPREAD
    var acc$h_$v = vec4f(0.0);
    var q$h_$v = vec4f(0.0);
    if $vu * LANES + lane < VECTORS { q$h_$v = q[query$h + $vu * LANES + lane]; }
    //#end
    //#end
    // A thread brings ITEMS pieces of 16 values of KEYS keys; the next ones are on their way while these are used.
    //#repeat i ITEMS
    let key$i = ($iu * THREADS + thread) / (WIDTH / 16u);
    let piece$i = ($iu * THREADS + thread) % (WIDTH / 16u);
    var next$i: Sixteen;
    var at$i = 0u;
    if start < end && key$i < KEYS {
        next$i = row_16(address(n, row, min(start + key$i, end - 1u)), piece$i);
        at$i = address(n, row, min(start + KEYS + key$i, end - 1u));
    }
    //#end
//#if NORM
    //#repeat h HEADS
    var square$h = 0.0;
    //#repeat v SPREAD
    square$h += dot(q$h_$v, q$h_$v);
    //#end
    let factor$h = 1.0 / sqrt(team_sum(square$h, thread) / f32(WIDTH) + p.eps);
    //#repeat v SPREAD
    {
        q$h_$v *= factor$h;
        let c = $vu * LANES + lane;
        if c < VECTORS && 4u * c >= WIDTH - TURNED {
            let a = angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u];
            q$h_$v = turned(q$h_$v, a);
        }
    }
    //#end
    //#end
//#endif
    for (var j = start; j < end; j += KEYS) {
        //#repeat i ITEMS
        if key$i < KEYS {
            //#repeat k 4
            keys[key$i * VECTORS + 4u * piece$i + $ku] = next$i[$k];
            //#end
            if j + KEYS < end {
                next$i = row_16(at$i, piece$i);
                at$i = address(n, row, min(j + 2u * KEYS + key$i, end - 1u));
            }
        }
        //#end
        workgroupBarrier();
        //#repeat h HEADS
        //#repeat t KEYS
        var s$h_$t = 0.0;
        //#end
        //#end
        //#repeat v SPREAD
        if $vu * LANES + lane < VECTORS {
            //#repeat t KEYS
            let k$t = keys[$tu * VECTORS + $vu * LANES + lane];
            //#repeat h HEADS
            s$h_$t += dot(q$h_$v, k$t);
            //#end
            //#end
        }
        //#end
        //#repeat h HEADS
        var top$h = m$h;
        //#repeat t KEYS
        s$h_$t = select(-3.0e38, p.scale * team_sum(s$h_$t, thread), j + $tu < end);
        top$h = max(top$h, s$h_$t);
        //#end
        let fade$h = exp(m$h - top$h);
        m$h = top$h;
        sum$h *= fade$h;
        //#repeat t KEYS
        s$h_$t = select(0.0, exp(s$h_$t - top$h), j + $tu < end);
        sum$h += s$h_$t;
        //#end
        //#end
        //#repeat v SPREAD
        //#repeat h HEADS
        acc$h_$v *= fade$h;
        //#end
        if $vu * LANES + lane < VECTORS {
            //#repeat t KEYS
            let value$t = keys[$tu * VECTORS + $vu * LANES + lane];
            //#repeat h HEADS
            acc$h_$v += s$h_$t * value$t;
            //#end
            //#end
        }
        //#end
        workgroupBarrier();
    }
    //#repeat h HEADS
    if head0 + $hu < p.heads {
        let to = (n * p.heads + head0 + $hu) * p.splits + group.y;
        if lane == 0u { stats[to] = vec2f(m$h, sum$h); }
        //#repeat v SPREAD
        if $vu * LANES + lane < VECTORS { parts[to * VECTORS + $vu * LANES + lane] = acc$h_$v; }
        //#end
    }
    //#end
}
