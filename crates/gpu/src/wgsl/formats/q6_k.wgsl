// Q6_K: a block of 256 is thirteen vectors: eight of low nibbles, four of high bits, one of signed
// scales; `d` is half `block` of the second plane. A unit is two groups of 16.
fn $P_unit(i: u32) -> Unit {
    let block = i >> 3u;
    let at = 13u * block;
    let j = i & 7u;
    let part = j >> 2u;
    let k = j & 3u;
    let scales = $P_q[at + 12u][j >> 1u] >> (16u * (j & 1u));
    let d = half_at($P_s[block >> 1u], block & 1u)
        * vec2f(f32(extractBits(i32(scales), 0u, 8u)), f32(extractBits(i32(scales), 8u, 8u)));
    let start_at = at + 4u * part + 2u * (k & 1u);
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 2
    let v$k = (($P_q[start_at + $ku] >> vec4u(4u * (k >> 1u))) & vec4u(0x0f0f0f0fu))
        | ((($P_q[at + 8u + 2u * part + $ku] >> vec4u(2u * k)) & vec4u(0x03030303u)) << vec4u(4u));
    u.w[4 * $k] = d[$k] * (bytes(v$k.x) - 32.0);
    u.w[4 * $k + 1] = d[$k] * (bytes(v$k.y) - 32.0);
    u.w[4 * $k + 2] = d[$k] * (bytes(v$k.z) - 32.0);
    u.w[4 * $k + 3] = d[$k] * (bytes(v$k.w) - 32.0);
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
