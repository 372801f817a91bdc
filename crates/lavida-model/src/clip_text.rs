//! CLIP's text tower: what a category is called becomes a feature (Eq. 6, f_c).
//!
//! A causal transformer reads the word pieces; the feature of a text is the last layer's output at its
//! end-of-text token, after the final norm, without projection or normalisation.
//! Reference: `ClipClassifier.encode_text`, that is `CLIPTextModel` of transformers.
//!
//! Shapes: `C` categories of all clips · `L` text positions · `W` width · `N` heads.

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Int, IntDType, Tensor};
use lavida_kernels::activation::QUICK_GELU;

use crate::attention::{AttentionMask, attention};
use crate::config::ClipTextConfig;
use crate::initial::{normal_embedding, normal_linear};
use crate::linear::{linear_gated_of, linear_of};
use crate::norm::layer_norm_of;

const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Standard deviation of the position embedding's initial rows.
const POSITION_STD: f64 = 0.02;

/// CLIP's text tower under its checkpoint's names.
#[derive(Module, Debug)]
pub struct ClipText {
    /// All of it: the checkpoint has this level.
    pub text_model: ClipTextTransformer,
}

/// Embeddings, layers, final norm.
#[derive(Module, Debug)]
pub struct ClipTextTransformer {
    /// Of tokens and positions.
    pub embeddings: ClipTextEmbeddings,
    /// The layers.
    pub encoder: ClipEncoder,
    /// After the last layer.
    pub final_layer_norm: LayerNorm,
}

/// A row per token and one per position, added.
#[derive(Module, Debug)]
pub struct ClipTextEmbeddings {
    /// `[vocabulary, W]`
    pub token_embedding: Embedding,
    /// `[longest text, W]`
    pub position_embedding: Embedding,
}

/// The stack of layers.
#[derive(Module, Debug)]
pub struct ClipEncoder {
    /// In order.
    pub layers: Vec<ClipEncoderLayer>,
}

/// Attention and MLP, each after a norm and beside a residual.
#[derive(Module, Debug)]
pub struct ClipEncoderLayer {
    /// Causal self-attention.
    pub self_attn: ClipAttention,
    /// Before the attention.
    pub layer_norm1: LayerNorm,
    /// Two linear layers.
    pub mlp: ClipMlp,
    /// Before the MLP.
    pub layer_norm2: LayerNorm,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct ClipAttention {
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Queries.
    pub q_proj: Linear,
    /// Of the heads' results.
    pub out_proj: Linear,
    n_heads: usize,
}

/// Linear, quick GELU, linear.
#[derive(Module, Debug)]
pub struct ClipMlp {
    /// Widens.
    pub fc1: Linear,
    /// Narrows.
    pub fc2: Linear,
}

/// What the tower says about texts.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// `[C, W]` the feature of each text.
    pub pooled: Tensor<2>,
    /// `[C, L, W]` after the final norm.
    pub last_hidden_state: Tensor<3>,
}

impl ClipTextConfig {
    /// A tower with the initial weights of transformers' `CLIPPreTrainedModel`.
    pub fn init(&self, device: &Device) -> ClipText {
        let norm = || layer_norm(self.hidden_size, device);
        ClipText {
            text_model: ClipTextTransformer {
                embeddings: ClipTextEmbeddings {
                    token_embedding: normal_embedding(
                        self.vocab_size,
                        self.hidden_size,
                        self.token_embedding_std,
                        device,
                    ),
                    position_embedding: normal_embedding(
                        self.max_position_embeddings,
                        self.hidden_size,
                        POSITION_STD,
                        device,
                    ),
                },
                encoder: ClipEncoder {
                    layers: (0..self.num_hidden_layers)
                        .map(|_| self.init_layer(device))
                        .collect(),
                },
                final_layer_norm: norm(),
            },
        }
    }

    fn init_layer(&self, device: &Device) -> ClipEncoderLayer {
        let width = self.hidden_size;
        // The deeper the tower, the less each layer may add to the residual.
        let depth_factor = (2.0 * self.num_hidden_layers as f64).powf(-0.5);
        let out_std = (width as f64).powf(-0.5);
        let in_std = out_std * depth_factor;
        let fc_std = (2.0 * width as f64).powf(-0.5);
        let linear = |d_input, d_output, std| normal_linear(d_input, d_output, true, std, device);
        ClipEncoderLayer {
            self_attn: ClipAttention {
                k_proj: linear(width, width, in_std),
                v_proj: linear(width, width, in_std),
                q_proj: linear(width, width, in_std),
                out_proj: linear(width, width, out_std),
                n_heads: self.num_attention_heads,
            },
            layer_norm1: layer_norm(width, device),
            mlp: ClipMlp {
                fc1: linear(width, self.intermediate_size, fc_std),
                fc2: linear(self.intermediate_size, width, in_std),
            },
            layer_norm2: layer_norm(width, device),
        }
    }
}

fn layer_norm(width: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(width)
        .with_epsilon(LAYER_NORM_EPSILON)
        .init(device)
}

impl ClipText {
    /// Features of texts. What stands behind a text's end-of-text token does not matter: the mask is causal.
    ///
    /// # Shapes
    ///
    /// - input_ids: `[C, L]`; the end-of-text id is the largest of the vocabulary
    ///
    /// # Panics
    ///
    /// Panics if the texts are longer than the position embedding.
    pub fn forward(&self, input_ids: Tensor<2, Int>) -> ClipTextOutput {
        let [n_texts, n_positions] = input_ids.dims();
        let device = input_ids.device();
        let mut hidden = self.text_model.embeddings.forward(input_ids.clone()); // [C, L, W]
        for layer in &self.text_model.encoder.layers {
            hidden = layer.forward(hidden);
        }
        let last_hidden_state = layer_norm_of(&self.text_model.final_layer_norm, hidden);

        let [_, _, width] = last_hidden_state.dims();
        let text_start = Tensor::<1, Int>::arange(0..n_texts as i64, &device) * n_positions as i64;
        let end_of_text = first_largest(input_ids) + text_start; // [C] rows of [C·L, W]
        let pooled = last_hidden_state
            .clone()
            .reshape([n_texts * n_positions, width])
            .select(0, end_of_text);
        ClipTextOutput {
            pooled,
            last_hidden_state,
        }
    }
}

/// Position of the first largest id of each row: `[C, L]` → `[C]`.
fn first_largest(ids: Tensor<2, Int>) -> Tensor<1, Int> {
    let [n_texts, n_positions] = ids.dims();
    // Padding repeats the end-of-text id; backends differ in which of equals `argmax` finds.
    let position = Tensor::<1, Int>::arange(0..n_positions as i64, &ids.device());
    let dtype: IntDType = position.dtype().into(); // `argmax` has its own
    let earlier_is_larger = ids * n_positions as i64 - position.reshape([1, n_positions]);
    earlier_is_larger.argmax(1).reshape([n_texts]).cast(dtype)
}

impl ClipTextEmbeddings {
    /// # Shapes
    ///
    /// - input_ids: `[C, L]`; output: `[C, L, W]`
    pub fn forward(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, n_positions] = input_ids.dims();
        let [n_rows, _] = self.position_embedding.weight.dims();
        assert!(
            n_positions <= n_rows,
            "texts of {n_positions} tokens, expected at most {n_rows}"
        );
        let positions = self.position_embedding.weight.val();
        let positions = positions.narrow(0, 0, n_positions).unsqueeze_dim(0); // [1, L, W]
        self.token_embedding.forward(input_ids) + positions
    }
}

impl ClipEncoderLayer {
    /// # Shapes
    ///
    /// - hidden: `[C, L, W]`; output: `[C, L, W]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let normed = layer_norm_of(&self.layer_norm1, hidden.clone());
        let attended = self.self_attn.forward(normed);
        let hidden = hidden + attended;
        hidden.clone() + self.mlp.forward(layer_norm_of(&self.layer_norm2, hidden))
    }
}

impl ClipAttention {
    /// # Shapes
    ///
    /// - hidden: `[C, L, W]`; output: `[C, L, W]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [n_texts, n_positions, width] = hidden.dims();
        let d_head = width / self.n_heads;
        let heads = |projected: Tensor<3>| {
            projected
                .reshape([n_texts, n_positions, self.n_heads, d_head])
                .swap_dims(1, 2)
        };
        let attended = attention(
            heads(linear_of(&self.q_proj, hidden.clone())),
            heads(linear_of(&self.k_proj, hidden.clone())),
            heads(linear_of(&self.v_proj, hidden)),
            &AttentionMask::causal(),
        ); // [C, N, L, d]
        let attended = attended.swap_dims(1, 2);
        linear_of(
            &self.out_proj,
            attended.reshape([n_texts, n_positions, width]),
        )
    }
}

impl ClipMlp {
    /// # Shapes
    ///
    /// - hidden: `[C, L, W]`; output: `[C, L, W]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        linear_of(&self.fc2, linear_gated_of(&self.fc1, hidden, QUICK_GELU))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    /// A device whose draws repeat.
    fn seeded() -> Device {
        let device = Device::flex();
        device.seed(1);
        device
    }

    fn tower(device: &Device) -> ClipText {
        ClipTextConfig {
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            vocab_size: 10,
            max_position_embeddings: 6,
            token_embedding_std: 0.5,
        }
        .init(device)
    }

    #[test]
    fn padding_behind_a_text_changes_nothing() {
        let device = seeded();
        let tower = tower(&device);
        let alone = tower
            .forward(Tensor::from_data([[8, 3, 9]], &device))
            .pooled;
        let padded = tower.forward(Tensor::from_data(
            [[8, 3, 9, 9, 9], [8, 1, 2, 4, 9]],
            &device,
        ));
        let first = padded.pooled.narrow(0, 0, 1).into_data();
        first.assert_approx_eq::<f32>(&alone.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn the_first_end_of_text_is_read() {
        let ids = Tensor::from_data([[8, 9, 9, 9], [1, 2, 3, 9], [9, 0, 0, 0]], &seeded());
        let found: Vec<i64> = first_largest(ids).into_data().iter().collect();
        assert_eq!(found, [1, 3, 0]);
    }
}
