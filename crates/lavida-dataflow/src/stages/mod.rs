//! The stages of the pipe, one actor a file. Clips flow right, demand flows left:
//! one `Demand` grants one item, and a stage holds no more items than it granted.

pub mod batcher;
pub mod checkpointer;
pub mod clip_reader;
pub mod device;
pub mod sampler;
pub mod trainer;
