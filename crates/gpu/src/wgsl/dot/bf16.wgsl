// BF16: a piece is eight weights; each is the upper half of an f32.
const $P_VALUES = 8u;
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], 0u, 0u); }
//#prefixed dot/floats
fn $P_pair(w: vec2u) -> vec4f {
    return bitcast<vec4f>(vec4u(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
fn $P_dot(w: Raw, x: Floats) -> f32 {
    return dot($P_pair(w.v.xy), x.even) + dot($P_pair(w.v.zw), x.odd);
}
