// Attention of a row among few, over one stretch of its keys, for HEADS heads; the formulas are in `attend`.
//
// A team of LANES threads reads keys for itself, KEYS at a time and straight from memory: a lane has the same PIECES
// pieces of 16 values of the queries, of a key and of the sums. The teams of a workgroup divide the stretch among
// themselves, and put together what each of them has. `attend_merge` does that with the stretches; with MERGE the last
// workgroup of these heads to come does it instead: see `last`. A team is a subgroup of WAVE threads or a part of one.
//#include bound/attend
//#if MERGE
//#include last
//#endif
const SCORES = KEYS * HEADS; // 4: see `sums_of`
var<workgroup> sums: array<vec4f, TEAMS * VECTORS>;       // of a head, by the team
var<workgroup> shares: array<vec2f, HEADS * MOST_PARTS>;  // of a head, by the team, then by the stretch: m, sum

// Sums of the scores over the lanes of a team: lane i gets that of score i % SCORES.
fn sums_of(scores: array<f32, SCORES>, lane: u32) -> f32 {
    let odd = (lane & 1u) != 0u;
    //#repeat k 2
    let two$k = select(scores[2 * $k], scores[2 * $k + 1], odd)
        + subgroupShuffleXor(select(scores[2 * $k + 1], scores[2 * $k], odd), 1u);
    //#end
    let second = (lane & 2u) != 0u;
    var sum = select(two0, two1, second) + subgroupShuffleXor(select(two1, two0, second), 2u);
    for (var mask = SCORES; mask < LANES; mask *= 2u) { sum += subgroupShuffleXor(sum, mask); }
    return sum;
}

// The largest m of `count` parts of head `h`, and the sum of all of them.
fn together(h: u32, count: u32, least: f32) -> vec2f {
    var largest = least;
    for (var i = 0u; i < count; i += 1u) { largest = max(largest, shares[h * MOST_PARTS + i].x); }
    var sum = 0.0;
    for (var i = 0u; i < count; i += 1u) {
        let part = shares[h * MOST_PARTS + i];
        sum += exp(part.x - largest) * part.y;
    }
    return vec2f(largest, sum);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(num_workgroups) groups: vec3u,
) {
    let n = group.z;
    let team = thread / LANES;
    let lane = thread % LANES;
    let team_at = thread % WAVE - lane; // in its subgroup
    let head0 = group.x * HEADS;
    let row = row_of(n);
    let count = row.window_len + row.compressed;
    let end = min(min(group.y * p.stretch, count) + p.stretch, count);
    // This team's share of the stretch.
    let share = p.stretch / TEAMS;
    let start = group.y * p.stretch + team * share;
    // Where the next LANES keys are: a lane looks for one, which takes three reads, one after the other.
    var place = address(n, row, min(start + lane, max(end, 1u) - 1u));

    //#repeat v PIECES
    let inside$v = $vu * LANES + lane < SIXTEENS;
    let piece$v = min($vu * LANES + lane, SIXTEENS - 1u);
    //#repeat h HEADS
    var q$h_$v: Sixteen;
    var acc$h_$v: Sixteen;
    if inside$v {
        //#repeat k 4
        q$h_$v[$k] = q[(n * p.heads + min(head0 + $hu, p.heads - 1u)) * VECTORS + 4u * piece$v + $ku];
        //#end
    }
    //#end
    //#end
    //#repeat t KEYS
    let at$t = subgroupShuffle(place, team_at + $tu);
    //#repeat v PIECES
    var next$t_$v = packed_16(at$t, piece$v);
    //#end
    //#end
//#if NORM
    //#repeat h HEADS
    var square$h = 0.0;
    //#repeat v PIECES
    //#repeat k 4
    square$h += dot(q$h_$v[$k], q$h_$v[$k]);
    //#end
    //#end
    for (var mask = 1u; mask < LANES; mask *= 2u) { square$h += subgroupShuffleXor(square$h, mask); }
    let factor$h = 1.0 / sqrt(square$h / f32(WIDTH) + p.eps);
    //#end
    //#repeat v PIECES
    //#repeat k 4
    {
        let c = 4u * piece$v + $ku;
        var a = vec4f(1.0, 0.0, 1.0, 0.0);
        if inside$v && 4u * c >= WIDTH - TURNED { a = angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u]; }
        //#repeat h HEADS
        q$h_$v[$k] = turned(factor$h * q$h_$v[$k], a);
        //#end
    }
    //#end
    //#end
//#endif

    // Lane i has this of head i / KEYS % HEADS, and `sum` only of every key that is i % KEYS of those at hand.
    var m = -3.0e38;
    var sum = 0.0;
    for (var j = 0u; j < share; j += KEYS) {
        // The keys are taken apart, and the next ones are on their way.
        if (j + KEYS) % LANES == 0u { place = address(n, row, min(start + j + KEYS + lane, max(end, 1u) - 1u)); }
        var scores: array<f32, SCORES>;
        //#repeat t KEYS
        //#repeat v PIECES
        let key$t_$v = unscaled(next$t_$v, piece$v);
        let scale$t_$v = select(0.0, scale_of(next$t_$v, piece$v), inside$v);
        //#repeat h HEADS
        scores[$h * KEYS + $t] += scale$t_$v * (dot(q$h_$v[0], key$t_$v[0]) + dot(q$h_$v[1], key$t_$v[1])
            + dot(q$h_$v[2], key$t_$v[2]) + dot(q$h_$v[3], key$t_$v[3]));
        //#end
        //#end
        //#end
        //#repeat t KEYS
        {
            let at = subgroupShuffle(place, team_at + (j + KEYS + $tu) % LANES);
            //#repeat v PIECES
            next$t_$v = packed_16(at, piece$v);
            //#end
        }
        //#end
        let own = j + lane % KEYS;
        let here = start + own < end;
        let score = select(-3.0e38, p.scale * sums_of(scores, lane), here);
        var top = max(m, score);
        top = max(top, subgroupShuffleXor(top, 1u));
        let fade = exp(m - top);
        let weight = select(0.0, exp(score - top), here);
        m = top;
        sum = sum * fade + weight;
        //#repeat h HEADS
        let fade$h = subgroupShuffle(fade, team_at + KEYS * $hu);
        //#repeat v PIECES
        //#repeat k 4
        acc$h_$v[$k] *= fade$h;
        //#end
        //#end
        //#repeat t KEYS
        let weight$h_$t = subgroupShuffle(weight, team_at + KEYS * $hu + $tu);
        //#repeat v PIECES
        {
            let w = weight$h_$t * scale$t_$v;
            //#repeat k 4
            acc$h_$v[$k] += w * key$t_$v[$k];
            //#end
        }
        //#end
        //#end
        //#end
    }
    sum += subgroupShuffleXor(sum, 1u);
    if lane % KEYS == 0u && lane < SCORES { shares[lane / KEYS * MOST_PARTS + team] = vec2f(m, sum); }
    workgroupBarrier();
    //#repeat h HEADS
    {
        let all = together($hu, TEAMS, -3.0e38);
        let factor = exp(shares[$hu * MOST_PARTS + team].x - all.x);
        // By the four vectors of a piece, so that neighbours write to neighbours.
        //#repeat v PIECES
        if inside$v {
            //#repeat k 4
            sums[team * VECTORS + $ku * SIXTEENS + piece$v] = factor * acc$h_$v[$k];
            //#end
        }
        //#end
        workgroupBarrier();
        let to = (n * p.heads + head0 + $hu) * p.splits + group.y;
        if head0 + $hu < p.heads {
            for (var c = thread; c < VECTORS; c += THREADS) {
                var part = vec4f(0.0);
                //#repeat i TEAMS
                part += sums[$iu * VECTORS + c];
                //#end
                parts[to * VECTORS + 4u * (c % SIXTEENS) + c / SIXTEENS] = part;
            }
            if thread == 0u { stats[to] = all; }
        }
        workgroupBarrier();
    }
    //#end
//#if MERGE
    if !comes_last(n * groups.x + group.x, p.splits, thread) { return; }
    for (var i = thread; i < HEADS * p.splits; i += THREADS) {
        let head = min(head0 + i / p.splits, p.heads - 1u);
        shares[i / p.splits * MOST_PARTS + i % p.splits] = stats[(n * p.heads + head) * p.splits + i % p.splits];
    }
    workgroupBarrier();
    for (var i = thread; i < HEADS * VECTORS; i += THREADS) {
        let h = i / VECTORS;
        let c = i % VECTORS;
        if head0 + h >= p.heads { break; }
        let head = n * p.heads + head0 + h;
        let sink = sinks[head0 + h];
        let all = together(h, p.splits, sink);
        var out = vec4f(0.0);
        for (var part = 0u; part < p.splits; part += 4u) {
            //#repeat k 4
            let part$k = min(part + $ku, p.splits - 1u);
            let v$k = parts[(head * p.splits + part$k) * VECTORS + c];
            //#end
            //#repeat k 4
            if part + $ku < p.splits { out += exp(shares[h * MOST_PARTS + part$k].x - all.x) * v$k; }
            //#end
        }
        out /= all.y + exp(sink - all.x);
        if 4u * c >= WIDTH - TURNED {
            // Back.
            let a = angles[n * (TURNED / 4u) + c - (WIDTH - TURNED) / 4u];
            out = turned(out, a * vec4f(1.0, -1.0, 1.0, -1.0));
        }
        o[head * VECTORS + c] = out;
    }
//#endif
}
