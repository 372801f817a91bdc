//! Hiera, the frame encoder: a transformer in four stages, each with half the side and twice the width.
//!
//! Most blocks attend within windows, a few over the whole frame; see [`hiera_block`](super::hiera_block).
//! Reference: `sam2/modeling/backbones/hieradet.py` (SAM2).
//!
//! Shapes: `N` frames · `S` side of the picture in px · `h w` grid of a stage · `a` side of a window ·
//! `C` width of a stage.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use lavida_kernels::watch::gated;

use super::hiera_block::{MultiScaleBlock, MultiScaleBlockConfig};
use super::patch_embed::{PatchEmbed, PatchEmbedConfig};
use super::resample::bicubic_cells;
use super::windows::WindowedMap;

/// Spread of the initial position embeddings.
const POSITION_STD: f64 = 0.02;

/// Sizes of a [`Hiera`].
#[derive(Config, Debug)]
pub struct HieraConfig {
    /// Side `S` of the square picture in px.
    pub image_size: usize,
    /// Stride of the patch embedding in px.
    pub patch_stride: usize,
    /// Width of the first stage; doubles at each stage.
    pub embed_dim: usize,
    /// Heads of the first stage; double at each stage.
    pub num_heads: usize,
    /// Blocks per stage.
    pub stages: [usize; 4],
    /// Blocks that attend over the whole frame, counted over all stages.
    pub global_att_blocks: Vec<usize>,
    /// Window side per stage, in cells.
    pub window_spec: [usize; 4],
    /// Sides of the learned background position embedding, in cells.
    pub window_pos_embed_bkg_spatial_size: [usize; 2],
}

/// Patch embedding, positions and blocks.
#[derive(Module, Debug)]
pub struct Hiera {
    /// From pixels to tokens.
    pub patch_embed: PatchEmbed,
    /// Background positions `[1, C, ..]`, enlarged to the grid.
    pub pos_embed: Param<Tensor<4>>,
    /// Positions `[1, C, a, a]`, repeated over the grid.
    pub pos_embed_window: Param<Tensor<4>>,
    /// All stages in order.
    pub blocks: Vec<MultiScaleBlock>,
    stage_ends: Vec<usize>,
}

impl HieraConfig {
    /// Width of each stage.
    pub fn stage_dims(&self) -> [usize; 4] {
        [1, 2, 4, 8].map(|factor| self.embed_dim * factor)
    }

    /// Sizes of the patch embedding.
    pub fn patch_embed(&self) -> PatchEmbedConfig {
        PatchEmbedConfig::new(self.patch_stride, self.embed_dim)
    }

    /// A new encoder with random weights.
    ///
    /// # Panics
    ///
    /// Panics if the first stage's windows do not tile its grid: the position window is repeated over it.
    pub fn init(&self, device: &Device) -> Hiera {
        let side = self.patch_embed().grid_side(self.image_size);
        assert!(
            side.is_multiple_of(self.window_spec[0]),
            "the first stage's window of {} cells must tile its grid of {side}",
            self.window_spec[0]
        );
        let dims = self.stage_dims();
        let mut blocks = Vec::new();
        let mut stage_ends = Vec::new();
        for (stage, n_blocks) in self.stages.iter().enumerate() {
            for i in 0..*n_blocks {
                let is_shrinking = i == 0 && stage > 0;
                let before = if is_shrinking { stage - 1 } else { stage };
                let is_global = self.global_att_blocks.contains(&blocks.len());
                let block = MultiScaleBlockConfig {
                    dim: dims[before],
                    dim_out: dims[stage],
                    num_heads: self.num_heads << stage,
                    window_size: if is_global {
                        0
                    } else {
                        self.window_spec[before]
                    },
                };
                blocks.push(block.init(device));
            }
            stage_ends.push(blocks.len() - 1);
        }
        let positions = Initializer::Normal {
            mean: 0.0,
            std: POSITION_STD,
        };
        let [rows, columns] = self.window_pos_embed_bkg_spatial_size;
        let window = self.window_spec[0];
        Hiera {
            patch_embed: self.patch_embed().init(device),
            pos_embed: positions.init([1, self.embed_dim, rows, columns], device),
            pos_embed_window: positions.init([1, self.embed_dim, window, window], device),
            blocks,
            stage_ends,
        }
    }
}

impl Hiera {
    /// The map at the end of each stage, finest first.
    ///
    /// # Shapes
    ///
    /// - images: `[N, 3, S, S]`, normalised
    pub fn forward(&self, images: Tensor<4>) -> Vec<WindowedMap> {
        let first_window = self.blocks.first().map_or(0, |block| block.window_size);
        let patches = self.patch_embed.forward(images, first_window);
        let mut map = self.add_positions(patches);
        let mut stages = Vec::with_capacity(self.stage_ends.len());
        for (i, block) in self.blocks.iter().enumerate() {
            map = gated(block, &map.tokens).forward(map);
            if self.stage_ends.contains(&i) {
                stages.push(map.clone());
            }
        }
        stages
    }

    fn add_positions(&self, patches: WindowedMap) -> WindowedMap {
        let positions = WindowedMap::from_rows(self.positions(patches.grid), patches.grid);
        let tokens = patches.per_frame() + positions.in_windows(patches.window).per_frame();
        let shape = patches.tokens.dims();
        patches.with_tokens(tokens.reshape(shape))
    }

    /// Position embedding of every cell, row by row.
    ///
    /// # Shapes
    ///
    /// - output: `[1, h·w, C]`
    pub fn positions(&self, [h, w]: [usize; 2]) -> Tensor<3> {
        let background = bicubic_cells(self.pos_embed.val(), [h, w]);
        let tile = self.pos_embed_window.val(); // [1, C, a, a]
        let [_, n_channels, side, _] = tile.dims();
        let repeated = tile
            .permute([0, 2, 3, 1])
            .reshape([1, side, 1, side * n_channels])
            .expand([h / side, side, w / side, side * n_channels])
            .reshape([1, h * w, n_channels]);
        background + repeated
    }
}
