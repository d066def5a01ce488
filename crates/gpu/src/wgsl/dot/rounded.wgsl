// Values in 8 bits on their way from one kernel to the next: three vectors for each 32, their bytes, then their scale and the
// sums of the first 16 and of the others.
//#if ROUNDS

// Sixteen values, by two neighbouring threads for each 32; all threads of the two come by.
fn hand_over(begin: u32, at: u32, v: array<vec4f, 4>) {
    let r = rounded_16(v);
    let sums = vec2i(r.sum, subgroupShuffleXor(r.sum, 1u));
    h[begin + 3u * (at / 2u) + (at & 1u)] = r.bytes;
    if (at & 1u) == 0u { h[begin + 3u * (at / 2u) + 2u] = vec4u(bitcast<u32>(r.scale), bitcast<vec2u>(sums), 0u); }
}
//#endif
//#if ROUNDED

fn take_over(begin: u32, at: u32) -> Rounded {
    let about = h[begin + 3u * (at / 2u) + 2u];
    let sum = bitcast<i32>(select(about.y, about.z, (at & 1u) == 1u));
    return Rounded(h[begin + 3u * (at / 2u) + (at & 1u)], bitcast<f32>(about.x), sum);
}
//#endif
