//! `lavida-dataset`: source datasets to shards.
fn main() {}
