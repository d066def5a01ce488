// Reading cached rows: 16 consecutive values of the row that begins at vector `at` of `kv`.
//
// A row on the device is whole vectors of 16 bytes. LATENT8: E4M3 codes, bf16 tail, scale bytes.
// INDEX4: E2M1 codes, scale bytes. Both widen through f16, which has their values and exponents.
//#include e8m0
alias Sixteen = array<vec4f, 4>;

//#if LATENT8
const CODES = (WIDTH - ROPE) / 16u; // pieces of codes, ahead of the tail

// Four E4M3 codes, divided by 256: sign, 4 bits of exponent and 3 of mantissa move to where f16 has them, whose
// exponent bias is larger by 8.
fn e4m3(w: u32) -> vec4f {
    let even = ((w & 0x007f007fu) << 7u) | ((w & 0x00800080u) << 8u);
    let odd = ((w & 0x7f007f00u) >> 1u) | (w & 0x80008000u);
    let a = unpack2x16float(even);
    let b = unpack2x16float(odd);
    return vec4f(a.x, b.x, a.y, b.y);
}
//#endif

// 16 values of a row as they lie there, with a word that has their scale. Nothing is done with what is loaded, so
// that many loads can be under way.
//#if ROWS_F32
struct Packed { v: array<vec4u, 4>, scales: u32 }
//#endif
//#if ROWS_F16 || LATENT8
struct Packed { v: array<vec4u, 2>, scales: u32 }
//#endif
//#if INDEX4
struct Packed { v: array<vec4u, 1>, scales: u32 }
//#endif

fn packed_16(at: u32, i: u32) -> Packed {
    var x: Packed;
//#if ROWS_F32
    //#repeat k 4
    x.v[$k] = kv[at + 4u * i + $ku];
    //#end
//#endif
//#if ROWS_F16
    //#repeat k 2
    x.v[$k] = kv[at + 2u * i + $ku];
    //#end
//#endif
//#if LATENT8
    // The tail has two vectors; codes have one, which is taken twice.
    let tail = select(0u, i - CODES, i >= CODES);
    x.v[0] = kv[at + i + tail];
    x.v[1] = kv[at + i + tail + select(0u, 1u, i >= CODES)];
    let block = min(i, CODES - 1u) / 4u;
    x.scales = kv[at + CODES + ROPE / 8u + block / 16u][(block / 4u) % 4u];
//#endif
//#if INDEX4
    let v = kv[at + i / 2u];
    let block = i / 2u;
    x.v[0] = vec4u(select(v.xy, v.zw, i % 2u == 1u), 0u, 0u);
    x.scales = kv[at + WIDTH / 32u + block / 16u][(block / 4u) % 4u];
//#endif
    return x;
}

// What the 16 values of `unscaled` are to be multiplied by.
fn scale_of(x: Packed, i: u32) -> f32 {
//#if LATENT8
    return select(1.0, 256.0 * e8m0((x.scales >> (8u * (i / 4u % 4u))) & 255u), i < CODES);
//#else
//#if INDEX4
    return 16384.0 * e8m0((x.scales >> (8u * (i / 2u % 4u))) & 255u);
//#else
    return 1.0;
//#endif
//#endif
}

fn unscaled(x: Packed, i: u32) -> Sixteen {
    var y: Sixteen;
//#if ROWS_F32
    //#repeat k 4
    y[$k] = bitcast<vec4f>(x.v[$k]);
    //#end
//#endif
//#if ROWS_F16
    //#repeat k 2
    y[2 * $k] = vec4f(unpack2x16float(x.v[$k].x), unpack2x16float(x.v[$k].y));
    y[2 * $k + 1] = vec4f(unpack2x16float(x.v[$k].z), unpack2x16float(x.v[$k].w));
    //#end
//#endif
//#if LATENT8
    // Either for all lanes: they would wait for each other's branch.
    //#repeat k 2
    let v$k = x.v[$k];
    y[2 * $k] = bitcast<vec4f>(vec4u(v$k.x << 16u, v$k.x & 0xffff0000u, v$k.y << 16u, v$k.y & 0xffff0000u));
    y[2 * $k + 1] = bitcast<vec4f>(vec4u(v$k.z << 16u, v$k.z & 0xffff0000u, v$k.w << 16u, v$k.w & 0xffff0000u));
    //#end
    //#repeat k 4
    y[$k] = select(y[$k], e4m3(x.v[0][$k]), i < CODES);
    //#end
//#endif
//#if INDEX4
    //#repeat k 2
    // Nibbles 0, 2, 4, 6 and 1, 3, 5, 7 of the word: sign, 2 bits of exponent and one of mantissa go to
    // where f16 has them, whose bias is larger by 14.
    let w$k = x.v[0][$k];
    let a$k = unpack2x16float(((w$k & 0x7u) << 9u) | ((w$k & 0x8u) << 12u)
        | (((w$k >> 8u) & 0x7u) << 25u) | (((w$k >> 8u) & 0x8u) << 28u));
    let b$k = unpack2x16float((((w$k >> 4u) & 0x7u) << 9u) | (((w$k >> 4u) & 0x8u) << 12u)
        | (((w$k >> 12u) & 0x7u) << 25u) | (((w$k >> 12u) & 0x8u) << 28u));
    let c$k = unpack2x16float((((w$k >> 16u) & 0x7u) << 9u) | (((w$k >> 16u) & 0x8u) << 12u)
        | (((w$k >> 24u) & 0x7u) << 25u) | (((w$k >> 24u) & 0x8u) << 28u));
    let d$k = unpack2x16float((((w$k >> 20u) & 0x7u) << 9u) | (((w$k >> 20u) & 0x8u) << 12u)
        | (((w$k >> 28u) & 0x7u) << 25u) | (((w$k >> 28u) & 0x8u) << 28u));
    y[2 * $k] = vec4f(a$k.x, b$k.x, a$k.y, b$k.y);
    y[2 * $k + 1] = vec4f(c$k.x, d$k.x, c$k.y, d$k.y);
    //#end
//#endif
    return y;
}

fn row_16(at: u32, i: u32) -> Sixteen {
    let x = packed_16(at, i);
    var y = unscaled(x, i);
//#if LATENT8 || INDEX4
    let scale = scale_of(x, i);
    //#repeat k 4
    y[$k] *= scale;
    //#end
//#endif
    return y;
}
