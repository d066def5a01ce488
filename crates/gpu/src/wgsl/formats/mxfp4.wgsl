// MXFP4: 32 codes in one vector, low nibbles first; the exponent is byte `i` of the second plane.
//
// Sign, two bits of exponent and one of mantissa move to where f16 has them, two codes at a time; f16's
// exponent bias is larger by 14, which the scale makes up for. A scale below 2^-126 counts as zero.
fn $P_codes(even: u32, odd: u32) -> vec4f {
    let a = unpack2x16float(even);
    let b = unpack2x16float(odd);
    return vec4f(a.x, b.x, a.y, b.y);
}
fn $P_unit(i: u32) -> Unit { return $P_decoded($P_q[i], $P_s[i >> 2u], i); }
fn $P_decoded(v: vec4u, exponents: u32, i: u32) -> Unit {
    let e = (exponents >> (8u * (i & 3u))) & 255u;
    var u: Unit;
    u.scale = 16384.0 * bitcast<f32>(e << 23u);
    //#repeat k 4
    let w$k = v[$k];
    u.w[$k] = $P_codes(
        ((w$k << 9u) & 0x0e000e00u) | ((w$k << 12u) & 0x80008000u),
        ((w$k << 1u) & 0x0e000e00u) | ((w$k << 4u) & 0x80008000u));
    u.w[$k + 4] = $P_codes(
        ((w$k << 5u) & 0x0e000e00u) | ((w$k << 8u) & 0x80008000u),
        ((w$k >> 3u) & 0x0e000e00u) | (w$k & 0x80008000u));
    //#end
    return u;
}
//#if HALVES
fn $P_bits(i: u32) -> Bits { return Bits(array<vec4u, 3>($P_q[i], vec4u(), vec4u()), $P_s[i >> 2u], 0u); }
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
    return halves($P_decoded(bits.v[0], bits.s, i), there);
}
//#endif
