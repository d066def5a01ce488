// F32: 32 weights in 128 bytes.
fn $P_unit(i: u32) -> Unit {
    let at = 8u * i;
    var u: Unit;
    u.scale = 1.0;
    //#repeat k 8
    u.w[$k] = bitcast<vec4f>($P_q[at + $ku]);
    //#end
    return u;
}
//#if HALVES
//#prefixed formats/halves_of_unit
//#endif
