// Q4_K: a piece is a vector of bits: 16 weights of each of two neighbouring groups of 32.
//#prefixed formats/k_scales
const $P_VALUES = 32u;
fn $P_x(piece: u32, j: u32) -> u32 { return 4u * (piece >> 1u) + 2u * j + (piece & 1u); }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw { return Raw($P_q[9u * (i >> 3u) + 1u + (i & 7u)], 9u * (i >> 3u), (i & 6u)); }
fn $P_dot(w: Raw, x: Meets) -> f32 {
    let s = $P_q[w.a];
    var sum = 0.0;
    //#repeat j 2
    {
        let q = (w.v >> vec4u(4u * $ju)) & vec4u(0x0f0f0f0fu);
        let scale = $P_scales(s, w.b + $ju);
        sum += x.d[$j] * (scale.x * number(dot16(q, x.v[$j], 0))
            - scale.y * number(x.sums[$j]));
    }
    //#end
    return sum;
}
