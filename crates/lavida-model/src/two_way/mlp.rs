//! Linear layers with an activation between them.
//!
//! Reference: `MLP` in `sam2/modeling/sam2_utils.py` (SAM2).
//!
//! Shapes: `C` width in · `C'` width out.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor};
use lavida_kernels::activation::Step;

use crate::linear::{linear_gated_of, linear_of};

/// What lies between the layers of an [`Mlp`].
#[derive(Config, Debug)]
pub enum Activation {
    /// `max(x, 0)`: the two-way blocks and the decoder's heads.
    Relu,
    /// `x·Φ(x)`: Hiera.
    Gelu,
}

/// Sizes of an [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Width of the input.
    pub input_dim: usize,
    /// Width between layers.
    pub hidden_dim: usize,
    /// Width of the output.
    pub output_dim: usize,
    /// Linear layers.
    pub num_layers: usize,
    /// Between layers; none follows the last.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// Squash the output into (0, 1).
    #[config(default = false)]
    pub sigmoid_output: bool,
}

/// Linear layers with an activation between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// In order of use.
    pub layers: Vec<Linear>,
    #[module(skip)]
    activation: Activation,
    sigmoid_output: bool,
}

impl MlpConfig {
    /// A new MLP with random weights.
    ///
    /// # Panics
    ///
    /// Panics if there is no layer.
    pub fn init(&self, device: &Device) -> Mlp {
        assert!(self.num_layers > 0, "an MLP needs a layer");
        let last = self.num_layers - 1;
        let layers = (0..self.num_layers)
            .map(|i| {
                let d_input = if i == 0 {
                    self.input_dim
                } else {
                    self.hidden_dim
                };
                let d_output = if i == last {
                    self.output_dim
                } else {
                    self.hidden_dim
                };
                LinearConfig::new(d_input, d_output).init(device)
            })
            .collect();
        Mlp {
            layers,
            activation: self.activation.clone(),
            sigmoid_output: self.sigmoid_output,
        }
    }
}

impl Mlp {
    /// # Shapes
    ///
    /// - input: `[.., input_dim]`
    /// - output: `[.., output_dim]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let mut hidden = input;
        let (last, inner) = self.layers.split_last().expect("an MLP has a layer");
        for layer in inner {
            hidden = match self.activation {
                Activation::Relu => relu(linear_of(layer, hidden)),
                Activation::Gelu => linear_gated_of(layer, hidden, Step::Normal),
            };
        }
        hidden = linear_of(last, hidden);
        if self.sigmoid_output {
            hidden = sigmoid(hidden);
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn only_a_head_that_asks_for_it_squashes_its_output() {
        let device = Device::flex();
        let input = Tensor::<3>::random([2, 3, 4], Distribution::Normal(0.0, 100.0), &device);
        let config = MlpConfig::new(4, 8, 5, 3);
        let squashed = config.clone().with_sigmoid_output(true).init(&device);
        let squashed: f32 = squashed.forward(input.clone()).abs().max().into_scalar();
        let plain: f32 = config
            .init(&device)
            .forward(input)
            .abs()
            .max()
            .into_scalar();
        assert!(squashed <= 1.0 && plain > 1.0);
    }
}
