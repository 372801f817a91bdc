//! The shard contract: clips, masks, frames, Parquet shards, exposure sampling, prompts and host batches. No Burn.
//!
//! A folder is a room. A room uses those before it in this list and none after:
//! `seed` and `caught` · [`clips`](clip) · [`shards`](dataset) · [`order`] · [`text`](prompt) · [`exposure`] · [`video`] ·
//! [`batches`](batch) · [`grounding`]. From outside, the files of a room are named without it.

mod batches;
mod caught;
mod clips;
pub mod exposure;
pub mod grounding;
pub mod order;
pub mod seed;
mod shards;
mod text;
pub mod video;

pub use batches::{batch, preprocess, resize};
pub use clips::{clip, frame, mask, windows};
pub use lavida_store::{Error, Result};
pub use order::read_ahead;
pub use shards::{catalog, dataset, disk_cache, errors_file, manifest, mix, schema, shard};
pub use text::{prompt, tokenizer};
