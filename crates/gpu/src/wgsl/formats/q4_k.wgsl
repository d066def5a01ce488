// Q4_K: a block of 256 is nine vectors, as in the file. A unit is one group.
//#prefixed formats/k_scales
fn $P_unit(i: u32) -> Unit {
    let at = 9u * (i >> 3u);
    let j = i & 7u;
    let s = $P_scales($P_q[at], j);
    let start_at = at + 1u + 2u * (j >> 1u);
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 2
    let v$k = ($P_q[start_at + $ku] >> vec4u(4u * (j & 1u))) & vec4u(0x0f0f0f0fu);
    u.w[4 * $k] = s.x * bytes(v$k.x) - s.y;
    u.w[4 * $k + 1] = s.x * bytes(v$k.y) - s.y;
    u.w[4 * $k + 2] = s.x * bytes(v$k.z) - s.y;
    u.w[4 * $k + 3] = s.x * bytes(v$k.w) - s.y;
    //#end
    return u;
}
//#if HALVES
fn $P_bits(i: u32) -> Bits {
    let at = 9u * (i >> 3u);
    let bits = at + 1u + 2u * ((i >> 1u) & 3u);
    return Bits(array<vec4u, 3>($P_q[bits], $P_q[bits + 1u], $P_q[at]), 0u, 0u);
}
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
    let s = $P_scales(bits.v[2], i & 7u);
    let d = half_scale(s.x, there, 30.0);
    let m = half_scale(s.y, there, 2.0);
    var h: array<vec4<f16>, 8>;
    //#repeat k 2
    let v$k = (bits.v[$k] >> vec4u(4u * (i & 1u))) & vec4u(0x0f0f0f0fu);
    h[4 * $k] = d * (half_bytes(v$k.x) - 1024.0h) - m;
    h[4 * $k + 1] = d * (half_bytes(v$k.y) - 1024.0h) - m;
    h[4 * $k + 2] = d * (half_bytes(v$k.z) - 1024.0h) - m;
    h[4 * $k + 3] = d * (half_bytes(v$k.w) - 1024.0h) - m;
    //#end
    return h;
}
//#endif
