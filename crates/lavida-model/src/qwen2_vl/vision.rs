//! Qwen2-VL's vision tower: patches of a clip become visual tokens of the language model.
//!
//! A patch spans `temporal_patch_size` frames. Patches of one temporal group attend to each other and to no other
//! group; 2 × 2 neighbours are merged into one visual token at the end. At inference, patches that stay as they are
//! in the first group can be dropped before the blocks. Reference: `Qwen2VisionTransformerPretrainedModel` of
//! transformers, `temporal_token_reduction` of LAVIDA.
//!
//! Shapes: `P` patches of all clips · `G` temporal groups of all clips · `E` width of the tower · `N` heads ·
//! `L` visual tokens of all clips · `D` width of the language model · `m` patches merged per side.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData, assert_shape, s};
use lavida_kernels::activation::Step;
use lavida_kernels::linear::linear;
use lavida_kernels::watch::gated;

use super::rope::{Rotary, vision_angles};
use super::vision_block::{GroupRun, VisionBlock, runs};
use crate::config::VisionConfig;
use crate::initial::{normal, normal_linear};
use crate::linear::{linear_gated_of, linear_of};
use crate::norm::layer_norm_of;

pub(super) const LAYER_NORM_EPSILON: f64 = 1e-6;

/// Deviation of initial weights.
pub(super) const INITIAL_STD: f64 = 0.02;

/// Colour channels of a patch.
const CHANNELS: usize = 3;

/// A patch is static if, averaged over the later groups, it turns away from the first by less than this (1 − cos).
const STATIC_BELOW: f64 = 0.01;

/// The vision tower.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// Patches to width `E`.
    pub patch_embed: PatchEmbed,
    /// Transformer blocks.
    pub blocks: Vec<VisionBlock>,
    /// Neighbouring patches to visual tokens.
    pub merger: PatchMerger,
    merge_size: usize,
    n_heads: usize,
}

/// The first projection.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// A convolution whose kernel is a patch, so a product with flat patches.
    pub proj: PatchProjection,
}

/// The kernel of [`PatchEmbed`], in the checkpoint's shape.
#[derive(Module, Debug)]
pub struct PatchProjection {
    /// `[E, channels, temporal patch, patch, patch]`
    pub weight: Param<Tensor<5>>,
}

/// `m × m` neighbours side by side, to width `D`.
#[derive(Module, Debug)]
pub struct PatchMerger {
    /// Of each patch.
    pub ln_q: LayerNorm,
    /// Linear, GELU, linear.
    pub mlp: PatchMergerMlp,
}

/// The members of the checkpoint's `nn.Sequential` that hold weights.
#[derive(Module, Debug)]
pub struct PatchMergerMlp {
    /// Member 0.
    pub _0: Linear,
    /// Member 2, after a GELU.
    pub _2: Linear,
}

/// What is left of the clips after static patches were dropped.
#[derive(Clone, Debug)]
pub struct MovingTokens {
    /// `[L', D]` visual tokens that were not dropped.
    pub tokens: Tensor<2>,
    /// Per clip, which of its visual tokens these are, ascending.
    pub kept: Vec<Vec<usize>>,
}

impl VisionConfig {
    /// A tower with random weights.
    ///
    /// - d_token: width `D` of the visual tokens
    pub fn init(&self, d_token: usize, device: &Device) -> VisionTower {
        let width = self.embed_dim;
        let d_merged = width * self.spatial_merge_size * self.spatial_merge_size;
        let linear =
            |d_input, d_output| normal_linear(d_input, d_output, true, INITIAL_STD, device);
        let kernel = [
            width,
            CHANNELS,
            self.temporal_patch_size,
            self.patch_size,
            self.patch_size,
        ];
        VisionTower {
            patch_embed: PatchEmbed {
                proj: PatchProjection {
                    weight: normal(kernel, INITIAL_STD, device),
                },
            },
            blocks: (0..self.depth).map(|_| self.init_block(device)).collect(),
            merger: PatchMerger {
                ln_q: LayerNormConfig::new(width)
                    .with_epsilon(LAYER_NORM_EPSILON)
                    .init(device),
                mlp: PatchMergerMlp {
                    _0: linear(d_merged, d_merged),
                    _2: linear(d_merged, d_token),
                },
            },
            merge_size: self.spatial_merge_size,
            n_heads: self.num_heads,
        }
    }
}

impl VisionTower {
    /// Patches merged per side, `m`.
    pub fn merge_size(&self) -> usize {
        self.merge_size
    }

    /// Visual tokens of a clip with this patch grid.
    pub fn n_tokens(&self, [n_groups, height, width]: [usize; 3]) -> usize {
        n_groups * (height / self.merge_size) * (width / self.merge_size)
    }

    /// Visual tokens of clips, one after the other.
    ///
    /// # Shapes
    ///
    /// - patches: `[P, channels · temporal patch · patch · patch]`, in blocks of `m × m` neighbours
    /// - grids: per clip temporal groups, rows and columns of patches; together `P`
    /// - output: `[L, D]`
    pub fn forward(&self, patches: Tensor<2>, grids: &[[usize; 3]]) -> Tensor<2> {
        let device = patches.device();
        let hidden = self.patch_embed.forward(patches);
        let angles = self.angles(grids, &device);
        let group_sizes = grids
            .iter()
            .flat_map(|[n_groups, height, width]| std::iter::repeat_n(height * width, *n_groups));
        self.transform(hidden, angles, &runs(group_sizes))
    }

    /// [`VisionTower::forward`] without the patches that stay as they are in the first group of their clip.
    pub fn forward_moving(&self, patches: Tensor<2>, grids: &[[usize; 3]]) -> MovingTokens {
        let device = patches.device();
        let per_token = self.merge_size * self.merge_size;
        let hidden = self.patch_embed.forward(patches);
        let mut kept = Vec::with_capacity(grids.len());
        let (mut rows, mut group_sizes) = (Vec::new(), Vec::new());
        let mut start = 0; // first patch of the clip
        for grid in grids {
            let n_patches = grid.iter().product::<usize>();
            let clip = hidden.clone().narrow(0, start, n_patches);
            let kept_tokens = moving_tokens(clip, grid[0], per_token);
            rows.extend(kept_tokens.iter().flat_map(|token| {
                (0..per_token).map(move |patch| (start + token * per_token + patch) as i64)
            }));
            let tokens_per_group = n_patches / per_token / grid[0];
            group_sizes.extend((0..grid[0]).map(|group| {
                let of_group = |token: &&usize| **token / tokens_per_group == group;
                kept_tokens.iter().filter(of_group).count() * per_token
            }));
            kept.push(kept_tokens);
            start += n_patches;
        }
        let n_rows = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [n_rows]), &device);
        let hidden = hidden.select(0, rows.clone());
        let angles = self.angles(grids, &device).select(0, rows);
        MovingTokens {
            tokens: self.transform(hidden, angles, &runs(group_sizes.into_iter())),
            kept,
        }
    }

    fn angles(&self, grids: &[[usize; 3]], device: &Device) -> Tensor<2> {
        let [width, ..] = self.patch_embed.proj.weight.dims();
        vision_angles(grids, self.merge_size, width / self.n_heads, device)
    }

    fn transform(&self, hidden: Tensor<2>, angles: Tensor<2>, runs: &[GroupRun]) -> Tensor<2> {
        let [n_patches, _] = hidden.dims();
        let rotary = Rotary::new(angles, [n_patches, 1, 1]);
        let mut hidden = hidden;
        for block in &self.blocks {
            hidden = gated(block, &hidden).forward(hidden, &rotary, runs);
        }
        gated(&self.merger, &hidden).forward(hidden, self.merge_size * self.merge_size)
    }
}

/// Which visual tokens of a clip move; those of the first group always count.
///
/// # Shapes
///
/// - clip: `[patches of the clip, E]` after the first projection
fn moving_tokens(clip: Tensor<2>, n_groups: usize, per_token: usize) -> Vec<usize> {
    let [n_patches, width] = clip.dims();
    let per_group = n_patches / per_token / n_groups;
    if n_groups == 1 {
        return (0..per_group).collect();
    }
    let clip = clip.without_autodiff();
    let tokens = clip.reshape([n_groups, per_group, per_token * width]);
    let first = tokens.clone().narrow(0, 0, 1);
    let length = |tokens: Tensor<3>| tokens.square().sum_dim(2).sqrt().clamp_min(1e-8);
    let cosine = (tokens.clone() * first.clone()).sum_dim(2) / (length(tokens) * length(first));
    let turned = (cosine.neg() + 1.0).slice(s![1.., .., ..]).mean_dim(0);
    let turned: Vec<f32> = turned.into_data().iter().collect();
    (0..n_groups * per_group)
        .filter(|token| *token < per_group || f64::from(turned[token % per_group]) >= STATIC_BELOW)
        .collect()
}

impl PatchEmbed {
    /// # Shapes
    ///
    /// - patches: `[P, channels · temporal patch · patch · patch]`; output: `[P, E]`
    pub fn forward(&self, patches: Tensor<2>) -> Tensor<2> {
        let [width, channels, frames, rows, columns] = self.proj.weight.dims();
        let d_patch = channels * frames * rows * columns;
        assert_shape!(patches, [_, d_patch]);
        let kernel = self.proj.weight.val().reshape([width, d_patch]);
        linear(patches.cast(kernel.dtype()), kernel.transpose(), None)
    }
}

impl PatchMerger {
    /// # Shapes
    ///
    /// - hidden: `[P, E]`, merged neighbours adjacent; output: `[P / per_token, D]`
    fn forward(&self, hidden: Tensor<2>, per_token: usize) -> Tensor<2> {
        let [n_patches, width] = hidden.dims();
        let merged =
            layer_norm_of(&self.ln_q, hidden).reshape([n_patches / per_token, per_token * width]);
        linear_of(
            &self.mlp._2,
            linear_gated_of(&self.mlp._0, merged, Step::Normal),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    /// A device whose draws repeat.
    fn seeded() -> Device {
        let device = Device::flex();
        device.seed(1);
        device
    }

    fn tower(device: &Device) -> VisionTower {
        VisionConfig {
            depth: 2,
            embed_dim: 16,
            num_heads: 2,
            mlp_ratio: 2,
            patch_size: 2,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
        }
        .init(8, device)
    }

    fn patches(n_patches: usize, device: &Device) -> Tensor<2> {
        Tensor::random([n_patches, 24], Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn clips_of_different_grids_do_not_see_each_other() {
        let device = seeded();
        let tower = tower(&device);
        let (first, second) = (patches(16, &device), patches(24, &device));
        let together = tower.forward(
            Tensor::cat(vec![first.clone(), second.clone()], 0),
            &[[2, 2, 4], [1, 4, 6]],
        );
        let apart = Tensor::cat(
            vec![
                tower.forward(first, &[[2, 2, 4]]),
                tower.forward(second, &[[1, 4, 6]]),
            ],
            0,
        );
        assert_eq!(together.dims(), [10, 8]);
        together
            .into_data()
            .assert_approx_eq::<f32>(&apart.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn what_stands_still_is_seen_once() {
        let device = seeded();
        let tower = tower(&device);
        let group = patches(8, &device);
        let other = patches(8, &device);
        // Second token of the second group moves.
        let second = Tensor::cat(
            vec![group.clone().narrow(0, 0, 4), other.narrow(0, 4, 4)],
            0,
        );
        let clip = Tensor::cat(vec![group, second], 0);
        let moving = tower.forward_moving(clip, &[[2, 2, 4]]);
        assert_eq!(moving.kept, [vec![0, 1, 3]]);
        assert_eq!(moving.tokens.dims(), [3, 8]);
    }

    #[test]
    fn without_static_patches_nothing_is_dropped() {
        let device = seeded();
        let tower = tower(&device);
        let clip = patches(16, &device);
        let all = tower.forward(clip.clone(), &[[2, 2, 4]]);
        let moving = tower.forward_moving(clip, &[[2, 2, 4]]);
        assert_eq!(moving.kept, [vec![0, 1, 2, 3]]);
        moving
            .tokens
            .into_data()
            .assert_approx_eq::<f32>(&all.into_data(), Tolerance::absolute(1e-6));
    }
}
