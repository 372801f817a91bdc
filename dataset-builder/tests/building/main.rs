//! Building shards from every source, from good input and bad; each test writes its own small input.

mod auto;
mod bad_input;
mod coco;
mod command_line;
mod more_sources;
mod much_lost;
mod real_data;
mod resume;
mod support;
#[allow(
    dead_code,
    reason = "the contract and the documents' tests lay all trees"
)]
#[path = "../trees/mod.rs"]
mod trees;
mod videos;
