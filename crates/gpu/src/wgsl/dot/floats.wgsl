// What piece `i` of a row of $P, eight weights, meets of x.
fn $P_meets(start_at: u32, i: u32) -> Floats {
    return Floats(xf[4u * start_at + i], xf[4u * (start_at + UNITS) + i]);
}
