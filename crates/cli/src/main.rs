//! The binary `ds4`.
fn main() {}
