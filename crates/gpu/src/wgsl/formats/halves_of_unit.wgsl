// Of a unit of $P, loaded when it is decoded.
fn $P_bits(i: u32) -> Bits { return Bits(); }
fn $P_halves(bits: Bits, i: u32, there: bool) -> array<vec4<f16>, 8> { return halves($P_unit(i), there); }
