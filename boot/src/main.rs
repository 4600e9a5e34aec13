//! Umbra.
fn main() {}
