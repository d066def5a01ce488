// MXFP4: a piece is a block, low nibbles first. A code is made twice its value, an integer: 0 1 2 3 4 6 8 12.
const $P_VALUES = 32u;
fn $P_x(piece: u32, j: u32) -> u32 { return 2u * piece + j; }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], $P_s[i >> 2u], i); }
fn $P_doubled(codes: vec4u) -> vec4u {
    let low = codes & vec4u(0x03030303u);
    let high = (codes >> vec4u(2u)) & vec4u(0x01010101u);
    // Above 3: 4 + 2 low, and two more for the last.
    let last = low & (low >> vec4u(1u)) & high;
    let size = low + (high << vec4u(2u)) + (low & (high * 3u)) + (last << vec4u(1u));
    let minus = (codes >> vec4u(3u)) & vec4u(0x01010101u);
    // -s is the inverse of s plus one, which carries nowhere but out of zero; a byte 256 is a zero again, one too
    // many above it: so a zero has no sign.
    let signed = minus & ((size + vec4u(0x7f7f7f7fu)) >> vec4u(7u)) & vec4u(0x01010101u);
    return (size ^ (signed * 255u)) + signed;
}
fn $P_dot(w: Raw, x: Meets) -> f32 {
    let e = (w.a >> (8u * (w.b & 3u))) & 255u;
    let sum = x.d.x * number(dot16($P_doubled(w.v & vec4u(0x0f0f0f0fu)), x.v[0], 0))
        + x.d.y * number(dot16($P_doubled((w.v >> vec4u(4u)) & vec4u(0x0f0f0f0fu)), x.v[1], 0));
    return 0.5 * bitcast<f32>(e << 23u) * sum;
}
