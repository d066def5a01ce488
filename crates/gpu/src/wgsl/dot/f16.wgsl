// F16: a piece is eight weights.
const $P_VALUES = 8u;
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], 0u, 0u); }
//#prefixed dot/floats
fn $P_dot(w: Raw, x: Floats) -> f32 {
    return dot(vec4f(unpack2x16float(w.v.x), unpack2x16float(w.v.y)), x.even)
        + dot(vec4f(unpack2x16float(w.v.z), unpack2x16float(w.v.w)), x.odd);
}
