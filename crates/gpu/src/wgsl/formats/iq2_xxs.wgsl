// IQ2_XXS: a group of 32 is half a vector: four code book rows, then signs and scale. The second plane
// begins with the code book (128 words); `d` is half `block` after it.
//
// Four signed bytes are made at a time, 128 added: a byte 128 + m becomes 128 - m by inverting it and adding one, which
// never carries since m is not zero.
//#include formats/iq2_grid
//#include iq2_signs
fn $P_signed(magnitudes: u32, signs: u32) -> u32 {
    let minus = signs & 0x01010101u;
    return (magnitudes ^ (minus * 255u)) + minus;
}
fn $P_unit(i: u32) -> Unit {
    let block = i >> 3u;
    let v = $P_q[i >> 1u];
    let g = select(v.xy, v.zw, (i & 1u) == 1u);
    var u: Unit;
    u.scale = half_at($P_s[128u + (block >> 1u)], block & 1u) * (0.5 + f32(g.y >> 28u)) * 0.25;
    let signs = iq2_signs(g.y);
    //#repeat k 4
    let row$k = iq2_grid[(g.x >> (8u * $ku)) & 255u];
    u.w[2 * $k] = signed_bytes($P_signed(row$k.x, signs >> $ku));
    u.w[2 * $k + 1] = signed_bytes($P_signed(row$k.y, signs >> ($ku + 4u)));
    //#end
    return u;
}
//#if HALVES
fn $P_bits(i: u32) -> Bits {
    return Bits(array<vec4u, 3>($P_q[i >> 1u], vec4u(), vec4u()), $P_s[128u + (i >> 4u)], 0u);
}
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> {
    let v = bits.v[0];
    let g = select(v.xy, v.zw, (i & 1u) == 1u);
    let d = half_at(bits.s, (i >> 3u) & 1u) * (0.5 + f32(g.y >> 28u)) * 0.25;
    let scale = half_scale(d, there, 43.0);
    var h: array<vec4<f16>, 8>;
    let signs = iq2_signs(g.y);
    //#repeat k 4
    let row$k = iq2_grid[(g.x >> (8u * $ku)) & 255u];
    h[2 * $k] = scale * (half_bytes($P_signed(row$k.x, signs >> $ku)) - 1152.0h);
    h[2 * $k + 1] = scale * (half_bytes($P_signed(row$k.y, signs >> ($ku + 4u))) - 1152.0h);
    //#end
    return h;
}
//#endif
