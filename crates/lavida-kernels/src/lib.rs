//! Operations the model cannot afford as Burn composes them: token compression, attention, linear layers, softmax,
//! gated activations, layer normalisation, max-pooling.
//!
//! Each has a plain version in Burn operations, which every backend runs and which is the truth, and kernels that
//! agree with it.

pub mod activation;
pub mod attention;
pub mod compression;
mod fast_math;
pub mod layer_norm;
pub mod linear;
mod matrix;
pub mod max_pool;
pub mod recompute;
mod registers;
pub mod softmax;
#[cfg(test)]
mod testing;
pub mod watch;
mod wide;
