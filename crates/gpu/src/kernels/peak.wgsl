// Products of f32 in registers and nothing else: how fast the device multiplies and adds at most.
//
// Each thread carries 8 independent vectors through ROUNDS of fused multiply-adds.
@group(0) @binding(0) var<storage, read_write> y: array<f32>; // [workgroups]

const ROUNDS = 512u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let a = vec4f(f32(thread) * 1e-3 + 0.5);
    let b = vec4f(f32(group.x % 7u) * 1e-3);
    //#repeat i 8
    var s$i = vec4f(f32($i) * 0.1);
    //#end
    for (var round = 0u; round < ROUNDS; round += 1u) {
        //#repeat i 8
        s$i = fma(s$i, a, b);
        //#end
    }
    var sum = vec4f(0.0);
    //#repeat i 8
    sum += s$i;
    //#end
    // As good as never so, but no compiler knows; a condition that it can decide takes the loop away with it.
    if sum.x + sum.y + sum.z + sum.w == 1.2345679 { y[group.x] = sum.x; }
}
