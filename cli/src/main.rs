//! The command `homing`.
fn main() {}
