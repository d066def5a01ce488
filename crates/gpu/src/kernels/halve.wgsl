// Rows as matrix units take them: halves, each row divided by a power of two that brings its largest value to
// between 2^14 and 2^15, so that none is too large for an f16 and few are too small.
//
// Four values are in the order 0, 2, 1, 3, as weights come in that are taken out of words by twos. One workgroup a
// row. Behind a row come PAD vectors, of which the first begins with the exponent. With SPLIT a row
// is two: the halves, and what they lack, in halves too.
enable f16;
struct Params { width: u32, x_stride: u32, y_stride: u32 } // in vectors

@group(0) @binding(0) var<storage, read>       x: array<vec4f>;     // [n, x_stride]
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f16>>; // [n, y_stride]
var<immediate> p: Params;

var<workgroup> largest: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let x_at = group.x * p.x_stride;
    let y_at = group.x * p.y_stride;
    // Magnitudes of f32 are in the order of their bits, and what is no number is the largest.
    var most = vec4u(0u);
    for (var i = thread; i < p.width; i += THREADS) {
        most = max(most, bitcast<vec4u>(x[x_at + i]) & vec4u(0x7fffffffu));
    }
    largest[thread] = max(max(most.x, most.y), max(most.z, most.w));
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half { largest[thread] = max(largest[thread], largest[thread + half]); }
        workgroupBarrier();
    }
    let exponent = max(i32(largest[0] >> 23u) - 141, -112);
    let factor = bitcast<f32>(u32(127 - exponent) << 23u);
    for (var i = thread; i < p.width; i += THREADS) {
        let v = factor * x[x_at + i];
//#if SPLIT
        // The bits that an f16 has. Some compiler takes v for what comes back from f16, and the rest for nothing.
        let high = bitcast<vec4f>(bitcast<vec4u>(v) & vec4u(0xffffe000u));
        y[y_at + p.width + i] = vec4<f16>(v - high).xzyw;
//#else
        let high = v;
//#endif
        y[y_at + i] = vec4<f16>(high).xzyw;
    }
    if thread == 0u { y[y_at + p.y_stride - PAD] = vec4<f16>(f16(exponent)); }
}
