// The signs of a group of 32 of IQ2_XXS: that of weight 8k + i is bit 8·(i % 4) + 4·(i / 4) + k, so four weights that follow each
// other have theirs at one bit of four bytes. The weights' plane has no eighth one, which makes the number of each eight even,
// but the group's scale in place of those four.
fn iq2_signs(word: u32) -> u32 {
    let seven = word & 0x0fffffffu;
    var odd = seven ^ (seven >> 16u);
    odd ^= odd >> 8u;
    odd ^= odd >> 4u;
    return seven | (odd << 28u);
}
