//! Normalisation, in f32 whatever the type of its input: the project's own layer norm, and Burn's modules where the
//! model has those.
//!
//! Shapes: `[.., C]`; each row of `C` values gets mean 0 and variance 1, then scale and shift.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{self, Initializer, RmsNorm};
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
        let dtype = x.dtype();
        if !is_half(dtype) {
            return layer_norm(x, gamma, beta, self.epsilon);
        }
        let wide = FloatDType::F32;
        let (x, gamma, beta) = (x.cast(wide), gamma.cast(wide), beta.cast(wide));
        layer_norm(x, gamma, beta, self.epsilon).cast(dtype)
    }
}

/// Burn's layer norm, with half-precision inputs normalised in f32 and cast back.
///
/// # Shapes
///
/// - x: `[.., C]`; output: the same
pub fn layer_norm_of<const D: usize>(norm: &nn::LayerNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if !is_half(dtype) {
        return norm.forward(x);
    }
    let widened =
        |param: &Param<Tensor<1>>| Param::initialized(param.id, param.val().cast(FloatDType::F32));
    let mut wide = norm.clone();
    wide.gamma = widened(&norm.gamma);
    wide.beta = norm.beta.as_ref().map(widened);
    wide.forward(x.cast(FloatDType::F32)).cast(dtype)
}

/// Burn's RMS norm, with half-precision inputs divided by their root mean square in f32.
///
/// # Shapes
///
/// - x: `[.., C]`; output: the same
pub fn rms_norm_of<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if !is_half(dtype) {
        return norm.forward(x);
    }
    let x = x.cast(FloatDType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    let scaled = x / mean_square.add_scalar(norm.epsilon).sqrt();
    scaled.cast(dtype) * norm.gamma.val().unsqueeze()
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let close = |found: Tensor<2>, expected: Tensor<2>| {
            assert_eq!(found.dtype(), DType::BF16);
            found
                .cast(FloatDType::F32)
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(0.05));
        };
        let half = x.clone().cast(FloatDType::BF16);
        close(norm.forward(half.clone()), expected);
        let norm = nn::LayerNormConfig::new(10).init(&device);
        close(layer_norm_of(&norm, half.clone()), norm.forward(x.clone()));
        let mut norm = nn::RmsNormConfig::new(10).init(&device);
        let expected = norm.forward(x);
        norm.gamma = norm.gamma.map(|gamma| gamma.cast(FloatDType::BF16));
        close(rms_norm_of(&norm, half), expected);
    }
}
