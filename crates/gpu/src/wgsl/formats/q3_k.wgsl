// Q3_K: a block of 256 is seven vectors: two of high bits, four of low bits, one with the packed
// 6-bit scales and `d` behind them. A unit is two groups of 16.
fn $P_scale(s: vec4u, g: u32) -> f32 {
    let low = (s[(g & 7u) >> 2u] >> (8u * (g & 3u) + 4u * (g >> 3u))) & 15u;
    let high = (s.z >> (8u * (g & 3u) + 2u * (g >> 2u))) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}
fn $P_unit(i: u32) -> Unit {
    let at = 7u * (i >> 3u);
    let j = i & 7u;
    let s = $P_q[at + 6u];
    let d = unpack2x16float(s.w).x * vec2f($P_scale(s, 2u * j), $P_scale(s, 2u * j + 1u));
    let shift = 2u * (j & 3u);
    let start_at = at + 2u + 2u * (j >> 2u);
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 2
    let v$k = (($P_q[start_at + $ku] >> vec4u(shift)) & vec4u(0x03030303u))
        | ((($P_q[at + $ku] >> vec4u(j)) & vec4u(0x01010101u)) << vec4u(2u));
    u.w[4 * $k] = d[$k] * (bytes(v$k.x) - 4.0);
    u.w[4 * $k + 1] = d[$k] * (bytes(v$k.y) - 4.0);
    u.w[4 * $k + 2] = d[$k] * (bytes(v$k.z) - 4.0);
    u.w[4 * $k + 3] = d[$k] * (bytes(v$k.w) - 4.0);
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
