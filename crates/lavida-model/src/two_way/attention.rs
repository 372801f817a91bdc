//! Multi-head attention whose heads together may be narrower than its input.
//!
//! Reference: `Attention` in `sam2/modeling/sam/transformer.py` (SAM2).
//!
//! Shapes: `B` independent problems (frames) · `S` queries · `L` keys · `C` width · `N` heads · `c` width
//! of a head.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, FloatDType, Tensor};
use lavida_kernels::softmax::softmax;

use crate::attention::{AttentionMask, attention};
use crate::linear::linear_of;

/// Sizes of an [`Attention`].
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width `C` of queries, keys, values and output.
    pub embedding_dim: usize,
    /// Heads `N`.
    pub num_heads: usize,
    /// The heads together are `embedding_dim / downsample_rate` wide.
    #[config(default = 1)]
    pub downsample_rate: usize,
}

/// Multi-head attention whose heads may be narrower than its input.
#[derive(Module, Debug)]
pub struct Attention {
    /// Projection of queries, `C` to the inner width.
    pub q_proj: Linear,
    /// Projection of keys.
    pub k_proj: Linear,
    /// Projection of values.
    pub v_proj: Linear,
    /// Projection of the heads' results back to `C`.
    pub out_proj: Linear,
    num_heads: usize,
}

impl AttentionConfig {
    /// A new attention with random weights.
    ///
    /// # Panics
    ///
    /// Panics if the inner width does not divide evenly.
    pub fn init(&self, device: &Device) -> Attention {
        let internal_dim = self.embedding_dim / self.downsample_rate;
        assert_eq!(
            internal_dim * self.downsample_rate,
            self.embedding_dim,
            "downsample_rate must divide embedding_dim"
        );
        assert_eq!(
            internal_dim % self.num_heads,
            0,
            "num_heads must divide the inner width {internal_dim}"
        );
        let into = || LinearConfig::new(self.embedding_dim, internal_dim).init(device);
        Attention {
            q_proj: into(),
            k_proj: into(),
            v_proj: into(),
            out_proj: LinearConfig::new(internal_dim, self.embedding_dim).init(device),
            num_heads: self.num_heads,
        }
    }
}

impl Attention {
    /// Each query reads the values whose keys it matches.
    ///
    /// # Shapes
    ///
    /// - query: `[B, S, C]`, key and value: `[B, L, C]`
    /// - output: `[B, S, C]`
    pub fn forward(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        mask: &AttentionMask,
    ) -> Tensor<3> {
        let query = self.heads(linear_of(&self.q_proj, query));
        let key = self.heads(linear_of(&self.k_proj, key));
        let value = self.heads(linear_of(&self.v_proj, value));
        let attended = attention(query, key, value, mask); // [B, N, S, c]
        linear_of(&self.out_proj, merge_heads(attended))
    }

    /// The weights [`Attention::forward`] gives each key without a mask, per head.
    ///
    /// # Shapes
    ///
    /// - query: `[B, S, C]`, key: `[B, L, C]`
    /// - output: `[B, N, S, L]` in f32, rows sum to one
    pub fn weights(&self, query: Tensor<3>, key: Tensor<3>) -> Tensor<4> {
        let query = self.heads(linear_of(&self.q_proj, query)) * self.scale();
        let key = self.heads(linear_of(&self.k_proj, key));
        let scores = query.matmul(key.swap_dims(2, 3));
        softmax(scores.cast(FloatDType::F32))
    }

    /// Factor on the scores: one over the square root of a head's width.
    fn scale(&self) -> f64 {
        let [_, internal_dim] = self.q_proj.weight.dims();
        let head_dim = internal_dim / self.num_heads;
        (head_dim as f64).powf(-0.5)
    }

    /// `[B, S, N·c]` to `[B, N, S, c]`.
    fn heads(&self, tokens: Tensor<3>) -> Tensor<4> {
        split_heads(tokens, self.num_heads)
    }
}

/// `[B, S, N·c]` to `[B, N, S, c]`.
pub(crate) fn split_heads(tokens: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, n_tokens, width] = tokens.dims();
    if n_heads == 1 {
        return tokens.reshape([batch, 1, n_tokens, width]); // the same order: no copy
    }
    tokens
        .reshape([batch, n_tokens, n_heads, width / n_heads])
        .swap_dims(1, 2)
}

/// `[B, N, S, c]` to `[B, S, N·c]`.
pub(crate) fn merge_heads(heads: Tensor<4>) -> Tensor<3> {
    let [batch, n_heads, n_tokens, d_head] = heads.dims();
    if n_heads == 1 {
        return heads.reshape([batch, n_tokens, d_head]);
    }
    heads
        .swap_dims(1, 2)
        .reshape([batch, n_tokens, n_heads * d_head])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn attention_weights_are_those_of_the_forward_pass() {
        let device = Device::flex();
        let attention = AttentionConfig::new(8, 2)
            .with_downsample_rate(2)
            .init(&device);
        let (query, key) = (random([2, 3, 8], &device), random([2, 5, 8], &device));
        let weights = attention.weights(query.clone(), key.clone());
        let value = attention.heads(attention.v_proj.forward(key.clone()));
        let expected = attention
            .out_proj
            .forward(merge_heads(weights.matmul(value)));
        let found = attention.forward(query, key.clone(), key, &AttentionMask::default());
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }
}
