// The peak of some logits: the largest, in the order of `ordered`, and 1 if one of them is no number.
//
// Every thread of the workgroup has to come by, once.
//#include ordered

var<workgroup> largest_logits: array<u32, THREADS>;
var<workgroup> odd_ones: array<u32, THREADS>;

// That of a whole workgroup, from those of its threads.
fn group_peak(mine: vec2u, thread: u32) -> vec2u {
    largest_logits[thread] = mine.x;
    odd_ones[thread] = mine.y;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            largest_logits[thread] = max(largest_logits[thread], largest_logits[thread + half]);
            odd_ones[thread] |= odd_ones[thread + half];
        }
        workgroupBarrier();
    }
    return vec2u(largest_logits[0], odd_ones[0]);
}
