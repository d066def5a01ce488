// Q5_K: a block of 256 is eleven vectors, as in the file: scales, two of high bits, eight of nibbles.
//#prefixed formats/k_scales
fn $P_unit(i: u32) -> Unit {
    let at = 11u * (i >> 3u);
    let j = i & 7u;
    let s = $P_scales($P_q[at], j);
    let start_at = at + 3u + 2u * (j >> 1u);
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 2
    let v$k = (($P_q[start_at + $ku] >> vec4u(4u * (j & 1u))) & vec4u(0x0f0f0f0fu))
        | ((($P_q[at + 1u + $ku] >> vec4u(j)) & vec4u(0x01010101u)) << vec4u(4u));
    u.w[4 * $k] = s.x * bytes(v$k.x) - s.y;
    u.w[4 * $k + 1] = s.x * bytes(v$k.y) - s.y;
    u.w[4 * $k + 2] = s.x * bytes(v$k.z) - s.y;
    u.w[4 * $k + 3] = s.x * bytes(v$k.w) - s.y;
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
