//! Layer normalisation through the project's own kernel, in place of Burn's module of the same name.
//!
//! Shapes: `[.., C]`; each row of `C` values gets mean 0 and variance 1, then scale and shift.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, FloatDType, Tensor, assert_shape};
use lavida_kernels::layer_norm::layer_norm;

/// Sizes of a [`LayerNorm`].
#[derive(Config, Debug)]
pub struct LayerNormConfig {
    /// Width `C`.
    pub d_model: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// `x̂·γ + β` for each row.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale γ `[C]`; `weight` in checkpoints.
    pub gamma: Param<Tensor<1>>,
    /// Shift β `[C]`; `bias` in checkpoints.
    pub beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNormConfig {
    /// A norm that neither scales nor shifts.
    pub fn init(&self, device: &Device) -> LayerNorm {
        LayerNorm {
            gamma: Initializer::Ones.init([self.d_model], device),
            beta: Initializer::Zeros.init([self.d_model], device),
            epsilon: self.epsilon,
        }
    }
}

impl LayerNorm {
    /// Half-precision inputs are normalised in f32 and cast back.
    ///
    /// # Shapes
    ///
    /// - x: `[.., C]`; output: the same
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let [d_model] = gamma.dims();
        assert_shape!(x, [.., d_model]);
        match x.dtype() {
            dtype @ (DType::F16 | DType::BF16) => {
                let wide = FloatDType::F32;
                layer_norm(
                    x.cast(wide),
                    gamma.cast(wide),
                    beta.cast(wide),
                    self.epsilon,
                )
                .cast(FloatDType::from(dtype))
            }
            _ => layer_norm(x, gamma, beta, self.epsilon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn it_equals_burns_module() {
        let device = Device::flex();
        let x = Tensor::<3>::random([3, 4, 10], Distribution::Normal(1.0, 3.0), &device);
        let burns = nn::LayerNormConfig::new(10)
            .with_epsilon(1e-3)
            .init(&device);
        let ours = LayerNormConfig::new(10).with_epsilon(1e-3).init(&device);
        let expected = burns.forward(x.clone()).into_data();
        ours.forward(x)
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
    }

    #[test]
    fn half_precision_keeps_its_type() {
        let device = Device::flex();
        let x = Tensor::<2>::random([3, 10], Distribution::Normal(1.0, 3.0), &device);
        let norm = LayerNormConfig::new(10).init(&device);
        let expected = norm.forward(x.clone());
        let found = norm.forward(x.cast(FloatDType::BF16));
        assert_eq!(found.dtype(), DType::BF16);
        found
            .cast(FloatDType::F32)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(0.05));
    }
}
