// What piece `i` of a row of $P meets of the x that begins at vector `start_at`.
fn $P_meets(start_at: u32, i: u32) -> Meets {
    var m: Meets;
    //#repeat j 4
    if 16u * $ju < $P_VALUES {
        m.v[$j] = x8[place(start_at + $P_x(i, $ju))];
        m.d[$j] = x8_scales[scale_place(start_at + $P_x(i, $ju))];
//#if SUMS
        m.sums[$j] = x8_sums[sum_place(start_at + $P_x(i, $ju))];
//#endif
    }
    //#end
    return m;
}
