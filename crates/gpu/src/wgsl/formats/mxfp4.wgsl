// MXFP4: 32 codes in one vector, low nibbles first; the exponent is byte `i` of the second plane.
//
// Twice the value of a code is an integer: with its bits c2 c1 c0 it is c + c2 (c0 + 2 c1 + 2 c0 c1).
// A scale below 2^-126 counts as zero.
fn $P_codes(n: u32) -> vec4f {
    let c = n & 0x07070707u;
    let c2 = (c >> 2u) & 0x01010101u;
    let c0 = c & c2;
    let c1 = (c >> 1u) & c2;
    let doubled = bytes(c + c0 + 2u * (c1 + (c0 & c1)));
    let signs = (vec4u(n) << vec4u(28u, 20u, 12u, 4u)) & vec4u(0x80000000u);
    return bitcast<vec4f>(bitcast<vec4u>(doubled) | signs);
}
fn $P_unit(i: u32) -> Unit {
    let e = ($P_s[i >> 2u] >> (8u * (i & 3u))) & 255u;
    let d = 0.5 * bitcast<f32>(e << 23u);
    let v = $P_q[i];
    var u: Unit;
    u.scale = d;
    u.w[0] = $P_codes(v.x);
    u.w[1] = $P_codes(v.y);
    u.w[2] = $P_codes(v.z);
    u.w[3] = $P_codes(v.w);
    u.w[4] = $P_codes(v.x >> 4u);
    u.w[5] = $P_codes(v.y >> 4u);
    u.w[6] = $P_codes(v.z >> 4u);
    u.w[7] = $P_codes(v.w >> 4u);
    return u;
}
