//! The shard contract: clips, masks, frames, Parquet shards, exposure sampling, prompts and host batches. No Burn.

pub mod batch;
pub mod clip;
pub mod exposure;
pub mod mask;

pub use lavida_store::{Error, Result};
