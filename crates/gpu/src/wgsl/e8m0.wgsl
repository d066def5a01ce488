// The power of two that a scale byte stands for; what is no number, if that is the scale of no numbers.
fn e8m0(e: u32) -> f32 {
    return bitcast<f32>((e << 23u) | select(0u, 0x400000u, e == 255u));
}
