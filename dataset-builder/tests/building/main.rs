//! Building shards from every source, from good input and bad; each test writes its own small input.

mod bad_input;
mod coco;
mod command_line;
mod more_sources;
mod pictures;
mod real_data;
mod resume;
mod support;
mod trees;
mod videos;
