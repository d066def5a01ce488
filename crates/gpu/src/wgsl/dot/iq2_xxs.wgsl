// IQ2_XXS: a piece is two groups of 32; see the format for what is where. A row of the code book is two words of
// magnitudes m; of their products with x those with a minus sign are taken off twice.
//#include dot/iq2_grid
//#include iq2_signs
const $P_VALUES = 64u;
fn $P_x(piece: u32, j: u32) -> u32 { return 4u * piece + j; }
//#prefixed dot/meets
fn $P_load(i: u32) -> Raw { return Raw($P_q[i], $P_s[128u + (i >> 3u)], i); }
// Bytes that are all ones where a sign is.
fn $P_minus(signs: u32) -> u32 { return (signs & 0x01010101u) * 255u; }
fn $P_dot(w: Raw, x: Meets) -> f32 {
    let d = half_at(w.a, (w.b >> 2u) & 1u) * 0.25;
    var sum = 0.0;
    //#repeat u 2
    {
        let rows = w.v[2 * $u];
        let word = w.v[2 * $u + 1];
        let signs = iq2_signs(word);
        var all = 0;
        var minus = 0;
        //#repeat k 4
        {
            let row = iq2_grid[(rows >> (8u * $ku)) & 255u];
            let low = x.v[2 * $u + $k / 2][2 * ($k % 2)];
            let high = x.v[2 * $u + $k / 2][2 * ($k % 2) + 1];
            all += dot4I8Packed(row.x, low) + dot4I8Packed(row.y, high);
            minus += dot4I8Packed(row.x & $P_minus(signs >> $ku), low)
                + dot4I8Packed(row.y & $P_minus(signs >> ($ku + 4u)), high);
        }
        //#end
        sum += (0.5 + f32(word >> 28u)) * x.d[2 * $u] * number(all - 2 * minus);
    }
    //#end
    return d * sum;
}
