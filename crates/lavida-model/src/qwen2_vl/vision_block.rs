//! A block of the vision tower: patches attend to the patches of their temporal group.
//!
//! Shapes: `P` patches of all clips · `G` temporal groups · `E` width of the tower · `N` heads · `d` width of a head.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};
use lavida_kernels::activation::QUICK_GELU;

use super::rope::Rotary;
use super::vision::{INITIAL_STD, LAYER_NORM_EPSILON};
use crate::attention::{AttentionMask, attention};
use crate::config::VisionConfig;
use crate::initial::normal_linear;
use crate::linear::{linear_gated_of, linear_of};
use crate::norm::layer_norm_of;

/// Attention within groups and an MLP, each after a norm and beside a residual.
#[derive(Module, Debug)]
pub struct VisionBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// Self-attention.
    pub attn: VisionAttention,
    /// Two linear layers.
    pub mlp: VisionMlp,
}

/// Multi-head self-attention within temporal groups.
#[derive(Module, Debug)]
pub struct VisionAttention {
    /// Queries, keys and values at once.
    pub qkv: Linear,
    /// Of the heads' results.
    pub proj: Linear,
    n_heads: usize,
}

/// Linear, quick GELU, linear.
#[derive(Module, Debug)]
pub struct VisionMlp {
    /// Widens.
    pub fc1: Linear,
    /// Narrows.
    pub fc2: Linear,
}

/// Consecutive temporal groups with equally many patches: their attention is one batched call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupRun {
    n_groups: usize,
    n_patches: usize,
}

impl VisionConfig {
    /// One block with random weights.
    pub(super) fn init_block(&self, device: &Device) -> VisionBlock {
        let width = self.embed_dim;
        let norm = || {
            LayerNormConfig::new(width)
                .with_epsilon(LAYER_NORM_EPSILON)
                .init(device)
        };
        let linear =
            |d_input, d_output| normal_linear(d_input, d_output, true, INITIAL_STD, device);
        VisionBlock {
            norm1: norm(),
            norm2: norm(),
            attn: VisionAttention {
                qkv: linear(width, 3 * width),
                proj: linear(width, width),
                n_heads: self.num_heads,
            },
            mlp: VisionMlp {
                fc1: linear(width, self.mlp_ratio * width),
                fc2: linear(self.mlp_ratio * width, width),
            },
        }
    }
}

/// Equal neighbours counted together; a group that lost all its patches is left out.
pub(super) fn runs(group_sizes: impl Iterator<Item = usize>) -> Vec<GroupRun> {
    let mut runs: Vec<GroupRun> = Vec::new();
    for n_patches in group_sizes.filter(|n_patches| *n_patches > 0) {
        match runs.last_mut() {
            Some(run) if run.n_patches == n_patches => run.n_groups += 1,
            _ => runs.push(GroupRun {
                n_groups: 1,
                n_patches,
            }),
        }
    }
    runs
}

impl VisionBlock {
    /// # Shapes
    ///
    /// - hidden: `[P, E]`; rotary: of angles `[P, 1, 1, d/2]`; runs: the groups in order; output: `[P, E]`
    pub(super) fn forward(
        &self,
        hidden: Tensor<2>,
        rotary: &Rotary,
        runs: &[GroupRun],
    ) -> Tensor<2> {
        let attended = self
            .attn
            .forward(layer_norm_of(&self.norm1, hidden.clone()), rotary, runs);
        let hidden = hidden + attended;
        hidden.clone() + self.mlp.forward(layer_norm_of(&self.norm2, hidden))
    }
}

impl VisionAttention {
    fn forward(&self, hidden: Tensor<2>, rotary: &Rotary, runs: &[GroupRun]) -> Tensor<2> {
        let [n_patches, width] = hidden.dims();
        let (n_heads, d_head) = (self.n_heads, width / self.n_heads);
        let qkv = linear_of(&self.qkv, hidden).reshape([n_patches, 3, n_heads, d_head]);
        let turned = rotary.turn(qkv.clone().narrow(1, 0, 2)); // queries and keys
        let values = qkv.narrow(1, 2, 1);

        let mut start = 0;
        let mut attended = Vec::with_capacity(runs.len());
        for run in runs {
            let n_run = run.n_groups * run.n_patches;
            let heads = |part: Tensor<4>, which: usize| {
                part.narrow(0, start, n_run)
                    .narrow(1, which, 1)
                    .reshape([run.n_groups, run.n_patches, n_heads, d_head])
                    .swap_dims(1, 2) // [G, N, patches, d]
            };
            let of_run = attention(
                heads(turned.clone(), 0),
                heads(turned.clone(), 1),
                heads(values.clone(), 0),
                &AttentionMask::default(),
            );
            attended.push(of_run.swap_dims(1, 2).reshape([n_run, width]));
            start += n_run;
        }
        let attended = if attended.len() == 1 {
            attended.swap_remove(0)
        } else {
            Tensor::cat(attended, 0)
        };
        linear_of(&self.proj, attended)
    }
}

impl VisionMlp {
    fn forward(&self, hidden: Tensor<2>) -> Tensor<2> {
        linear_of(&self.fc2, linear_gated_of(&self.fc1, hidden, QUICK_GELU))
    }
}
