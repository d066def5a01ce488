// What is loaded of a unit, ahead of decoding it: whole vectors, and where scales are.
struct Bits { v: array<vec4u, 3>, s: u32, t: u32 }

// Weights for matrix units: f16, four of them in the order 0, 2, 1, 3, multiplied by STEEP so that small ones keep
// their bits. What is too large for f16 becomes its largest. `there` is whether the row has this unit: others are 0.
fn halves(unit: Unit, there: bool) -> array<vec4<f16>, 8> {
    let scale = select(0.0, f32(STEEP) * unit.scale, there);
    var h: array<vec4<f16>, 8>;
    //#repeat k 8
    h[$k] = vec4<f16>(clamp(scale * unit.w[$k], vec4f(-65504.0), vec4f(65504.0))).xzyw;
    //#end
    return h;
}

// The four bytes of a word, 1024 added. An f16 of 1024 and more has its ones in the lowest bit, so no conversion is
// needed.
fn half_bytes(w: u32) -> vec4<f16> {
    let even = unpack2x16float((w & 0x00ff00ffu) | 0x64006400u);
    let odd = unpack2x16float(((w >> 8u) & 0x00ff00ffu) | 0x64006400u);
    return vec4<f16>(vec2<f16>(even), vec2<f16>(odd));
}

// A scale or minimum in f16, small enough for its products with so large a number.
fn half_scale(scale: f32, there: bool, most: f32) -> f16 {
    let limit = 65504.0 / most;
    return f16(clamp(select(0.0, f32(STEEP) * scale, there), -limit, limit));
}
