// IQ2_XXS: a group of 32 is half a vector: four code book rows, then signs and scale. The second plane
// begins with the code book (128 words, eight 2-bit levels a row); `d` is half `block` after it.
//
// A level c stands for 8 + 17 c + (c >> 1), which stays inside its byte. The eighth sign of each eight
// makes their number even. Four signed bytes are made at a time: a byte is negated by inverting it and
// adding one, which never carries since it is not zero.
fn $P_signed(level: u32, signs: u32) -> vec4f {
    let c = (level & 3u) | ((level & 12u) << 6u) | ((level & 48u) << 12u) | ((level & 192u) << 18u);
    let magnitudes = 0x08080808u + 17u * c + ((c >> 1u) & 0x01010101u);
    let minus = ((signs & 15u) * 0x00204081u) & 0x01010101u;
    let signed = (magnitudes ^ (minus * 255u)) + minus;
    return bytes(signed ^ 0x80808080u) - 128.0;
}
fn $P_unit(i: u32) -> Unit {
    let block = i >> 3u;
    let v = $P_q[i >> 1u];
    let g = select(v.xy, v.zw, (i & 1u) == 1u);
    var u: Unit;
    u.scale = half_at($P_s[128u + (block >> 1u)], block & 1u) * (0.5 + f32(g.y >> 28u)) * 0.25;
    //#repeat k 4
    let row$k = (g.x >> (8u * $ku)) & 255u;
    let levels$k = ($P_s[row$k >> 1u] >> (16u * (row$k & 1u))) & 0xffffu;
    let seven$k = (g.y >> (7u * $ku)) & 127u;
    let signs$k = seven$k | ((countOneBits(seven$k) & 1u) << 7u);
    u.w[2 * $k] = $P_signed(levels$k & 255u, signs$k);
    u.w[2 * $k + 1] = $P_signed(levels$k >> 8u, signs$k >> 4u);
    //#end
    return u;
}
