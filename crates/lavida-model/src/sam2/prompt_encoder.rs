//! What the mask decoder is asked: LAVIDA's prompt after SAM2's own tokens for "no point given".
//!
//! LAVIDA never clicks and never draws a box or a mask, so of SAM2's prompt encoder only three vectors are
//! read: `not_a_point_embed` twice (an empty click and the padding beside it), `no_mask_embed`, and the
//! encoding of the cells' places. The others come from the checkpoint and go back into it.
//! Reference: `sam2/modeling/sam/prompt_encoder.py`, called without points, boxes and masks (SAM2).
//!
//! Shapes: `N` frames · `E` width of prompts · `L` cells.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor, assert_shape};

use super::position_encoding::{PositionEmbeddingRandom, PositionEmbeddingRandomConfig};
use crate::norm::{LayerNorm, LayerNormConfig};

/// Kinds of points SAM2 knows: negative, positive, two corners of a box.
const N_POINT_KINDS: usize = 4;
/// Width inside the mask prompt's convolutions.
const MASK_CHANNELS: usize = 16;
/// Epsilon of norms over the channels of a map.
const NORM_EPSILON: f64 = 1e-6;

/// Sizes of a [`PromptEncoder`].
#[derive(Config, Debug)]
pub struct PromptEncoderConfig {
    /// Width `E`.
    pub embed_dim: usize,
}

/// SAM2's prompt encoder, as LAVIDA uses it.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Where the cells lie.
    pub pe_layer: PositionEmbeddingRandom,
    /// Kinds of points; never read here.
    pub point_embeddings: Vec<Embedding>,
    /// Stands where a point would.
    pub not_a_point_embed: Embedding,
    /// Mask prompts; never read here.
    pub mask_downscaling: MaskDownscaling,
    /// Added to every cell: no mask was given.
    pub no_mask_embed: Embedding,
}

/// Convolutions of a mask prompt, numbered as in the checkpoint.
#[derive(Module, Debug)]
pub struct MaskDownscaling {
    /// 1 to 4 channels, half the side.
    pub _0: Conv2d,
    /// Over channels.
    pub _1: LayerNorm,
    /// 4 to 16 channels, half the side.
    pub _3: Conv2d,
    /// Over channels.
    pub _4: LayerNorm,
    /// 16 channels to `E`.
    pub _6: Conv2d,
}

impl PromptEncoderConfig {
    /// A new encoder with random weights.
    pub fn init(&self, device: &Device) -> PromptEncoder {
        let one = || EmbeddingConfig::new(1, self.embed_dim).init(device);
        let narrow = MASK_CHANNELS / 4;
        let halve = |from, to| {
            Conv2dConfig::new([from, to], [2, 2])
                .with_stride([2, 2])
                .init(device)
        };
        let norm = |dim| {
            LayerNormConfig::new(dim)
                .with_epsilon(NORM_EPSILON)
                .init(device)
        };
        PromptEncoder {
            pe_layer: PositionEmbeddingRandomConfig::new(self.embed_dim).init(device),
            point_embeddings: (0..N_POINT_KINDS).map(|_| one()).collect(),
            not_a_point_embed: one(),
            mask_downscaling: MaskDownscaling {
                _0: halve(1, narrow),
                _1: norm(narrow),
                _3: halve(narrow, MASK_CHANNELS),
                _4: norm(MASK_CHANNELS),
                _6: Conv2dConfig::new([MASK_CHANNELS, self.embed_dim], [1, 1]).init(device),
            },
            no_mask_embed: one(),
        }
    }
}

impl PromptEncoder {
    /// Sparse prompt tokens: twice "not a point", then LAVIDA's prompt.
    ///
    /// # Shapes
    ///
    /// - prompts: `[N, E]`
    /// - output: `[N, 3, E]`
    pub fn sparse(&self, prompts: Tensor<2>) -> Tensor<3> {
        let [n_frames, width] = prompts.dims();
        let not_a_point = self.not_a_point_embed.weight.val();
        assert_shape!(not_a_point, [1, width]);
        let empty = not_a_point.unsqueeze::<3>().expand([n_frames, 2, width]);
        Tensor::cat(vec![empty, prompts.unsqueeze_dim(1)], 1)
    }

    /// The dense prompt, equal for every cell: `[1, 1, E]`.
    pub fn dense(&self) -> Tensor<3> {
        self.no_mask_embed.weight.val().unsqueeze()
    }

    /// Encoding of every cell's place: `[1, L, E]`.
    pub fn dense_positions(&self, grid: [usize; 2]) -> Tensor<3> {
        self.pe_layer.forward(grid)
    }
}
