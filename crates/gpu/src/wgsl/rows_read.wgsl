// Reading cached rows: 16 consecutive values of the row that begins at vector `at` of `kv`.
//
// A row on the device is whole vectors of 16 bytes. LATENT8: E4M3 codes, bf16 tail, scale bytes.
// INDEX4: E2M1 codes, scale bytes. Both widen through f16, which has their values and exponents.
alias Sixteen = array<vec4f, 4>;

fn e8m0(e: u32) -> f32 {
    return bitcast<f32>((e << 23u) | select(0u, 0x400000u, e == 255u));
}

//#if LATENT8
// Four E4M3 codes: sign, 4 bits of exponent and 3 of mantissa move to where f16 has them; f16's
// exponent bias is larger by 8.
fn e4m3(w: u32) -> vec4f {
    let even = ((w & 0x007f007fu) << 7u) | ((w & 0x00800080u) << 8u);
    let odd = ((w & 0x7f007f00u) >> 1u) | (w & 0x80008000u);
    let a = unpack2x16float(even);
    let b = unpack2x16float(odd);
    return 256.0 * vec4f(a.x, b.x, a.y, b.y);
}
//#endif

fn row_16(at: u32, i: u32) -> Sixteen {
    var x: Sixteen;
//#if ROWS_F32
    //#repeat k 4
    x[$k] = bitcast<vec4f>(kv[at + 4u * i + $ku]);
    //#end
//#endif
//#if ROWS_F16
    //#repeat k 2
    let v$k = kv[at + 2u * i + $ku];
    x[2 * $k] = vec4f(unpack2x16float(v$k.x), unpack2x16float(v$k.y));
    x[2 * $k + 1] = vec4f(unpack2x16float(v$k.z), unpack2x16float(v$k.w));
    //#end
//#endif
//#if LATENT8
    let codes = (WIDTH - ROPE) / 16u;
    if i < codes {
        let v = kv[at + i];
        let block = i / 4u;
        let scales = kv[at + codes + ROPE / 8u + block / 16u];
        let scale = e8m0((scales[(block / 4u) % 4u] >> (8u * (block % 4u))) & 255u);
        x[0] = scale * e4m3(v.x);
        x[1] = scale * e4m3(v.y);
        x[2] = scale * e4m3(v.z);
        x[3] = scale * e4m3(v.w);
    } else {
        //#repeat k 2
        let v$k = kv[at + codes + 2u * (i - codes) + $ku];
        x[2 * $k] = bitcast<vec4f>(vec4u(v$k.x << 16u, v$k.x & 0xffff0000u, v$k.y << 16u, v$k.y & 0xffff0000u));
        x[2 * $k + 1] = bitcast<vec4f>(vec4u(v$k.z << 16u, v$k.z & 0xffff0000u, v$k.w << 16u, v$k.w & 0xffff0000u));
        //#end
    }
//#endif
//#if INDEX4
    let v = kv[at + i / 2u];
    let words = select(v.xy, v.zw, i % 2u == 1u);
    let block = i / 2u;
    let scales = kv[at + WIDTH / 32u + block / 16u];
    let scale = e8m0((scales[(block / 4u) % 4u] >> (8u * (block % 4u))) & 255u);
    //#repeat k 2
    // Nibbles 0, 2, 4, 6 and 1, 3, 5, 7 of the word: sign, 2 bits of exponent and one of mantissa go to
    // where f16 has them, whose bias is larger by 14.
    let w$k = words[$k];
    let a$k = unpack2x16float(((w$k & 0x7u) << 9u) | ((w$k & 0x8u) << 12u)
        | (((w$k >> 8u) & 0x7u) << 25u) | (((w$k >> 8u) & 0x8u) << 28u));
    let b$k = unpack2x16float((((w$k >> 4u) & 0x7u) << 9u) | (((w$k >> 4u) & 0x8u) << 12u)
        | (((w$k >> 12u) & 0x7u) << 25u) | (((w$k >> 12u) & 0x8u) << 28u));
    let c$k = unpack2x16float((((w$k >> 16u) & 0x7u) << 9u) | (((w$k >> 16u) & 0x8u) << 12u)
        | (((w$k >> 24u) & 0x7u) << 25u) | (((w$k >> 24u) & 0x8u) << 28u));
    let d$k = unpack2x16float((((w$k >> 20u) & 0x7u) << 9u) | (((w$k >> 20u) & 0x8u) << 12u)
        | (((w$k >> 28u) & 0x7u) << 25u) | (((w$k >> 28u) & 0x8u) << 28u));
    x[2 * $k] = (16384.0 * scale) * vec4f(a$k.x, b$k.x, a$k.y, b$k.y);
    x[2 * $k + 1] = (16384.0 * scale) * vec4f(c$k.x, d$k.x, c$k.y, d$k.y);
    //#end
//#endif
    return x;
}
