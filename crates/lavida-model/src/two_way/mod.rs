//! The two-way transformer: a few tokens and a map of features attend to each other in turn.
//!
//! SAM2's mask decoder lets its prompt tokens read the frame and the frame read the tokens back;
//! LAVIDA's projector does the same with learnable queries and category features. Both are built
//! from the blocks of this file, whose field names are those of the checkpoints.
//! Reference: `sam2/modeling/sam/transformer.py` and `MLP` of `sam2_utils.py` (SAM2).
//!
//! Shapes: `B` independent problems (frames) · `S` query tokens · `C` width · `N` heads ·
//! `L` key tokens (cells of a feature map, or categories).

mod attention;
mod mlp;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor, assert_shape};

use crate::attention::AttentionMask;
use crate::norm::{LayerNorm, LayerNormConfig};
use crate::recompute::{Recompute, fork};
pub use attention::{Attention, AttentionConfig};
pub(crate) use attention::{merge_heads, split_heads};
pub use mlp::{Activation, Mlp, MlpConfig};

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
    ///
    /// A key that the mask leaves out influences nobody, and what becomes of it is meaningless.
    pub fn forward(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        query_pe: Tensor<3>,
        key_pe: Tensor<3>,
        key_mask: &AttentionMask,
    ) -> TwoWayTokens {
        let keys_with_pe = keys.clone() + key_pe;
        let queries = self.read_keys(
            queries,
            keys.clone(),
            keys_with_pe.clone(),
            query_pe.clone(),
            key_mask,
        );
        let [read_queries, queries] = fork(queries);
        let queries_with_pe = read_queries.clone() + query_pe;
        let read = self.cross_attn_image_to_token.forward(
            keys_with_pe,
            queries_with_pe,
            read_queries,
            &AttentionMask::default(),
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
        key_mask: &AttentionMask,
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
        key_mask: &AttentionMask,
    ) -> Tensor<3> {
        let all = &AttentionMask::default();
        let queries = if self.skip_first_layer_pe {
            self.self_attn
                .forward(queries.clone(), queries.clone(), queries, all)
        } else {
            let with_pe = queries.clone() + query_pe.clone();
            let attended = self
                .self_attn
                .forward(with_pe.clone(), with_pe, queries.clone(), all);
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
    /// Whether backward runs the blocks, and the last reading, again.
    #[module(skip)]
    pub recompute: Recompute,
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
            recompute: Recompute::default(),
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
        let [mut queries, mut token_pe] = fork(tokens);
        let mut keys = image;
        for layer in &self.layers {
            let [pe, rest] = fork(token_pe);
            token_pe = rest;
            [queries, keys] = self.recompute.block(
                layer,
                [queries, keys, pe, image_pe.clone()],
                |layer, [queries, keys, query_pe, key_pe]| {
                    let now =
                        layer.forward(queries, keys, query_pe, key_pe, &AttentionMask::default());
                    [now.queries, now.keys]
                },
            );
        }
        let [read_keys, keys] = fork(keys);
        let last = (
            self.final_attn_token_to_image.clone(),
            self.norm_final_attn.clone(),
        );
        let [queries] = self.recompute.block(
            &last,
            [queries, read_keys, token_pe, image_pe],
            |(attention, norm), [queries, keys, query_pe, key_pe]| {
                let query = queries.clone() + query_pe;
                let all = AttentionMask::default();
                let read = attention.forward(query, keys.clone() + key_pe, keys, &all);
                [norm.forward(queries + read)]
            },
        );
        TwoWayTokens { queries, keys }
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
        let mask = AttentionMask::default().with_keys([0..3, 0..2]);
        let (q, k) = (queries.clone(), keys.clone());
        let found = block.forward(q.clone(), k.clone(), q, k, &mask);
        // The second problem by itself, without its padding.
        let short = keys.narrow(0, 1, 1).narrow(1, 0, 2);
        let alone = block.forward(
            queries.clone().narrow(0, 1, 1),
            short.clone(),
            queries.clone().narrow(0, 1, 1),
            short,
            &AttentionMask::default(),
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
            let all = AttentionMask::default();
            let args = (queries.clone(), keys, queries, pe);
            let (q, k, q_pe, k_pe) = args.clone();
            let whole = block.forward(q, k, q_pe, k_pe, &all);
            let (q, k, q_pe, k_pe) = args;
            assert_close(block.forward_queries(q, k, q_pe, k_pe, &all), whole.queries);
        }
    }
}
