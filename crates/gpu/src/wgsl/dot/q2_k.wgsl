// Q2_K: a piece is a vector of bits: 16 weights of each of the four groups of 32 in half a block.
const $P_VALUES = 64u;
fn $P_x(piece: u32, j: u32) -> u32 { return (piece & ~3u) * 4u + 8u * ((piece >> 1u) & 1u) + 2u * j + (piece & 1u); }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw {
    let at = 5u * (i >> 2u);
    let half = (i >> 1u) & 1u;
    let scales = $P_q[at];
    let words = select(scales.xy, scales.zw, half == 1u) >> vec2u(8u * (i & 1u));
    // Scale and minimum of four groups of 16, a byte each.
    return Raw($P_q[at + 1u + (i & 3u)], (words.x & 0x00ff00ffu) | ((words.y & 0x00ff00ffu) << 8u), $P_s[i >> 2u]);
}
fn $P_dot(w: Raw, x: Meets) -> f32 {
    let d = unpack2x16float(w.b);
    var sum = 0.0;
    var least = 0.0;
    //#repeat j 4
    {
        // Groups 0 and 2 are the low halves of the two words, so the bytes are in the order 0, 2, 1, 3.
        let byte = (w.a >> (8u * (2u * ($ju % 2u) + $ju / 2u))) & 255u;
        let q = (w.v >> vec4u(2u * $ju)) & vec4u(0x03030303u);
        let products = dot16(q, x.v[$j], 0);
        sum += x.d[$j] * number(i32(byte & 15u) * products);
        least += x.d[$j] * number(i32(byte >> 4u) * x.sums[$j]);
    }
    //#end
    return d.x * sum - d.y * least;
}
