//! The multi-scale semantic projector: from words and frames to one mask-decoder prompt per frame.
//!
//! The language model answers once per clip; the mask decoder needs a prompt per frame. So the categories look at
//! every frame (`f_a`, Eq. 7), are put behind the clip's answer, and learned queries read both through a two-way
//! transformer (Eq. 8); the queries together are the frame's prompt.
//! Paper: section 3.7. Reference: `MultiScaleSemanticProjector`, `TwoWayQformer`. As there, the position of a cell is
//! added to its feature, the categories keep a residual with a norm, and the two-way blocks take their queries' initial
//! values and their keys' initial values for positional encodings.
//!
//! Shapes: `B` clips · `N` frames of all clips · `C` categories of all clips · `K` most categories of a clip ·
//! `P` cells of a frame's feature map · `D` language width · `D_t` text width · `D_v` feature width · `A` adapter width ·
//! `Q` queries · `E` prompt width.

mod layout;
mod qformer;

pub use layout::ClipLayout;
pub use qformer::TwoWayQFormer;

use layout::CategoriesOfFrame;

use burn::module::{Module, Param, ParamId};
use burn::nn::{self, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Tensor, assert_shape};

use crate::attention::AttentionMask;
use crate::config::ProjectorConfig;
use crate::linear::{Linear, LinearConfig};
use crate::norm::layer_norm_of;
use crate::two_way::{Attention, AttentionConfig, TwoWayTokens};

/// Narrowing of every cross attention: their heads together are `A / 2` wide.
const CROSS_DOWNSAMPLE_RATE: usize = 2;

/// Widths of what goes in and out of the projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectorWidths {
    /// `D`, of the language model.
    pub language: usize,
    /// `D_t`, of the text tower.
    pub text: usize,
    /// `D_v`, of the frame features.
    pub vision: usize,
    /// `E`, of the mask decoder's prompts.
    pub prompt: usize,
}

/// What the projector reads.
#[derive(Clone, Debug)]
pub struct ProjectorInput<'a> {
    /// `[B, D]` hidden state at `<SEG>` (f_sem).
    pub semantic_feature: Tensor<2>,
    /// `[C, D_t]` text features of the categories, clip after clip (f_c).
    pub category_features: Tensor<2>,
    /// `[N, P, D_v]` coarsest features of the frames (f_v).
    pub frame_features: Tensor<3>,
    /// `[N, P, D_v]` or `[1, P, D_v]` positional encodings of the cells.
    pub cell_positions: Tensor<3>,
    /// Which frames and categories belong together.
    pub layout: &'a ClipLayout,
}

/// Prompts with what led to them.
#[derive(Clone, Debug)]
pub struct ProjectorTrace {
    /// `[N, E]` f_proj.
    pub prompt_embedding: Tensor<2>,
    /// `[N, K, A]` categories after attending to the frame, before residual and norm.
    pub attended_categories: Tensor<3>,
    /// `[N, K, A]` f_a.
    pub frame_category_features: Tensor<3>,
    /// `[N, K, E]` categories after the two-way blocks; the reference returns them and never uses them.
    pub category_embedding: Tensor<3>,
    /// Queries and keys after each two-way block.
    pub blocks: Vec<TwoWayTokens>,
}

/// Φ_proj with the cross attention before it.
#[derive(Module, Debug)]
pub struct SemanticProjector {
    /// `D_v` → `A`
    pub video_proj: Linear,
    /// `D_t` → `A`
    pub text_proj: Linear,
    /// Categories read frames.
    pub cross_attn: Attention,
    /// After the residual of the cross attention.
    pub output_norm: LayerNorm,
    /// `W_o`
    pub output_proj: Linear,
    /// `W_LLM`: `D` → `A`
    pub seg_proj: Linear,
    /// The Q-Former.
    pub text_fc: TwoWayQFormer,
}

impl ProjectorConfig {
    /// A projector whose values are drawn at their first use.
    pub fn init(&self, widths: &ProjectorWidths, device: &Device) -> SemanticProjector {
        let width = self.adapter_dim;
        let mut cross_attn = AttentionConfig::new(width, self.cross_attn_heads)
            .with_downsample_rate(CROSS_DOWNSAMPLE_RATE)
            .init(device);
        cross_attn.q_proj.weight = scaled(cross_attn.q_proj.weight, self.cross_attn_init_scale);
        cross_attn.k_proj.weight = scaled(cross_attn.k_proj.weight, self.cross_attn_init_scale);
        SemanticProjector {
            video_proj: LinearConfig::new(widths.vision, width).init(device),
            text_proj: LinearConfig::new(widths.text, width).init(device),
            cross_attn,
            output_norm: LayerNormConfig::new(width).init(device),
            output_proj: LinearConfig::new(width, width).init(device),
            seg_proj: LinearConfig::new(widths.language, width).init(device),
            text_fc: TwoWayQFormer::new(self, widths.prompt, device),
        }
    }
}

/// Two layers as one: `(x·W₁ + b₁)·W₂ + b₂ = x·(W₁·W₂) + (b₁·W₂ + b₂)`.
fn composed(first: &Linear, second: &nn::Linear) -> nn::Linear {
    let (weight, bias) = (first.weight.val(), first.bias.as_ref().map(Param::val));
    let own = second.bias.as_ref().map(Param::val);
    let carried = bias.map(|bias| {
        let row = bias.unsqueeze::<2>().matmul(second.weight.val());
        row.squeeze_dim::<1>(0)
    });
    let bias = match (carried, own) {
        (Some(carried), Some(own)) => Some(carried + own),
        (carried, own) => carried.or(own),
    };
    nn::Linear {
        weight: Param::initialized(ParamId::new(), weight.matmul(second.weight.val())),
        bias: bias.map(|bias| Param::initialized(ParamId::new(), bias)),
    }
}

/// The same parameter with other initial values.
fn scaled(weight: Param<Tensor<2>>, scale: f64) -> Param<Tensor<2>> {
    if scale == 1.0 {
        weight
    } else {
        weight.init_mapper(move |weight| weight.mul_scalar(scale))
    }
}

impl SemanticProjector {
    /// One prompt per frame.
    ///
    /// # Shapes
    ///
    /// - output: `[N, E]`
    pub fn forward(&self, input: ProjectorInput) -> Tensor<2> {
        let fused = self.fuse(input);
        self.text_fc.forward(fused.keys, &fused.key_mask)
    }

    /// As [`forward`](Self::forward), with every intermediate result.
    pub fn trace(&self, input: ProjectorInput) -> ProjectorTrace {
        let fused = self.fuse(input);
        let (prompt_embedding, blocks) = self.text_fc.trace(fused.keys, &fused.key_mask);
        let keys = blocks
            .last()
            .map(|tokens| tokens.keys.clone())
            .expect("a Q-Former has blocks");
        let [_, n_keys, _] = keys.dims();
        ProjectorTrace {
            prompt_embedding,
            attended_categories: fused.attended_categories,
            frame_category_features: fused.frame_category_features,
            category_embedding: self
                .text_fc
                .output_k_proj
                .forward(keys.narrow(1, 1, n_keys - 1)),
            blocks,
        }
    }

    /// Where each category looks in each frame: weights of the cross attention, mean over its heads.
    ///
    /// # Shapes
    ///
    /// - category_features: `[C, D_t]`
    /// - frame_features: `[N, P, D_v]`, cell_positions: `[N, P, D_v]` or `[1, P, D_v]`
    /// - output: `[N, K, P]`, rows sum to one; rows of padded categories repeat the clip's first
    pub fn category_attention(
        &self,
        category_features: Tensor<2>,
        frame_features: Tensor<3>,
        cell_positions: Tensor<3>,
        layout: &ClipLayout,
    ) -> Tensor<3> {
        let device = frame_features.device();
        let categories = layout.categories_of_frame(&device);
        let text = self.project_text(category_features, &categories, layout);
        self.cross_attn_over_cells()
            .weights(text, frame_features + cell_positions)
            .mean_dim(1)
            .squeeze_dim(1)
    }

    fn fuse(&self, input: ProjectorInput) -> Fused {
        let [n_frames, n_cells, d_vision] = input.frame_features.dims();
        assert_shape!(input.cell_positions, [_, n_cells, d_vision]);
        let [_, d_language] = input.semantic_feature.dims();
        let n_clips = input.layout.n_frames.len();
        assert_shape!(input.semantic_feature, [n_clips, d_language]);
        assert_eq!(
            input.layout.n_frames.iter().sum::<usize>(),
            n_frames,
            "frames of the layout"
        );
        let device = input.frame_features.device();

        let categories = input.layout.categories_of_frame(&device);
        let text = self.project_text(input.category_features, &categories, input.layout); // [N, K, A]
        let cells = input.frame_features + input.cell_positions; // [N, P, D_v]
        let all = AttentionMask::default();
        let cross_attn = self.cross_attn_over_cells();
        let attended = cross_attn.forward(text.clone(), cells.clone(), cells, &all); // [N, K, A]
        let fused = self
            .output_proj
            .forward(layer_norm_of(&self.output_norm, text + attended.clone()));

        let answer = self.seg_proj.forward(input.semantic_feature); // [B, A]
        let answer = answer
            .select(0, input.layout.clip_of_frame(&device))
            .unsqueeze_dim::<3>(1); // [N, 1, A]
        let n_keys = categories.n_valid.iter().map(|n| 1 + n); // the answer stands before them
        let key_mask = AttentionMask::default().with_keys(n_keys.map(|n| 0..n));
        Fused {
            keys: Tensor::cat(vec![answer, fused.clone()], 1), // [N, 1 + K, A]
            key_mask,
            attended_categories: attended,
            frame_category_features: fused,
        }
    }

    /// The cross attention with `video_proj` drawn into its keys and values: two products from `D_v` to the heads' width
    /// instead of one to `A` and two back, and cells are many. The gradient reaches all three layers.
    fn cross_attn_over_cells(&self) -> Attention {
        let mut attention = self.cross_attn.clone();
        attention.k_proj = composed(&self.video_proj, &attention.k_proj);
        attention.v_proj = composed(&self.video_proj, &attention.v_proj);
        attention
    }

    /// `[C, D_t]` → `[N, K, A]`
    fn project_text(
        &self,
        features: Tensor<2>,
        categories: &CategoriesOfFrame,
        layout: &ClipLayout,
    ) -> Tensor<3> {
        let n_categories: usize = layout.n_categories.iter().sum();
        assert_shape!(features, [n_categories, _]);
        assert!(
            layout.n_categories.iter().all(|&n| n > 0),
            "a clip without categories: {layout:?}"
        );
        let projected = self.text_proj.forward(features); // [C, A]
        let [_, width] = projected.dims();
        let n_frames = layout.n_frames.iter().sum();
        projected.select(0, categories.rows.clone()).reshape([
            n_frames,
            layout.max_categories(),
            width,
        ])
    }
}

struct Fused {
    /// `[N, 1 + K, A]` the clip's answer, then the categories.
    keys: Tensor<3>,
    key_mask: AttentionMask,
    attended_categories: Tensor<3>,
    frame_category_features: Tensor<3>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, TensorData, Tolerance};

    const WIDTHS: ProjectorWidths = ProjectorWidths {
        language: 12,
        text: 6,
        vision: 8,
        prompt: 8,
    };

    fn projector(device: &Device) -> SemanticProjector {
        ProjectorConfig {
            adapter_dim: 8,
            cross_attn_heads: 2,
            n_qformer_layers: 2,
            n_qformer_queries: 3,
            n_heads: 2,
            d_ff: 16,
            cross_attn_init_scale: 2.0,
        }
        .init(&WIDTHS, device)
    }

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn clips_of_a_batch_do_not_see_each_other() {
        let device = Device::default();
        let projector = projector(&device);
        let (semantic, text) = (random([2, 12], &device), random([5, 6], &device));
        let (frames, cells) = (random([3, 4, 8], &device), random([1, 4, 8], &device));
        let of = |clips: [usize; 2],
                  categories: [usize; 2],
                  in_frames: [usize; 2],
                  layout: &ClipLayout| {
            let range = |[start, end]: [usize; 2]| start..end;
            projector
                .forward(ProjectorInput {
                    semantic_feature: semantic.clone().slice([range(clips)]),
                    category_features: text.clone().slice([range(categories)]),
                    frame_features: frames.clone().slice([range(in_frames)]),
                    cell_positions: cells.clone(),
                    layout,
                })
                .into_data()
        };
        // Two clips: one frame asked for four categories, two frames asked for one, which is padded to four.
        let layout = |n_frames: &[usize], n_categories: &[usize]| ClipLayout {
            n_frames: n_frames.to_vec(),
            n_categories: n_categories.to_vec(),
        };
        let together = of([0, 2], [0, 5], [0, 3], &layout(&[1, 2], &[4, 1]));
        let first = of([0, 1], [0, 4], [0, 1], &layout(&[1], &[4]));
        let second = of([1, 2], [4, 5], [1, 3], &layout(&[2], &[1]));
        let apart: Vec<f32> = [first, second]
            .iter()
            .flat_map(|data| data.as_slice::<f32>().unwrap().to_vec())
            .collect();
        together
            .assert_approx_eq::<f32>(&TensorData::new(apart, [3, 8]), Tolerance::absolute(1e-5));
    }

    #[test]
    fn attention_of_a_category_sums_to_one() {
        let device = Device::default();
        let layout = ClipLayout {
            n_frames: vec![1, 2],
            n_categories: vec![3, 2],
        };
        let attention = projector(&device).category_attention(
            random([5, 6], &device),
            random([3, 4, 8], &device),
            random([1, 4, 8], &device),
            &layout,
        );
        assert_eq!(attention.dims(), [3, 3, 4]);
        let sums = attention.sum_dim(2).into_data();
        sums.assert_approx_eq::<f32>(
            &TensorData::new(vec![1f32; 9], [3, 3, 1]),
            Tolerance::absolute(1e-5),
        );
    }

    #[test]
    fn scaled_queries_and_keys_are_still_leaves() {
        let projector = projector(&Device::default().autodiff());
        let weight = projector.cross_attn.q_proj.weight.val();
        assert!(weight.is_require_grad());
        let largest: f32 = weight.abs().max().into_scalar();
        assert!(
            largest > 1.0 / 8f32.sqrt(),
            "twice PyTorch's range, largest {largest}"
        );
    }
}
