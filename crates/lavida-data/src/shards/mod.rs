//! Where clips lie: Parquet shards and their manifest, written, read, verified, kept on this machine, and the catalog of all.

pub mod catalog;
pub mod dataset;
pub mod disk_cache;
pub mod errors_file;
pub mod manifest;
pub mod mix;
mod parquet_file;
mod progress;
pub(crate) mod row_groups;
mod rows;
pub mod schema;
pub mod shard;
