// Sorts as the float does, -0 equal to 0 and NaN below everything.
fn ordered(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if (bits & 0x7fffffffu) > 0x7f800000u { return 0u; }
    if bits == 0x80000000u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
