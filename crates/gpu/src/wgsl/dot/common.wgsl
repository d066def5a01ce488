// Products of weights with activations in 8 bits: rows of x are rounded to signed bytes, the largest of 32 to 127,
// and four products are one instruction. Weights are taken in pieces, whole vectors of their bits: a lane loads
// piece `i` of a matrix and multiplies it with what it meets of x.
struct Raw { v: vec4u, a: u32, b: u32 } // bits, and where scales are

// What a piece of 64 weights meets; smaller pieces meet the first few.
struct Meets {
    v: array<vec4u, 4>, // 16 values each
    d: vec4f,           // their scales
//#if SUMS
    sums: vec4i,        // of the values
//#endif
}

var<workgroup> x8: array<vec4u, (X8 + 7u) / 8u * 8u>; // 16 values each, see `place`
var<workgroup> x8_scales: array<f32, X8 / 2u + X8 / 64u + 1u>; // of each 32, see `scale_place`
//#if SUMS
// Of each 16, see `sum_place`: for formats with a minimum that is part of all weights of a group.
var<workgroup> x8_sums: array<i32, X8 + X8 / 16u + 2u>;
//#endif

// Where 16 values lie. Lanes read 1, 2, 4 or 16 of these apart, and in this order eight of them always meet all banks
// of the memory.
fn place(i: u32) -> u32 {
    let s = (i >> 3u) & 3u;
    return i ^ s ^ (s << 1u);
}
fn scale_place(i: u32) -> u32 { return (i >> 1u) + (i >> 6u); }
fn sum_place(i: u32) -> u32 { return i + 2u * (i >> 5u); }

fn dot16(w: vec4u, x: vec4u, start_at: i32) -> i32 {
    return start_at + dot4I8Packed(w.x, x.x) + dot4I8Packed(w.y, x.y) + dot4I8Packed(w.z, x.z)
        + dot4I8Packed(w.w, x.w);
}

// An integer below 2^22 as a number, without a conversion instruction, which are few on most hardware.
fn number(i: i32) -> f32 {
    return bitcast<f32>(u32(i + 0x4b400000)) - 12582912.0;
}

struct Rounded { bytes: vec4u, scale: f32, sum: i32 }

// Sixteen values of a row, by two neighbouring threads for each 32; all threads of the two come by.
fn rounded_16(v: array<vec4f, 4>) -> Rounded {
    let a = max(max(bitcast<vec4u>(abs(v[0])), bitcast<vec4u>(abs(v[1]))),
        max(bitcast<vec4u>(abs(v[2])), bitcast<vec4u>(abs(v[3]))));
    var largest = max(max(a.x, a.y), max(a.z, a.w)); // as bits, so that NaN is the largest
    largest = max(largest, subgroupShuffleXor(largest, 1u));
    let m = bitcast<f32>(largest);
    let inverse = select(0.0, 127.0 / m, largest != 0u);
    var r: Rounded;
    r.bytes = vec4u(
        pack4xI8(vec4i(round(inverse * v[0]))), pack4xI8(vec4i(round(inverse * v[1]))),
        pack4xI8(vec4i(round(inverse * v[2]))), pack4xI8(vec4i(round(inverse * v[3]))));
    r.scale = m * (1.0 / 127.0);
    r.sum = dot16(vec4u(0x01010101u), r.bytes, 0);
    return r;
}

// Puts what was made of sixteen values where products look for it.
fn put_rounded(at: u32, r: Rounded) {
    x8[place(at)] = r.bytes;
    if (at & 1u) == 0u { x8_scales[scale_place(at)] = r.scale; }
//#if SUMS
    x8_sums[sum_place(at)] = r.sum;
//#endif
}
fn put_16(at: u32, v: array<vec4f, 4>) { put_rounded(at, rounded_16(v)); }
