//! The command line: one match of modes.
fn main() {}
