// Weights are read in units: 32 consecutive weights of a row, whatever the format. Their common factor
// is kept apart, so that a sum of products takes it once.
struct Unit { w: array<vec4f, 8>, scale: f32 }

// The four bytes of a word as numbers. 2^23 + u is an f32 whose lowest bits are u, so this needs no
// conversion instruction, which are few on most hardware.
fn bytes(w: u32) -> vec4f {
    let u = (vec4u(w) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
    return bitcast<vec4f>(u | vec4u(0x4b000000u)) - 8388608.0;
}

// The same for bytes to which 128 was added.
fn signed_bytes(w: u32) -> vec4f {
    let u = (vec4u(w) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
    return bitcast<vec4f>(u | vec4u(0x4b000000u)) - 8388736.0;
}

// One f16 of a word, the low one first.
fn half_at(w: u32, which: u32) -> f32 {
    return unpack2x16float(w >> (16u * which)).x;
}
