// Q8_0: a piece is 16 signed bytes, half a block.
const $P_VALUES = 16u;
fn $P_x(piece: u32, j: u32) -> u32 { return piece; }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], $P_s[i >> 2u], i); }
fn $P_dot(w: Raw, x: Meets) -> f32 {
    return half_at(w.a, (w.b >> 1u) & 1u) * x.d.x * number(dot16(w.v, x.v[0], 0));
}
