// Chooses a row's experts and their shares: with s = sqrt(softplus(gate)) the USED largest of s + bias, lower index
// first on a tie, each with share scale·s / (sum of the chosen s). With TABLE the experts are given.
//
// An expert's rank is the number of those ahead of it, so nobody has to wait for a round of others. The kernel has
// `gate_at`, the bindings `ids`, `shares` and `given`, and the scale.
const ROOM = (EXPERTS + 3u) / 4u * 4u;
var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> keys: array<u32, ROOM>; // order as the scores with their bias, from 1 on; 0 beyond the last expert
var<workgroup> winners: array<u32, USED>;

fn score(x: f32) -> f32 {
    // ln(1 + e^x) without losing small e^x.
    let e = exp(x);
    let small = e * (1.0 - e * (0.5 - e * (1.0 / 3.0)));
    let softplus = select(select(log(1.0 + e), small, e < 0.01), x, x > 20.0);
    return sqrt(softplus);
}

//#include ordered

//#if !TABLE
// How many experts are ahead of this one.
fn rank(expert: u32) -> u32 {
    let mine = keys[expert];
    let four = expert - expert % 4u;
    var ahead = 0u;
    for (var i = 0u; i < ROOM; i += 4u) {
        // Of equals the lower ones.
        let least = mine + select(1u, 0u, i < four);
        ahead += select(0u, 1u, keys[i] >= least) + select(0u, 1u, keys[i + 1u] >= least)
            + select(0u, 1u, keys[i + 2u] >= least) + select(0u, 1u, keys[i + 3u] >= least);
    }
    for (var i = four; i < expert; i += 1u) { ahead += select(0u, 1u, keys[i] == mine); }
    return ahead;
}
//#endif

// All threads of the workgroup come by.
fn choose(n: u32, scale: f32, thread: u32) {
    for (var e = thread; e < EXPERTS; e += THREADS) {
        scores[e] = score(gate_at(n, e));
//#if !TABLE
        keys[e] = max(ordered(scores[e] + given[e]), 1u); // NaN is below everything else
//#endif
    }
//#if TABLE
    if thread < USED { winners[thread] = given[n * USED + thread]; }
    workgroupBarrier();
//#else
    if thread < ROOM - EXPERTS { keys[EXPERTS + thread] = 0u; }
    workgroupBarrier();
    for (var e = thread; e < EXPERTS; e += THREADS) {
        let place = rank(e);
        if place < USED { winners[place] = e; }
    }
    workgroupBarrier();
//#endif
    if thread < USED {
        let mine = winners[thread];
        var place = 0u;
        var sum = 0.0;
        for (var i = 0u; i < USED; i += 1u) {
            // A table may name one twice.
            place += select(0u, 1u, winners[i] < mine || (winners[i] == mine && i < thread));
            sum += scores[winners[i]];
        }
        ids[n * USED + place] = mine;
        shares[n * USED + place] = scale * scores[mine] / max(sum, 1.1754944e-38);
    }
    workgroupBarrier();
}
