// The code book of IQ2_XXS in workgroup memory: 256 rows of eight magnitudes, a byte each, with the top bit
// set. In the file's plane it is 128 words, eight 2-bit levels a row; level c stands for
// 8 + 17 c + (c >> 1), which stays inside its byte.
var<workgroup> iq2_grid: array<vec2u, 256>;
fn iq2_magnitudes(level: u32) -> u32 {
    let c = (level & 3u) | ((level & 12u) << 6u) | ((level & 48u) << 12u) | ((level & 192u) << 18u);
    return 0x88888888u + 17u * c + ((c >> 1u) & 0x01010101u);
}
fn prepare(thread: u32) {
    for (var i = thread; i < 256u; i += THREADS) {
        let levels = ($P_s[i >> 1u] >> (16u * (i & 1u))) & 0xffffu;
        iq2_grid[i] = vec2u(iq2_magnitudes(levels & 255u), iq2_magnitudes(levels >> 8u));
    }
    workgroupBarrier();
}
