// BF16: 32 weights in 64 bytes; each is the upper half of an f32.
fn $P_pair(w: vec2u) -> vec4f {
    return bitcast<vec4f>(vec4u(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
fn $P_unit(i: u32) -> Unit {
    let at = 4u * i;
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 4
    let v$k = $P_q[at + $ku];
    u.w[2 * $k] = $P_pair(v$k.xy);
    u.w[2 * $k + 1] = $P_pair(v$k.zw);
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
