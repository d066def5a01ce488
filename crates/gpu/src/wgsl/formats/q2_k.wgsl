// Q2_K: a block of 256 is five vectors, first the 16 scales and minima, then the bits; `d` and `dmin`
// are a word of the second plane. A unit is two groups of 16.
fn $P_unit(i: u32) -> Unit {
    let block = i >> 3u;
    let j = i & 7u;
    let unit = unpack2x16float($P_s[block]);
    let at = 5u * block;
    let scales = ($P_q[at][j >> 1u] >> (16u * (j & 1u)));
    let d = unit.x * vec2f(f32(scales & 15u), f32((scales >> 8u) & 15u));
    let m = unit.y * vec2f(f32((scales >> 4u) & 15u), f32((scales >> 12u) & 15u));
    let shift = 2u * (j & 3u);
    let start_at = at + 1u + 2u * (j >> 2u);
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 2
    let v$k = ($P_q[start_at + $ku] >> vec4u(shift)) & vec4u(0x03030303u);
    u.w[4 * $k] = d[$k] * bytes(v$k.x) - m[$k];
    u.w[4 * $k + 1] = d[$k] * bytes(v$k.y) - m[$k];
    u.w[4 * $k + 2] = d[$k] * bytes(v$k.z) - m[$k];
    u.w[4 * $k + 3] = d[$k] * bytes(v$k.w) - m[$k];
    //#end
    return u;
}
//#if HALVES
fn $P_bits(i: u32) -> Bits {
    let at = 5u * (i >> 3u);
    let bits = at + 1u + 2u * ((i >> 2u) & 1u);
    let scales = $P_q[at][(i >> 1u) & 3u] >> (16u * (i & 1u));
    return Bits(array<vec4u, 3>($P_q[bits], $P_q[bits + 1u], vec4u()), $P_s[i >> 3u], scales);
}
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
    let unit = unpack2x16float(bits.s);
    let scales = bits.t;
    let shift = 2u * (i & 3u);
    var h: array<vec4<f16>, 8>;
    //#repeat k 2
    let d$k = half_scale(unit.x * f32((scales >> (8u * $ku)) & 15u), there, 6.0);
    let m$k = half_scale(unit.y * f32((scales >> (8u * $ku + 4u)) & 15u), there, 2.0);
    let v$k = (bits.v[$k] >> vec4u(shift)) & vec4u(0x03030303u);
    h[4 * $k] = d$k * (half_bytes(v$k.x) - 1024.0h) - m$k;
    h[4 * $k + 1] = d$k * (half_bytes(v$k.y) - 1024.0h) - m$k;
    h[4 * $k + 2] = d$k * (half_bytes(v$k.z) - 1024.0h) - m$k;
    h[4 * $k + 3] = d$k * (half_bytes(v$k.w) - 1024.0h) - m$k;
    //#end
    return h;
}
//#endif
