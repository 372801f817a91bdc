//! The two-way Q-Former: learned queries and a frame's features read each other, and the queries become its prompt.
//!
//! The keys of a frame are its clip's answer and its categories. Queries and keys take their own initial values for
//! positional encodings in every block, as in the reference (`TwoWayQformer`).
//! Paper: Eq. 8.
//!
//! Shapes: `N` frames · `S` keys of a frame · `A` adapter width · `Q` queries · `E` prompt width.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use super::CROSS_DOWNSAMPLE_RATE;
use crate::attention::AttentionMask;
use crate::config::ProjectorConfig;
use crate::recompute::Recompute;
use crate::two_way::{
    Mlp, MlpConfig, TwoWayAttentionBlock, TwoWayAttentionBlockConfig, TwoWayTokens,
};

/// Learned queries and features that read each other; the queries together become the prompt.
#[derive(Module, Debug)]
pub struct TwoWayQFormer {
    /// `[Q, A]`
    pub query_tokens: Param<Tensor<2>>,
    /// In order of use.
    pub transformer_layers: Vec<TwoWayAttentionBlock>,
    /// All queries of a frame → its prompt, `Q·A` → `E`.
    pub output_q_proj: Mlp,
    /// Each key → `E`; the reference trains nothing through it.
    pub output_k_proj: Mlp,
    /// Whether backward runs the Q-Former again.
    #[module(skip)]
    pub recompute: Recompute,
}

impl TwoWayQFormer {
    pub(super) fn new(config: &ProjectorConfig, d_prompt: usize, device: &Device) -> Self {
        let width = config.adapter_dim;
        let block = TwoWayAttentionBlockConfig::new(width, config.n_heads, config.d_ff)
            .with_attention_downsample_rate(CROSS_DOWNSAMPLE_RATE);
        let n_queries = config.n_qformer_queries;
        Self {
            // Standard normal, as SAM2 draws its decoder's tokens.
            query_tokens: Initializer::Normal {
                mean: 0.0,
                std: 1.0,
            }
            .init([n_queries, width], device),
            transformer_layers: (0..config.n_qformer_layers)
                .map(|_| block.init(device))
                .collect(),
            output_q_proj: MlpConfig::new(n_queries * width, d_prompt, d_prompt, 1).init(device),
            output_k_proj: MlpConfig::new(width, d_prompt, d_prompt, 1).init(device),
            recompute: Recompute::default(),
        }
    }

    /// # Shapes
    ///
    /// - keys: `[N, S, A]`
    /// - output: `[N, E]`
    pub fn forward(&self, keys: Tensor<3>, key_mask: &AttentionMask) -> Tensor<2> {
        let key_mask = key_mask.clone();
        let [prompt] = self.recompute.block(self, [keys], move |qformer, [keys]| {
            [qformer.read(keys, &key_mask).unsqueeze_dim(1)]
        });
        prompt.squeeze_dim(1)
    }

    fn read(&self, keys: Tensor<3>, key_mask: &AttentionMask) -> Tensor<2> {
        let [n_frames, _, _] = keys.dims();
        let query_pe = self.queries(n_frames);
        let key_pe = keys.clone();
        let mut tokens = TwoWayTokens {
            queries: query_pe.clone(),
            keys,
        };
        let (last, before) = self
            .transformer_layers
            .split_last()
            .expect("a Q-Former has blocks");
        for block in before {
            tokens = block.forward(
                tokens.queries,
                tokens.keys,
                query_pe.clone(),
                key_pe.clone(),
                key_mask,
            );
        }
        // Nobody reads the last block's keys.
        let queries = last.forward_queries(tokens.queries, tokens.keys, query_pe, key_pe, key_mask);
        self.prompt(queries)
    }

    pub(super) fn trace(
        &self,
        keys: Tensor<3>,
        key_mask: &AttentionMask,
    ) -> (Tensor<2>, Vec<TwoWayTokens>) {
        let [n_frames, _, _] = keys.dims();
        let query_pe = self.queries(n_frames);
        let key_pe = keys.clone();
        let mut tokens = TwoWayTokens {
            queries: query_pe.clone(),
            keys,
        };
        let mut blocks = Vec::with_capacity(self.transformer_layers.len());
        for block in &self.transformer_layers {
            tokens = block.forward(
                tokens.queries,
                tokens.keys,
                query_pe.clone(),
                key_pe.clone(),
                key_mask,
            );
            blocks.push(tokens.clone());
        }
        (self.prompt(tokens.queries), blocks)
    }

    /// `[N, Q, A]`
    fn queries(&self, n_frames: usize) -> Tensor<3> {
        let tokens = self.query_tokens.val();
        let [n_queries, width] = tokens.dims();
        tokens.unsqueeze::<3>().expand([n_frames, n_queries, width])
    }

    /// `[N, Q, A]` → `[N, E]`
    fn prompt(&self, queries: Tensor<3>) -> Tensor<2> {
        self.output_q_proj.forward(queries.flatten(1, 2))
    }
}
