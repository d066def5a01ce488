// Chooses each row's experts and their shares: with s = sqrt(softplus(gate)) the USED largest of
// s + bias, lower index first on a tie, each with share scale·s / (sum of the chosen s).
//
// One workgroup per row; each round finds the largest that is left. With TABLE the experts are given.
struct Params { experts: u32, scale: f32 }

@group(0) @binding(0) var<storage, read>       gate: array<f32>;    // [n, experts]
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;     // [n, USED], ascending
@group(0) @binding(2) var<storage, read_write> shares: array<f32>;  // [n, USED]
//#if TABLE
@group(0) @binding(3) var<storage, read>       table: array<u32>;   // [n, USED], ascending
//#else
@group(0) @binding(3) var<storage, read>       bias: array<f32>;    // [experts]
//#endif
var<immediate> p: Params;

// A key that orders as the score, 0 once it was taken; and the expert, lower ones first.
var<workgroup> keys: array<u32, EXPERTS>;
var<workgroup> best_key: array<u32, THREADS>;
var<workgroup> best_expert: array<u32, THREADS>;
var<workgroup> chosen: array<u32, USED>;

fn score(x: f32) -> f32 {
    // ln(1 + e^x) without losing small e^x.
    let e = exp(x);
    let small = e * (1.0 - e * (0.5 - e * (1.0 / 3.0)));
    let softplus = select(select(log(1.0 + e), small, e < 0.01), x, x > 20.0);
    return sqrt(softplus);
}

fn ordered(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if (bits & 0x7fffffffu) > 0x7f800000u { return 1u; }
    return max(select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u), 1u);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let n = group.x;
//#if TABLE
    if thread < USED { chosen[thread] = table[n * USED + thread]; }
//#else
    for (var e = thread; e < p.experts; e += THREADS) {
        keys[e] = ordered(score(gate[n * p.experts + e]) + bias[e]);
    }
    workgroupBarrier();
    for (var round = 0u; round < USED; round += 1u) {
        var key = 0u;
        var expert = 0u;
        for (var e = thread; e < p.experts; e += THREADS) {
            if keys[e] > key { key = keys[e]; expert = e; }
        }
        best_key[thread] = key;
        best_expert[thread] = expert;
        workgroupBarrier();
        for (var half = THREADS / 2u; half > 0u; half /= 2u) {
            if thread < half {
                let other = thread + half;
                if best_key[other] > best_key[thread]
                    || (best_key[other] == best_key[thread] && best_expert[other] < best_expert[thread]) {
                    best_key[thread] = best_key[other];
                    best_expert[thread] = best_expert[other];
                }
            }
            workgroupBarrier();
        }
        if thread == 0u {
            // Kept ascending.
            let taken = best_expert[0];
            keys[taken] = 0u;
            var i = round;
            loop {
                if i == 0u || chosen[i - 1u] < taken { break; }
                chosen[i] = chosen[i - 1u];
                i -= 1u;
            }
            chosen[i] = taken;
        }
        workgroupBarrier();
    }
//#endif
    workgroupBarrier();
    if thread < USED {
        var sum = 0.0;
        for (var i = 0u; i < USED; i += 1u) { sum += score(gate[n * p.experts + chosen[i]]); }
        let mine = score(gate[n * p.experts + chosen[thread]]);
        ids[n * USED + thread] = chosen[thread];
        shares[n * USED + thread] = p.scale * mine / max(sum, 1.1754944e-38);
    }
}
