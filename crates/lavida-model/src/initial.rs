//! Initial weights as Hugging Face draws them: normal with a given deviation, biases zero.

use burn::module::Param;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::linear;

/// A parameter drawn from a normal distribution around zero.
pub(crate) fn normal<const D: usize>(
    shape: [usize; D],
    std: f64,
    device: &Device,
) -> Param<Tensor<D>> {
    Initializer::Normal { mean: 0.0, std }.init(shape, device)
}

/// A linear layer with normal weights and a zero bias.
pub(crate) fn normal_linear(
    d_input: usize,
    d_output: usize,
    bias: bool,
    std: f64,
    device: &Device,
) -> Linear {
    // The initializer would draw the bias too, so the layer is made without and gets a zero one.
    let mut layer = LinearConfig::new(d_input, d_output)
        .with_bias(false)
        .with_initializer(Initializer::Normal { mean: 0.0, std })
        .init(device);
    layer.bias = bias.then(|| Initializer::Zeros.init([d_output], device));
    layer
}

/// [`normal_linear`] for a layer that may carry an adapter.
pub(crate) fn normal_lora_linear(
    d_input: usize,
    d_output: usize,
    bias: bool,
    std: f64,
    device: &Device,
) -> linear::Linear {
    let mut layer = linear::LinearConfig::new(d_input, d_output)
        .with_bias(false)
        .with_initializer(Initializer::Normal { mean: 0.0, std })
        .init(device);
    layer.bias = bias.then(|| Initializer::Zeros.init([d_output], device));
    layer
}

/// An embedding with normal rows.
pub(crate) fn normal_embedding(
    n_rows: usize,
    d_row: usize,
    std: f64,
    device: &Device,
) -> Embedding {
    EmbeddingConfig::new(n_rows, d_row)
        .with_initializer(Initializer::Normal { mean: 0.0, std })
        .init(device)
}
