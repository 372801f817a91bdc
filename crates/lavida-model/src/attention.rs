//! The one attention function: every tower and decoder calls it, so that a faster kernel or a
//! flash backward takes the place of these few operations once, here.
//!
//! Shapes: `B` batch · `N` heads · `S` queries · `L` keys · `d` width of a head.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

/// `softmax(scale · Q Kᵀ + mask) V`, per head.
///
/// # Shapes
///
/// - query: `[B, N, S, d]`; key and value: `[B, N, L, d]`
/// - mask: additive (0 where a key is visible, -1e30 where not), broadcast to `[B, N, S, L]`
/// - output: `[B, N, S, d]`
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4>>,
    scale: f64,
) -> Tensor<4> {
    let mut scores = (query * scale).matmul(key.swap_dims(2, 3)); // [B, N, S, L]
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    softmax(scores, 3).matmul(value)
}
