//! Qwen2-VL's language model: a causal transformer with grouped-query attention, M-RoPE and SwiGLU.
//!
//! Reference: `Qwen2VLModel` of transformers.
//!
//! Shapes: `B` samples · `S` positions · `D` width · `N` query heads · `N_kv` key and value heads · `d` width of a head.

use burn::module::Module;
use burn::nn::{Embedding, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};
use lavida_kernels::activation::silu;
use lavida_kernels::watch::gated;

use super::rope::Rotary;
use crate::attention::{AttentionMask, attention};
use crate::config::LanguageConfig;
use crate::initial::{normal_embedding, normal_linear, normal_lora_linear};
use crate::linear;
use crate::norm::rms_norm_of;
use crate::recompute::Recompute;

/// Deviation of initial weights.
pub(super) const INITIAL_STD: f64 = 0.02;

/// Embedding, layers, final norm.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// A row per token of the vocabulary.
    pub embed_tokens: Embedding,
    /// Decoder layers.
    pub layers: Vec<DecoderLayer>,
    /// After the last layer.
    pub norm: RmsNorm,
    /// Whether backward runs the layers again.
    #[module(skip)]
    pub recompute: Recompute,
}

/// Attention and MLP, each after a norm and beside a residual.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Causal self-attention.
    pub self_attn: SelfAttention,
    /// SwiGLU.
    pub mlp: SwiGluMlp,
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// Before the MLP.
    pub post_attention_layernorm: RmsNorm,
}

/// Self-attention whose query heads share key and value heads.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries; may carry LoRA.
    pub q_proj: linear::Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values; may carry LoRA.
    pub v_proj: linear::Linear,
    /// Of the heads' results, without bias.
    pub o_proj: Linear,
    n_heads: usize,
    n_kv_heads: usize,
}

/// `down(silu(gate(x)) · up(x))`, without biases.
#[derive(Module, Debug)]
pub struct SwiGluMlp {
    /// What passes.
    pub gate_proj: Linear,
    /// What is passed.
    pub up_proj: Linear,
    /// Back to width `D`.
    pub down_proj: Linear,
}

impl LanguageConfig {
    /// Width of a head, `d`.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// A language model with random weights.
    pub(super) fn init_model(&self, device: &Device) -> LanguageModel {
        LanguageModel {
            embed_tokens: normal_embedding(self.vocab_size, self.hidden_size, INITIAL_STD, device),
            layers: (0..self.num_hidden_layers)
                .map(|_| self.init_layer(device))
                .collect(),
            norm: self.init_norm(device),
            recompute: Recompute::default(),
        }
    }

    fn init_norm(&self, device: &Device) -> RmsNorm {
        RmsNormConfig::new(self.hidden_size)
            .with_epsilon(self.rms_norm_eps)
            .init(device)
    }

    fn init_layer(&self, device: &Device) -> DecoderLayer {
        let width = self.hidden_size;
        let d_queries = self.num_attention_heads * self.head_dim();
        let d_keys = self.num_key_value_heads * self.head_dim();
        let lora = |d_output| normal_lora_linear(width, d_output, true, INITIAL_STD, device);
        let plain =
            |d_input, d_output, bias| normal_linear(d_input, d_output, bias, INITIAL_STD, device);
        DecoderLayer {
            self_attn: SelfAttention {
                q_proj: lora(d_queries),
                k_proj: plain(width, d_keys, true),
                v_proj: lora(d_keys),
                o_proj: plain(d_queries, width, false),
                n_heads: self.num_attention_heads,
                n_kv_heads: self.num_key_value_heads,
            },
            mlp: SwiGluMlp {
                gate_proj: plain(width, self.intermediate_size, false),
                up_proj: plain(width, self.intermediate_size, false),
                down_proj: plain(self.intermediate_size, width, false),
            },
            input_layernorm: self.init_norm(device),
            post_attention_layernorm: self.init_norm(device),
        }
    }
}

impl LanguageModel {
    /// # Shapes
    ///
    /// - embeds: `[B, S, D]`
    /// - rotary: of angles `[B, 1, S, d/2]`
    /// - output: `[B, S, D]`, after the final norm
    pub fn forward(&self, embeds: Tensor<3>, rotary: &Rotary, mask: &AttentionMask) -> Tensor<3> {
        let rotary = rotary.clone().without_autodiff();
        let mut hidden = embeds;
        for layer in &self.layers {
            let (rotary, mask) = (rotary.clone(), mask.clone());
            [hidden] = self
                .recompute
                .block(layer, [hidden], move |layer, [hidden]| {
                    [layer.forward(hidden, &rotary, &mask)]
                });
        }
        rms_norm_of(&gated(&self.norm, &hidden), hidden)
    }
}

impl DecoderLayer {
    /// # Shapes
    ///
    /// As [`LanguageModel::forward`], without the final norm.
    pub fn forward(&self, hidden: Tensor<3>, rotary: &Rotary, mask: &AttentionMask) -> Tensor<3> {
        let attended = self.self_attn.forward(
            rms_norm_of(&self.input_layernorm, hidden.clone()),
            rotary,
            mask,
        );
        let hidden = hidden + attended;
        let normed = rms_norm_of(&self.post_attention_layernorm, hidden.clone());
        hidden + self.mlp.forward(normed)
    }
}

impl SelfAttention {
    fn forward(&self, hidden: Tensor<3>, rotary: &Rotary, mask: &AttentionMask) -> Tensor<3> {
        let [n_samples, n_positions, _] = hidden.dims();
        let heads = |projected: Tensor<3>, n_heads: usize| {
            let [_, _, width] = projected.dims();
            projected
                .reshape([n_samples, n_positions, n_heads, width / n_heads])
                .swap_dims(1, 2) // [B, N, S, d]
        };
        let query = heads(self.q_proj.forward(hidden.clone()), self.n_heads);
        let key = heads(self.k_proj.forward(hidden.clone()), self.n_kv_heads);
        let value = heads(self.v_proj.forward(hidden), self.n_kv_heads);
        let [_, _, _, d_head] = query.dims();
        let attended = attention(rotary.turn(query), rotary.turn(key), value, mask);
        self.o_proj.forward(attended.swap_dims(1, 2).reshape([
            n_samples,
            n_positions,
            self.n_heads * d_head,
        ]))
    }
}

impl SwiGluMlp {
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(hidden.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(hidden))
    }
}
