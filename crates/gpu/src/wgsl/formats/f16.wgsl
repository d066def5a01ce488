// F16: 32 weights in 64 bytes.
fn $P_unit(i: u32) -> Unit {
    let at = 4u * i;
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 4
    let v$k = $P_q[at + $ku];
    u.w[2 * $k] = vec4f(unpack2x16float(v$k.x), unpack2x16float(v$k.y));
    u.w[2 * $k + 1] = vec4f(unpack2x16float(v$k.z), unpack2x16float(v$k.w));
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
