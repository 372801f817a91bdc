//! `lavida`.
fn main() {}
