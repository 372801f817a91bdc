//! What a training step reads: pixels for the two vision towers, ids, and samples joined to a batch.

pub mod array;
pub mod batch;
pub mod preprocess;
pub mod resize;
