//! The mask decoder: from a frame's cells and a prompt to candidate masks, how good each is, and whether
//! the object is there at all.
//!
//! Cells are enlarged twice by 2 × 2 transposed convolutions, helped by the finer levels of the pyramid.
//! A transposed convolution whose stride is its kernel is one product per cell, so the small cells stay
//! behind the cell they came from (nested order) and only the finished masks are put row by row.
//! Reference: `sam2/modeling/sam/mask_decoder.py` (SAM2).
//!
//! Shapes: `N` frames · `h w` grid of the pyramid's top, `L = h·w` cells · `E` width · `M` candidate masks
//! (3), preceded by the single mask.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, FloatDType, Tensor, assert_shape};
use lavida_kernels::linear::linear;

use lavida_kernels::activation::gelu;

use super::windows::WindowedMap;
use super::{FrameFeatures, pointwise_composed};
use crate::norm::{LayerNorm, LayerNormConfig};
use crate::two_way::{Mlp, MlpConfig, TwoWayTransformer, TwoWayTransformerConfig};

/// Candidate masks `M`, for prompts with more than one reading.
pub const N_CANDIDATES: usize = 3;
/// One single mask and the candidates.
const N_MASK_TOKENS: usize = N_CANDIDATES + 1;
/// Blocks of the two-way transformer.
const DEPTH: usize = 2;
/// Its heads.
const N_HEADS: usize = 8;
/// Layers of every head MLP.
const HEAD_LAYERS: usize = 3;
/// Epsilon of norms over the channels of a map.
const NORM_EPSILON: f64 = 1e-6;

/// Sizes of a [`MaskDecoder`].
#[derive(Config, Debug)]
pub struct MaskDecoderConfig {
    /// Width `E`.
    pub transformer_dim: usize,
    /// Hidden width of the transformer's MLPs.
    pub mlp_dim: usize,
    /// Hidden width of the IoU head.
    pub iou_head_hidden_dim: usize,
}

/// Two-way transformer, upscaling and heads.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// Tokens and cells read each other.
    pub transformer: TwoWayTransformer,
    /// Asks how good the masks are.
    pub iou_token: Embedding,
    /// One per mask, the single one first.
    pub mask_tokens: Embedding,
    /// Asks whether the object is in the frame.
    pub obj_score_token: Embedding,
    /// Four times the side, an eighth of the width.
    pub output_upscaling: OutputUpscaling,
    /// Narrows the pyramid's level 0.
    pub conv_s0: Conv2d,
    /// Narrows the pyramid's level 1.
    pub conv_s1: Conv2d,
    /// From a mask's token to its weights over the enlarged cells.
    pub output_hypernetworks_mlps: Vec<Mlp>,
    /// Predicted IoU of every mask.
    pub iou_prediction_head: Mlp,
    /// Logit of the object being in the frame.
    pub pred_obj_score_head: Mlp,
}

/// What follows the transformer.
#[derive(Module, Debug)]
struct Readout {
    output_upscaling: OutputUpscaling,
    output_hypernetworks_mlps: Vec<Mlp>,
    iou_prediction_head: Mlp,
    pred_obj_score_head: Mlp,
}

/// Upscaling layers, numbered as in the checkpoint.
#[derive(Module, Debug)]
pub struct OutputUpscaling {
    /// `E` to `E/4` channels, twice the side.
    pub _0: ConvTranspose2d,
    /// Over channels.
    pub _1: LayerNorm,
    /// `E/4` to `E/8` channels, twice the side.
    pub _3: ConvTranspose2d,
}

/// All that the decoder says, before any choice.
#[derive(Clone, Debug)]
pub struct DecodedMasks {
    /// `[N, 1 + M, 4h, 4w]`: the single mask, then the candidates.
    pub mask_logits: Tensor<4>,
    /// `[N, 1 + M]`, in (0, 1).
    pub iou_scores: Tensor<2>,
    /// `[N, 1 + M, E]`, the mask tokens after the transformer.
    pub mask_tokens: Tensor<3>,
    /// `[N]`, above zero where the object is seen.
    pub object_logits: Tensor<1>,
}

/// Finer levels of the pyramid at the decoder's widths, in nested order.
#[derive(Clone, Debug)]
pub struct HighResFeatures {
    /// `[N, 16·L, E/8]`
    pub s0: Tensor<3>,
    /// `[N, 4·L, E/4]`
    pub s1: Tensor<3>,
}

impl DecodedMasks {
    /// The same in f32: choices between masks and losses are made there.
    pub(super) fn widened(self) -> Self {
        let wide = FloatDType::F32;
        Self {
            mask_logits: self.mask_logits.cast(wide),
            iou_scores: self.iou_scores.cast(wide),
            mask_tokens: self.mask_tokens.cast(wide),
            object_logits: self.object_logits.cast(wide),
        }
    }
}

impl MaskDecoderConfig {
    /// A new decoder with random weights.
    pub fn init(&self, device: &Device) -> MaskDecoder {
        let width = self.transformer_dim;
        let tokens = |n| EmbeddingConfig::new(n, width).init(device);
        let narrow = |to| Conv2dConfig::new([width, to], [1, 1]).init(device);
        let enlarge = |from, to| {
            ConvTranspose2dConfig::new([from, to], [2, 2])
                .with_stride([2, 2])
                .init(device)
        };
        let head = |hidden, output| MlpConfig::new(width, hidden, output, HEAD_LAYERS);
        MaskDecoder {
            transformer: TwoWayTransformerConfig::new(DEPTH, width, N_HEADS, self.mlp_dim)
                .init(device),
            iou_token: tokens(1),
            mask_tokens: tokens(N_MASK_TOKENS),
            obj_score_token: tokens(1),
            output_upscaling: OutputUpscaling {
                _0: enlarge(width, width / 4),
                _1: LayerNormConfig::new(width / 4)
                    .with_epsilon(NORM_EPSILON)
                    .init(device),
                _3: enlarge(width / 4, width / 8),
            },
            conv_s0: narrow(width / 8),
            conv_s1: narrow(width / 4),
            output_hypernetworks_mlps: (0..N_MASK_TOKENS)
                .map(|_| head(width, width / 8).init(device))
                .collect(),
            iou_prediction_head: head(self.iou_head_hidden_dim, N_MASK_TOKENS)
                .with_sigmoid_output(true)
                .init(device),
            pred_obj_score_head: head(width, 1).init(device),
        }
    }
}

impl MaskDecoder {
    /// The finer levels, narrowed. The pyramid's own convolution and the decoder's are one product, so
    /// that the wide map between them never exists.
    ///
    /// # Shapes
    ///
    /// - fpn0, fpn1: the pyramid's convolutions of levels 0 and 1
    pub fn high_res_features(
        &self,
        frames: &FrameFeatures,
        fpn0: &Conv2d,
        fpn1: &Conv2d,
    ) -> HighResFeatures {
        let s1 = frames.stage1.clone().in_windows([2, 2]).per_frame();
        let s0 = nested_twice(frames.stage0.clone());
        HighResFeatures {
            s0: pointwise_composed(fpn0, &self.conv_s0, s0),
            s1: pointwise_composed(fpn1, &self.conv_s1, s1),
        }
    }

    /// Masks, their quality, and whether the object is there.
    ///
    /// # Shapes
    ///
    /// - cells: `[N, L, E]`, row by row, the dense prompt added; grid: `[h, w]`
    /// - cell_positions: `[1, L, E]`
    /// - prompt: `[N, P, E]`, sparse prompt tokens
    pub fn forward(
        &self,
        cells: Tensor<3>,
        grid: [usize; 2],
        cell_positions: Tensor<3>,
        prompt: Tensor<3>,
        high_res: HighResFeatures,
    ) -> DecodedMasks {
        let [n_frames, n_cells, width] = cells.dims();
        assert_eq!(
            grid[0] * grid[1],
            n_cells,
            "cells do not fill the grid {grid:?}"
        );
        assert_shape!(prompt, [n_frames, _, width]);
        assert_shape!(high_res.s0, [n_frames, 16 * n_cells, width / 8]);
        assert_shape!(high_res.s1, [n_frames, 4 * n_cells, width / 4]);

        let own = Tensor::cat(
            vec![
                self.obj_score_token.weight.val(),
                self.iou_token.weight.val(),
                self.mask_tokens.weight.val(),
            ],
            0,
        );
        let n_own = own.dims()[0];
        let own = own.unsqueeze::<3>().expand([n_frames, n_own, width]);
        let tokens = Tensor::cat(vec![own, prompt], 1);
        let read = self.transformer.forward(cells, cell_positions, tokens);
        let readout = Readout {
            output_upscaling: self.output_upscaling.clone(),
            output_hypernetworks_mlps: self.output_hypernetworks_mlps.clone(),
            iou_prediction_head: self.iou_prediction_head.clone(),
            pred_obj_score_head: self.pred_obj_score_head.clone(),
        };
        let mask_tokens = read.queries.clone().narrow(1, 2, N_MASK_TOKENS);
        let [masks, iou_scores, object_logits] = self.transformer.recompute.block(
            &readout,
            [read.queries, read.keys, high_res.s0, high_res.s1],
            Readout::forward,
        );
        DecodedMasks {
            mask_logits: unnest_twice(masks, grid),
            iou_scores: iou_scores.squeeze_dim(1),
            mask_tokens,
            object_logits: object_logits.squeeze_dims(&[1, 2]),
        }
    }
}

impl Readout {
    /// Masks over nested cells `[N, 1 + M, 16·L]`, their quality `[N, 1, 1 + M]`, and whether the object is there `[N, 1, 1]`.
    ///
    /// # Shapes
    ///
    /// - queries: `[N, 2 + 1 + M + P, E]`, keys: `[N, L, E]`, both after the transformer
    /// - s0, s1: see [`HighResFeatures`]
    fn forward(&self, [queries, keys, s0, s1]: [Tensor<3>; 4]) -> [Tensor<3>; 3] {
        let token = |i: usize| -> Tensor<2> { queries.clone().narrow(1, i, 1).squeeze_dim(1) };
        let enlarged = self.enlarge(keys, HighResFeatures { s0, s1 }); // [N, 16·L, E/8]
        let weights = self.output_hypernetworks_mlps.iter().enumerate();
        let weights = weights.map(|(i, mlp)| mlp.forward(token(2 + i))).collect();
        let weights: Tensor<3> = Tensor::stack(weights, 1); // [N, 1 + M, E/8]
        let masks = weights.matmul(enlarged.swap_dims(1, 2));
        [
            masks,
            self.iou_prediction_head.forward(token(1)).unsqueeze_dim(1),
            self.pred_obj_score_head.forward(token(0)).unsqueeze_dim(1),
        ]
    }

    /// Four times the side: `[N, L, E]` to `[N, 16·L, E/8]` in nested order.
    fn enlarge(&self, cells: Tensor<3>, high_res: HighResFeatures) -> Tensor<3> {
        let OutputUpscaling { _0, _1, _3 } = &self.output_upscaling;
        let finer = split_cells(_0, cells) + high_res.s1;
        let finer = gelu(_1.forward(finer));
        gelu(split_cells(_3, finer) + high_res.s0)
    }
}

/// A transposed convolution of kernel and stride 2: each token becomes its 2 × 2 smaller ones, which
/// follow each other.
///
/// # Shapes
///
/// - tokens: `[N, L, C]`; output: `[N, 4·L, C']`
fn split_cells(conv: &ConvTranspose2d, tokens: Tensor<3>) -> Tensor<3> {
    let weight = conv.weight.val();
    let [from, to, height, width] = weight.dims();
    let [n_frames, n_tokens, _] = tokens.dims();
    let parts = height * width;
    let weight = weight.permute([0, 2, 3, 1]).reshape([from, parts * to]);
    let bias = conv.bias.as_ref().map(Param::val);
    let bias = bias.map(|bias| {
        bias.unsqueeze::<2>()
            .expand([parts, to])
            .reshape([parts * to])
    });
    linear(tokens, weight, bias).reshape([n_frames, n_tokens * parts, to])
}

/// Cells of the finest level behind the cell of the top they lie in: 2 × 2 of 2 × 2.
fn nested_twice(map: WindowedMap) -> Tensor<3> {
    let (n_frames, n_channels) = (map.n_frames(), map.n_channels());
    let [h, w] = map.grid;
    let fours = map.in_windows([4, 4]).tokens;
    WindowedMap::from_rows(fours, [4, 4])
        .in_windows([2, 2])
        .tokens
        .reshape([n_frames, h * w, n_channels])
}

/// Masks over nested cells to masks row by row.
///
/// # Shapes
///
/// - masks: `[N, M, h·w·16]`; output: `[N, M, 4h, 4w]`
fn unnest_twice(masks: Tensor<3>, [h, w]: [usize; 2]) -> Tensor<4> {
    let [n_frames, n_masks, _] = masks.dims();
    masks
        .reshape([n_frames * n_masks, h, w, 2, 2, 2, 2])
        .permute([0, 1, 3, 5, 2, 4, 6])
        .reshape([n_frames, n_masks, 4 * h, 4 * w])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn splitting_cells_equals_the_transposed_convolution() {
        let device = Device::flex();
        let conv = ConvTranspose2dConfig::new([6, 3], [2, 2])
            .with_stride([2, 2])
            .init(&device);
        let map = Tensor::<4>::random([2, 6, 3, 5], Distribution::Normal(0.0, 1.0), &device);
        let expected = conv.forward(map.clone()); // [2, 3, 6, 10]
        let cells = map.permute([0, 2, 3, 1]).reshape([2, 15, 6]);
        let found = WindowedMap {
            tokens: split_cells(&conv, cells).reshape([2 * 15, 4, 3]),
            grid: [6, 10],
            window: [2, 2],
        };
        let found = found
            .into_rows()
            .reshape([2, 6, 10, 3])
            .permute([0, 3, 1, 2]);
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn nesting_and_unnesting_is_the_identity() {
        let device = Device::flex();
        let rows = Tensor::<3>::random([2, 12 * 8, 1], Distribution::Normal(0.0, 1.0), &device);
        let nested = nested_twice(WindowedMap::from_rows(rows.clone(), [12, 8]));
        let masks = unnest_twice(nested.reshape([2, 1, 96]), [3, 2]);
        masks
            .reshape([2, 96, 1])
            .into_data()
            .assert_eq(&rows.into_data(), true);
    }
}
