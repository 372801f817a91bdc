//! A linear layer that can carry a low-rank adapter (LoRA).
//!
//! The adapter adds `s·(x·A)·B` to `x·W + b`: the dense `W + s·A·B` is never built while training, so
//! a step costs `rank·(d_in + d_out)` more products per row and no gradient of `W`'s size. Reference:
//! `peft.LoraLayer`; its dropout on `x` is left out (a step must repeat bit for bit).
//!
//! Shapes: `I` features in, `O` features out, `R` rank.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{self, Initializer};
use burn::tensor::{Device, Tensor, assert_shape};
use lavida_kernels::activation::{Step, gated};
use lavida_kernels::linear::{linear, linear_gated};

/// Sizes and initial values of a [`Linear`].
#[derive(Config, Debug)]
pub struct LinearConfig {
    /// Features in, `I`.
    pub d_input: usize,
    /// Features out, `O`.
    pub d_output: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
    /// Initial values of weight and bias; the default is PyTorch's: uniform in ±1/√I.
    #[config(default = "pytorch_default()")]
    pub initializer: Initializer,
}

/// PyTorch's `kaiming_uniform_(a=√5)`: uniform in ±1/√fan_in.
fn pytorch_default() -> Initializer {
    Initializer::KaimingUniform {
        gain: 1.0 / 3f64.sqrt(),
        fan_out_only: false,
    }
}

impl LinearConfig {
    /// A layer whose values are drawn at their first use.
    pub fn init(&self, device: &Device) -> Linear {
        let fans = (Some(self.d_input), Some(self.d_output));
        let weight =
            self.initializer
                .init_with([self.d_input, self.d_output], fans.0, fans.1, device);
        let bias = self.bias.then(|| {
            self.initializer
                .init_with([self.d_output], fans.0, fans.1, device)
        });
        Linear {
            weight,
            bias,
            lora_a: None,
            lora_b: None,
            lora_scale: 0.0,
        }
    }
}

/// `x·W + b`, and `+ s·(x·A)·B` where an adapter is attached.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[I, O]`; the checkpoint holds its transpose.
    pub weight: Param<Tensor<2>>,
    /// `[O]`
    pub bias: Option<Param<Tensor<1>>>,
    /// `[I, R]`
    pub lora_a: Option<Param<Tensor<2>>>,
    /// `[R, O]`
    pub lora_b: Option<Param<Tensor<2>>>,
    /// `s = alpha / rank`
    pub lora_scale: f64,
}

impl Linear {
    /// # Shapes
    ///
    /// - x: `[.., I]`
    /// - output: `[.., O]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight.val();
        let [d_input, _] = weight.dims();
        assert_shape!(x, [.., d_input]);
        let bias = self.bias.as_ref().map(Param::val);
        match (&self.lora_a, &self.lora_b) {
            (Some(a), Some(b)) => {
                let low_rank = linear(linear(x.clone(), a.val(), None), b.val(), None); // [rows, O]
                linear(x, weight, bias) + low_rank.mul_scalar(self.lora_scale)
            }
            _ => linear(x, weight, bias),
        }
    }

    /// Attaches an adapter of this rank and freezes weight and bias. `A` is drawn as PyTorch does, `B` is zero,
    /// so the layer's output does not change until `B` has learnt. An adapter already there is replaced.
    pub fn with_lora(self, rank: usize, alpha: f64) -> Self {
        let [d_input, d_output] = self.weight.lazy_shape().dims();
        let device = self.weight.lazy_device();
        let a = pytorch_default().init_with([d_input, rank], Some(d_input), Some(rank), &device);
        let b = Initializer::Zeros.init([rank, d_output], &device);
        Self {
            weight: self.weight.set_require_grad(false),
            bias: self.bias.map(|bias| bias.set_require_grad(false)),
            lora_a: Some(a),
            lora_b: Some(b),
            lora_scale: alpha / rank as f64,
        }
    }

    /// The same function without an adapter: `W + s·A·B` becomes the weight, trained as `W` was.
    pub fn merge(self) -> Self {
        let (Some(a), Some(b)) = (self.lora_a, self.lora_b) else {
            return Self {
                lora_a: None,
                lora_b: None,
                ..self
            };
        };
        let delta = a
            .val()
            .without_autodiff()
            .matmul(b.val().without_autodiff());
        let delta = delta.mul_scalar(self.lora_scale);
        let require_grad = self.weight.is_require_grad();
        let weight = self.weight.map(|weight| {
            let device = weight.device();
            let merged = weight.without_autodiff() + delta;
            let merged = if device.is_autodiff() {
                merged.autodiff()
            } else {
                merged
            };
            merged.set_require_grad(require_grad)
        });
        Self {
            weight,
            bias: self.bias,
            lora_a: None,
            lora_b: None,
            lora_scale: 0.0,
        }
    }
}

/// Burn's linear layer, by the project's own operation.
///
/// # Shapes
///
/// - x: `[.., I]`; output: `[.., O]`
pub(crate) fn linear_of<const D: usize>(layer: &nn::Linear, x: Tensor<D>) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(Param::val);
    linear(x, layer.weight.val(), bias)
}

/// Burn's linear layer and then an activation, `y · step(y)`.
///
/// # Shapes
///
/// - x: `[.., I]`; output: `[.., O]`
pub(crate) fn linear_gated_of<const D: usize>(
    layer: &nn::Linear,
    x: Tensor<D>,
    step: Step,
) -> Tensor<D> {
    match &layer.bias {
        Some(bias) => linear_gated(x, layer.weight.val(), bias.val(), step),
        None => gated(linear_of(layer, x), step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    fn adapted(device: &Device) -> Linear {
        let mut layer = LinearConfig::new(5, 3).init(device).with_lora(2, 8.0);
        layer.lora_b = Some(Param::from_tensor(Tensor::random(
            [2, 3],
            Distribution::Uniform(-1.0, 1.0),
            device,
        )));
        layer
    }

    #[test]
    fn a_fresh_adapter_changes_nothing() {
        let device = Device::default();
        let plain = LinearConfig::new(5, 3).init(&device);
        let x = Tensor::<3>::random([2, 4, 5], Distribution::Normal(0.0, 1.0), &device);
        let expected = plain.forward(x.clone());
        let found = plain.with_lora(2, 8.0).forward(x);
        expected.into_data().assert_eq(&found.into_data(), true);
    }

    #[test]
    fn merging_keeps_the_function() {
        let device = Device::default();
        let layer = adapted(&device);
        let x = Tensor::<2>::random([4, 5], Distribution::Normal(0.0, 1.0), &device);
        let expected = layer.forward(x.clone());
        let merged = layer.merge();
        assert!(merged.lora_a.is_none());
        expected
            .into_data()
            .assert_approx_eq::<f32>(&merged.forward(x).into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn only_the_adapter_gets_a_gradient() {
        let device = Device::default().autodiff();
        let layer = adapted(&device);
        let x = Tensor::<2>::random([4, 5], Distribution::Normal(0.0, 1.0), &device);
        let gradients = layer.forward(x).sum().backward();
        assert!(layer.weight.val().grad(&gradients).is_none());
        assert!(
            layer
                .bias
                .as_ref()
                .unwrap()
                .val()
                .grad(&gradients)
                .is_none()
        );
        assert!(
            layer
                .lora_a
                .as_ref()
                .unwrap()
                .val()
                .grad(&gradients)
                .is_some()
        );
        assert!(
            layer
                .lora_b
                .as_ref()
                .unwrap()
                .val()
                .grad(&gradients)
                .is_some()
        );
    }

    #[test]
    fn initial_values_stay_within_pytorchs_bound() {
        let layer = LinearConfig::new(16, 64).init(&Device::default());
        let bound = 0.25; // 1/√16
        layer
            .weight
            .val()
            .into_data()
            .assert_within_range(-bound..bound);
        let largest: f32 = layer.weight.val().abs().max().into_scalar();
        assert!(
            largest > 0.9 * bound,
            "weights fill their range, largest {largest}"
        );
    }
}
