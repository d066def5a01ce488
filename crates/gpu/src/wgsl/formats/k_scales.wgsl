// The 6-bit scale and minimum of group `j`, times `d` and `dmin`; `s` is the first vector of a Q4_K or
// Q5_K block.
fn $P_scales(s: vec4u, j: u32) -> vec2f {
    let k = 8u * (j & 3u);
    let a = (s.y >> k) & 255u;
    let b = (s.z >> k) & 255u;
    let c = (s.w >> k) & 255u;
    let first = vec2u(a & 63u, b & 63u);
    let last = vec2u((c & 15u) | ((a >> 6u) << 4u), (c >> 4u) | ((b >> 6u) << 4u));
    return unpack2x16float(s.x) * vec2f(select(last, first, j < 4u));
}
