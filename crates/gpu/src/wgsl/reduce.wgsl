// Sums over a team of LANES consecutive threads and over a whole workgroup of THREADS.
//
// With SUBGROUPS a team is a subgroup; without, the teams share memory and every thread of the
// workgroup has to come by.
//#if SUBGROUPS
var<workgroup> team_sums: array<f32, TEAMS>;
//#else
var<workgroup> thread_sums: array<f32, THREADS>;
//#endif

fn team_sum(x: f32, thread: u32) -> f32 {
//#if SUBGROUPS
    return subgroupAdd(x);
//#else
    thread_sums[thread] = x;
    workgroupBarrier();
    let lane = thread % LANES;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half { thread_sums[thread] += thread_sums[thread + half]; }
        workgroupBarrier();
    }
    let sum = thread_sums[thread - lane];
    workgroupBarrier();
    return sum;
//#endif
}

fn group_sum(x: f32, thread: u32) -> f32 {
//#if SUBGROUPS
    let mine = subgroupAdd(x);
    if thread % LANES == 0u { team_sums[thread / LANES] = mine; }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < TEAMS; i += 1u) { sum += team_sums[i]; }
    workgroupBarrier();
    return sum;
//#else
    thread_sums[thread] = x;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half { thread_sums[thread] += thread_sums[thread + half]; }
        workgroupBarrier();
    }
    let sum = thread_sums[0];
    workgroupBarrier();
    return sum;
//#endif
}
