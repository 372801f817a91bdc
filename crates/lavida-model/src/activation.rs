//! Activations that Burn does not have.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

/// `x · σ(1.702·x)`: OpenAI's cheap GELU, used by CLIP and by Qwen2-VL's vision tower.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * sigmoid(x * 1.702)
}
