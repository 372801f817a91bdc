//! The two-way transformer: a few tokens and a map of features attend to each other in turn.
//!
//! SAM2's mask decoder lets its prompt tokens read the frame and the frame read the tokens back;
//! LAVIDA's projector does the same with learnable queries and category features. Both are built
//! from the blocks of this file, whose field names are those of the checkpoints.
//! Reference: `sam2/modeling/sam/transformer.py` and `MLP` of `sam2_utils.py` (SAM2).
//!
//! Shapes: `B` independent problems (frames) · `S` query tokens · `C` width · `N` heads ·
//! `L` key tokens (cells of a feature map, or categories).

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{relu, sigmoid, softmax};
use burn::tensor::{Bool, Device, Tensor, assert_shape};

use lavida_kernels::activation::gelu;

use crate::attention::{additive_mask, attention};
use crate::norm::{LayerNorm, LayerNormConfig};

/// Additive attention mask of padded keys.
///
/// # Shapes
///
/// - valid: `[B, L]`, true where the key counts; every row has at least one
/// - output: `[B, 1, 1, L]`, 0 for a valid key, a huge negative number for a padded one
pub fn padding_mask(valid: Tensor<2, Bool>) -> Tensor<4> {
    let [batch, n_keys] = valid.dims();
    additive_mask(valid.reshape([batch, 1, 1, n_keys]))
}

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
    /// Initial weights of the query and key projections are scaled by this; 1 is PyTorch's
    /// initialisation. Larger makes the first attention maps sharper.
    #[config(default = 1.0)]
    pub init_scale: f64,
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
        let scaled = |mut linear: Linear| {
            if self.init_scale != 1.0 {
                linear.weight = linear.weight.map(|weight| weight * self.init_scale);
            }
            linear
        };
        Attention {
            q_proj: scaled(into()),
            k_proj: scaled(into()),
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
    /// - mask: additive, broadcast to `[B, N, S, L]` (see [`padding_mask`])
    /// - output: `[B, S, C]`
    pub fn forward(
        &self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        mask: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let query = self.heads(rowwise(&self.q_proj, query));
        let key = self.heads(rowwise(&self.k_proj, key));
        let value = self.heads(rowwise(&self.v_proj, value));
        let scale = self.scale();
        let attended = attention(query, key, value, mask, scale); // [B, N, S, c]
        rowwise(&self.out_proj, merge_heads(attended))
    }

    /// The weights [`Attention::forward`] gives each key, per head.
    ///
    /// # Shapes
    ///
    /// - query: `[B, S, C]`, key: `[B, L, C]`
    /// - mask: additive, broadcast to `[B, N, S, L]`
    /// - output: `[B, N, S, L]`, rows sum to one
    pub fn weights(&self, query: Tensor<3>, key: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<4> {
        let query = self.heads(rowwise(&self.q_proj, query)) * self.scale();
        let key = self.heads(rowwise(&self.k_proj, key));
        let mut scores = query.matmul(key.swap_dims(2, 3));
        if let Some(mask) = mask {
            scores = scores + mask;
        }
        softmax(scores, 3)
    }

    /// Factor on the scores: one over the square root of a head's width.
    fn scale(&self) -> f64 {
        let [_, internal_dim] = self.q_proj.weight.dims();
        let head_dim = internal_dim / self.num_heads;
        (head_dim as f64).powf(-0.5)
    }

    /// `[B, S, N·c]` to `[B, N, S, c]`.
    fn heads(&self, tokens: Tensor<3>) -> Tensor<4> {
        let [batch, n_tokens, width] = tokens.dims();
        tokens
            .reshape([batch, n_tokens, self.num_heads, width / self.num_heads])
            .swap_dims(1, 2)
    }
}

/// `[B, N, S, c]` to `[B, S, N·c]`.
fn merge_heads(heads: Tensor<4>) -> Tensor<3> {
    let [batch, n_heads, n_tokens, head_dim] = heads.dims();
    heads
        .swap_dims(1, 2)
        .reshape([batch, n_tokens, n_heads * head_dim])
}

/// A linear layer of all tokens as one matrix: one large product instead of one per batch entry.
///
/// # Shapes
///
/// - input: `[.., C]`; output: `[.., C']`
pub(crate) fn rowwise<const D: usize>(linear: &Linear, input: Tensor<D>) -> Tensor<D> {
    let shape = input.dims();
    from_rows(linear.forward(into_rows(input)), shape)
}

/// `[.., C]` to `[rows, C]`.
fn into_rows<const D: usize>(input: Tensor<D>) -> Tensor<2> {
    let width = input.dims()[D - 1];
    let n_rows = input.dims().iter().rev().skip(1).product::<usize>();
    input.reshape([n_rows, width])
}

/// `[rows, C']` to `[.., C']`, the leading axes those of `shape`.
fn from_rows<const D: usize>(rows: Tensor<2>, mut shape: [usize; D]) -> Tensor<D> {
    shape[D - 1] = rows.dims()[1];
    rows.reshape(shape)
}

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
        let shape = input.dims();
        let mut hidden = into_rows(input);
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                hidden = match self.activation {
                    Activation::Relu => relu(hidden),
                    Activation::Gelu => gelu(hidden),
                };
            }
            hidden = layer.forward(hidden);
        }
        if self.sigmoid_output {
            hidden = sigmoid(hidden);
        }
        from_rows(hidden, shape)
    }
}

/// Sizes of a [`TwoWayAttentionBlock`].
#[derive(Config, Debug)]
pub struct TwoWayAttentionBlockConfig {
    /// Width `C`.
    pub embedding_dim: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden width of the MLP.
    pub mlp_dim: usize,
    /// Narrowing of the two cross attentions.
    #[config(default = 2)]
    pub attention_downsample_rate: usize,
    /// The self-attention sees the bare queries and replaces them instead of adding to them
    /// (the first layer of SAM2's decoder, whose queries are their own positional encoding).
    #[config(default = false)]
    pub skip_first_layer_pe: bool,
}

/// Queries and keys after a [`TwoWayAttentionBlock`] or a [`TwoWayTransformer`].
#[derive(Debug, Clone)]
pub struct TwoWayTokens {
    /// `[B, S, C]`
    pub queries: Tensor<3>,
    /// `[B, L, C]`
    pub keys: Tensor<3>,
}

/// Self-attention of queries, queries to keys, MLP, keys to queries; each with its residual and norm.
#[derive(Module, Debug)]
pub struct TwoWayAttentionBlock {
    /// Queries among themselves, full width.
    pub self_attn: Attention,
    /// After the self-attention.
    pub norm1: LayerNorm,
    /// Queries read keys.
    pub cross_attn_token_to_image: Attention,
    /// After the queries' cross attention.
    pub norm2: LayerNorm,
    /// Two layers with ReLU, on queries.
    pub mlp: Mlp,
    /// After the MLP.
    pub norm3: LayerNorm,
    /// Of the keys, after they read the queries.
    pub norm4: LayerNorm,
    /// Keys read queries.
    pub cross_attn_image_to_token: Attention,
    skip_first_layer_pe: bool,
}

impl TwoWayAttentionBlockConfig {
    /// A new block with random weights.
    pub fn init(&self, device: &Device) -> TwoWayAttentionBlock {
        let norm = || LayerNormConfig::new(self.embedding_dim).init(device);
        let cross = AttentionConfig::new(self.embedding_dim, self.num_heads)
            .with_downsample_rate(self.attention_downsample_rate);
        TwoWayAttentionBlock {
            self_attn: AttentionConfig::new(self.embedding_dim, self.num_heads).init(device),
            norm1: norm(),
            cross_attn_token_to_image: cross.init(device),
            norm2: norm(),
            mlp: MlpConfig::new(self.embedding_dim, self.mlp_dim, self.embedding_dim, 2)
                .init(device),
            norm3: norm(),
            norm4: norm(),
            cross_attn_image_to_token: cross.init(device),
            skip_first_layer_pe: self.skip_first_layer_pe,
        }
    }
}

impl TwoWayAttentionBlock {
    /// One round of both directions.
    ///
    /// # Shapes
    ///
    /// - queries, query_pe: `[B, S, C]`
    /// - keys: `[B, L, C]`; key_pe: `[B, L, C]` or `[1, L, C]`
    /// - key_mask: additive over padded keys, `[B, 1, 1, L]` (see [`padding_mask`]); a padded key
    ///   influences nobody, and what becomes of it is meaningless
    pub fn forward(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        query_pe: Tensor<3>,
        key_pe: Tensor<3>,
        key_mask: Option<Tensor<4>>,
    ) -> TwoWayTokens {
        let keys_with_pe = keys.clone() + key_pe;
        let queries = self.read_keys(
            queries,
            keys.clone(),
            keys_with_pe.clone(),
            query_pe.clone(),
            key_mask,
        );
        let queries_with_pe = queries.clone() + query_pe;
        let read = self.cross_attn_image_to_token.forward(
            keys_with_pe,
            queries_with_pe,
            queries.clone(),
            None,
        );
        let keys = self.norm4.forward(keys + read);
        TwoWayTokens { queries, keys }
    }

    /// The queries' half of [`TwoWayAttentionBlock::forward`]: all that a last block needs when
    /// nobody reads its keys.
    pub fn forward_queries(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        query_pe: Tensor<3>,
        key_pe: Tensor<3>,
        key_mask: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let keys_with_pe = keys.clone() + key_pe;
        self.read_keys(queries, keys, keys_with_pe, query_pe, key_mask)
    }

    fn read_keys(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        keys_with_pe: Tensor<3>,
        query_pe: Tensor<3>,
        key_mask: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let queries = if self.skip_first_layer_pe {
            self.self_attn
                .forward(queries.clone(), queries.clone(), queries, None)
        } else {
            let with_pe = queries.clone() + query_pe.clone();
            let attended = self
                .self_attn
                .forward(with_pe.clone(), with_pe, queries.clone(), None);
            queries + attended
        };
        let queries = self.norm1.forward(queries);
        let read = self.cross_attn_token_to_image.forward(
            queries.clone() + query_pe,
            keys_with_pe,
            keys,
            key_mask,
        );
        let queries = self.norm2.forward(queries + read);
        self.norm3
            .forward(queries.clone() + self.mlp.forward(queries))
    }
}

/// Sizes of a [`TwoWayTransformer`].
#[derive(Config, Debug)]
pub struct TwoWayTransformerConfig {
    /// Blocks.
    pub depth: usize,
    /// Width `C`.
    pub embedding_dim: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden width of the MLPs.
    pub mlp_dim: usize,
    /// Narrowing of the cross attentions.
    #[config(default = 2)]
    pub attention_downsample_rate: usize,
}

/// Two-way blocks and a last reading of the keys by the queries.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// In order; the first one skips the positional encoding of its queries.
    pub layers: Vec<TwoWayAttentionBlock>,
    /// Queries read keys once more.
    pub final_attn_token_to_image: Attention,
    /// After that.
    pub norm_final_attn: LayerNorm,
}

impl TwoWayTransformerConfig {
    /// A new transformer with random weights.
    pub fn init(&self, device: &Device) -> TwoWayTransformer {
        let layers = (0..self.depth)
            .map(|i| {
                TwoWayAttentionBlockConfig::new(self.embedding_dim, self.num_heads, self.mlp_dim)
                    .with_attention_downsample_rate(self.attention_downsample_rate)
                    .with_skip_first_layer_pe(i == 0)
                    .init(device)
            })
            .collect();
        TwoWayTransformer {
            layers,
            final_attn_token_to_image: AttentionConfig::new(self.embedding_dim, self.num_heads)
                .with_downsample_rate(self.attention_downsample_rate)
                .init(device),
            norm_final_attn: LayerNormConfig::new(self.embedding_dim).init(device),
        }
    }
}

impl TwoWayTransformer {
    /// # Shapes
    ///
    /// - image: `[B, L, C]`, features of the cells; image_pe: `[B, L, C]` or `[1, L, C]`
    /// - tokens: `[B, S, C]`; they are their own positional encoding
    pub fn forward(
        &self,
        image: Tensor<3>,
        image_pe: Tensor<3>,
        tokens: Tensor<3>,
    ) -> TwoWayTokens {
        let [batch, n_cells, width] = image.dims();
        assert_shape!(tokens, [batch, _, width]);
        assert_shape!(image_pe, [_, n_cells, width]);
        let mut now = TwoWayTokens {
            queries: tokens.clone(),
            keys: image,
        };
        for layer in &self.layers {
            now = layer.forward(
                now.queries,
                now.keys,
                tokens.clone(),
                image_pe.clone(),
                None,
            );
        }
        let read = self.final_attn_token_to_image.forward(
            now.queries.clone() + tokens,
            now.keys.clone() + image_pe,
            now.keys.clone(),
            None,
        );
        TwoWayTokens {
            queries: self.norm_final_attn.forward(now.queries + read),
            keys: now.keys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[track_caller]
    fn assert_close(found: Tensor<3>, expected: Tensor<3>) {
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn a_padded_key_influences_nobody() {
        let device = Device::flex();
        let block = TwoWayAttentionBlockConfig::new(8, 2, 12).init(&device);
        let (queries, keys) = (random([2, 3, 8], &device), random([2, 4, 8], &device));
        let valid = Tensor::<2, Bool>::from_data(
            [[true, true, true, false], [true, true, false, false]],
            &device,
        );
        let run = |keys: Tensor<3>, valid: Tensor<2, Bool>| {
            let mask = Some(padding_mask(valid));
            block.forward(queries.clone(), keys.clone(), queries.clone(), keys, mask)
        };
        let found = run(keys.clone(), valid);
        // The second problem by itself, without its padding.
        let short = keys.narrow(0, 1, 1).narrow(1, 0, 2);
        let alone = block.forward(
            queries.clone().narrow(0, 1, 1),
            short.clone(),
            queries.clone().narrow(0, 1, 1),
            short,
            None,
        );
        assert_close(found.queries.narrow(0, 1, 1), alone.queries);
        assert_close(found.keys.narrow(0, 1, 1).narrow(1, 0, 2), alone.keys);
    }

    #[test]
    fn half_a_block_gives_the_same_queries() {
        let device = Device::flex();
        let config = TwoWayAttentionBlockConfig::new(8, 2, 12);
        for skip in [false, true] {
            let block = config.clone().with_skip_first_layer_pe(skip).init(&device);
            let (queries, keys) = (random([2, 3, 8], &device), random([2, 4, 8], &device));
            let pe = random([1, 4, 8], &device);
            let args = (queries.clone(), keys, queries, pe);
            let (q, k, q_pe, k_pe) = args.clone();
            let whole = block.forward(q, k, q_pe, k_pe, None);
            let (q, k, q_pe, k_pe) = args;
            assert_close(block.forward_queries(q, k, q_pe, k_pe, None), whole.queries);
        }
    }

    #[test]
    fn attention_weights_are_those_of_the_forward_pass() {
        let device = Device::flex();
        let attention = AttentionConfig::new(8, 2)
            .with_downsample_rate(2)
            .init(&device);
        let (query, key) = (random([2, 3, 8], &device), random([2, 5, 8], &device));
        let weights = attention.weights(query.clone(), key.clone(), None);
        let value = attention.heads(attention.v_proj.forward(key.clone()));
        let expected = attention
            .out_proj
            .forward(merge_heads(weights.matmul(value)));
        assert_close(attention.forward(query, key.clone(), key, None), expected);
    }

    #[test]
    fn larger_initial_weights_are_larger() {
        let device = Device::flex();
        let largest = |scale: f64| -> f32 {
            let attention = AttentionConfig::new(16, 2)
                .with_init_scale(scale)
                .init(&device);
            attention.q_proj.weight.val().abs().max().into_scalar()
        };
        let bound = 0.25; // 1/√16
        assert!(largest(1.0) <= bound);
        assert!(largest(2.0) > bound && largest(2.0) <= 2.0 * bound);
    }

    #[test]
    fn only_a_head_that_asks_for_it_squashes_its_output() {
        let device = Device::flex();
        let input = random([2, 3, 4], &device) * 100.0;
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
