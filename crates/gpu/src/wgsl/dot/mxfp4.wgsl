// MXFP4: a piece is a block, low nibbles first. A code is made twice its magnitude, an integer: 0 1 2 3 4 6 8 12.
const $P_VALUES = 32u;
fn $P_x(piece: u32, j: u32) -> u32 { return 2u * piece + j; }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], $P_s[i >> 2u], i); }
fn $P_doubled(codes: vec4u) -> vec4u {
    let low = codes & vec4u(0x03030303u);
    let high = (codes >> vec4u(2u)) & vec4u(0x01010101u);
    // Above 3: 4 + 2 low, and two more for the last.
    let last = low & (low >> vec4u(1u)) & high;
    return low + high * 4u + (low & (high * 3u)) + last * 2u;
}
// Products of 16 weights, of which those with a minus sign are taken off twice.
fn $P_sum(codes: vec4u, x: vec4u) -> f32 {
    let size = $P_doubled(codes);
    let minus = ((codes >> vec4u(3u)) & vec4u(0x01010101u)) * 255u;
    return number(dot16(size, x, 0) - 2 * dot16(size & minus, x, 0));
}
fn $P_dot(w: Raw, x: Meets) -> f32 {
    let e = (w.a >> (8u * (w.b & 3u))) & 255u;
    let sum = x.d.x * $P_sum(w.v, x.v[0]) + x.d.y * $P_sum(w.v >> vec4u(4u), x.v[1]);
    return 0.5 * bitcast<f32>(e << 23u) * sum;
}
