// The sum of what the threads before this one bring, over a workgroup of THREADS; every thread comes by.
//#if SUBGROUPS
var<workgroup> scan_sums: array<u32, TEAMS>;
//#else
var<workgroup> scan_sums: array<u32, THREADS>;
//#endif

fn sum_before(x: u32, thread: u32) -> u32 {
//#if SUBGROUPS
    let upto = subgroupInclusiveAdd(x);
    if thread % LANES == LANES - 1u { scan_sums[thread / LANES] = upto; }
    workgroupBarrier();
    var sum = upto - x;
    for (var i = 0u; i < thread / LANES; i += 1u) { sum += scan_sums[i]; }
    workgroupBarrier();
    return sum;
//#else
    scan_sums[thread] = x;
    workgroupBarrier();
    for (var step = 1u; step < THREADS; step *= 2u) {
        var other = 0u;
        if thread >= step { other = scan_sums[thread - step]; }
        workgroupBarrier();
        scan_sums[thread] += other;
        workgroupBarrier();
    }
    let sum = scan_sums[thread] - x;
    workgroupBarrier();
    return sum;
//#endif
}
