// IQ2_XXS: a group of 32 is half a vector: four code book rows, then signs and scale. The second plane
// begins with the code book (128 words, eight 2-bit levels a row); `d` is half `block` after it.
//
// A level c stands for 8 + 17 c + (c >> 1), which stays inside its byte. The eighth sign of each eight
// makes their number even.
fn $P_levels(level: u32) -> vec4f {
    let c = (level & 3u) | ((level & 12u) << 6u) | ((level & 48u) << 12u) | ((level & 192u) << 18u);
    return bytes(0x08080808u + 17u * c + ((c >> 1u) & 0x01010101u));
}
fn $P_signed(x: vec4f, signs: u32) -> vec4f {
    let minus = (vec4u(signs) << vec4u(31u, 30u, 29u, 28u)) & vec4u(0x80000000u);
    return bitcast<vec4f>(bitcast<vec4u>(x) ^ minus);
}
fn $P_unit(i: u32) -> Unit {
    let block = i >> 3u;
    let v = $P_q[i >> 1u];
    let g = select(v.xy, v.zw, (i & 1u) == 1u);
    let d = half_at($P_s[128u + (block >> 1u)], block & 1u) * (0.5 + f32(g.y >> 28u)) * 0.25;
    var w: Unit;
    //#repeat k 4
    let row$k = (g.x >> (8u * $ku)) & 255u;
    let levels$k = ($P_s[row$k >> 1u] >> (16u * (row$k & 1u))) & 0xffffu;
    let seven$k = (g.y >> (7u * $ku)) & 127u;
    let signs$k = seven$k | ((countOneBits(seven$k) & 1u) << 7u);
    w[2 * $k] = d * $P_signed($P_levels(levels$k & 255u), signs$k);
    w[2 * $k + 1] = d * $P_signed($P_levels(levels$k >> 8u), signs$k >> 4u);
    //#end
    return w;
}
