// Q8_0: 32 signed bytes in two vectors; the scale is half `i` of the second plane.
fn $P_unit(i: u32) -> Unit {
    let d = half_at($P_s[i >> 1u], i & 1u);
    var u: Unit;
    u.scale = d;
    //#repeat k 2
    let v$k = $P_q[2u * i + $ku] ^ vec4u(0x80808080u);
    u.w[4 * $k] = signed_bytes(v$k.x);
    u.w[4 * $k + 1] = signed_bytes(v$k.y);
    u.w[4 * $k + 2] = signed_bytes(v$k.z);
    u.w[4 * $k + 3] = signed_bytes(v$k.w);
    //#end
    return u;
}
//#if HALVES
fn $P_bits(i: u32) -> Bits {
    return Bits(array<vec4u, 3>($P_q[2u * i], $P_q[2u * i + 1u], vec4u()), $P_s[i >> 1u], 0u);
}
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
    let scale = half_scale(half_at(bits.s, i & 1u), there, 128.0);
    var h: array<vec4<f16>, 8>;
    //#repeat k 2
    let v$k = bits.v[$k] ^ vec4u(0x80808080u);
    h[4 * $k] = scale * (half_bytes(v$k.x) - 1152.0h);
    h[4 * $k + 1] = scale * (half_bytes(v$k.y) - 1152.0h);
    h[4 * $k + 2] = scale * (half_bytes(v$k.z) - 1152.0h);
    h[4 * $k + 3] = scale * (half_bytes(v$k.w) - 1152.0h);
    //#end
    return h;
}
//#endif
