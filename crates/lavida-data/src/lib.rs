//! The shard contract: clips, masks, frames, Parquet shards, exposure sampling, prompts and host batches. No Burn.

pub mod batch;
pub mod catalog;
mod caught;
pub mod clip;
pub mod dataset;
pub mod disk_cache;
pub mod exposure;
pub mod frame;
pub mod grounding;
pub mod manifest;
pub mod mask;
pub mod order;
mod parquet_file;
mod pool;
pub mod preprocess;
mod progress;
pub mod prompt;
pub mod read_ahead;
pub mod resize;
mod row_groups;
mod rows;
pub mod schema;
pub mod seed;
pub mod shard;
pub mod tokenizer;
pub mod video;
pub mod windows;
mod words;

pub use lavida_store::{Error, Result};
