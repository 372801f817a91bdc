//! From pixels to Hiera's first tokens: overlapping patches, one vector each.
//!
//! Patches are gathered into rows (a picture needs no gradient) and multiplied as one matrix, so the
//! backward is one product too; they are gathered straight into the order of the first block's windows.
//! Reference: `PatchEmbed` in `sam2/modeling/backbones/utils.py` (SAM2).
//!
//! Shapes: `N` frames · `S` side of the picture in px · `h` side of the grid · `a` side of a window ·
//! `C` width.

use burn::config::Config;
use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor, assert_shape};
use lavida_kernels::linear::linear;

use super::windows::WindowedMap;

/// Side of a patch in px.
const PATCH: usize = 7;
/// Pixels added around the picture.
const PATCH_PADDING: usize = 3;

/// Sizes of a [`PatchEmbed`].
#[derive(Config, Debug)]
pub struct PatchEmbedConfig {
    /// Distance of neighbouring patches in px.
    pub stride: usize,
    /// Width `C`.
    pub embed_dim: usize,
}

/// The convolution over patches.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// 7 × 7 px, padded by 3 px.
    pub proj: Conv2d,
}

impl PatchEmbedConfig {
    /// A new embedding with random weights.
    pub fn init(&self, device: &Device) -> PatchEmbed {
        let padding = PATCH_PADDING;
        PatchEmbed {
            proj: Conv2dConfig::new([3, self.embed_dim], [PATCH, PATCH])
                .with_stride([self.stride, self.stride])
                .with_padding(PaddingConfig2d::Explicit(
                    padding, padding, padding, padding,
                ))
                .init(device),
        }
    }

    /// Cells per side of the grid of a picture of `image_size` px.
    pub fn grid_side(&self, image_size: usize) -> usize {
        (image_size + 2 * PATCH_PADDING - PATCH) / self.stride + 1
    }
}

impl PatchEmbed {
    /// Patches as tokens, in windows of `window` cells where those tile the grid, else row by row.
    ///
    /// # Shapes
    ///
    /// - images: `[N, 3, S, S]`; no gradient flows into them
    /// - output: `[N, h·h, C]` in its windows
    pub fn forward(&self, images: Tensor<4>, window: usize) -> WindowedMap {
        assert_shape!(images, [_, 3, _, _]);
        let [stride, _] = self.proj.stride;
        let [n_frames, _, height, width] = images.dims();
        let side = |pixels: usize| (pixels + 2 * PATCH_PADDING - PATCH) / stride + 1;
        let grid = [side(height), side(width)];
        let tiles = window > 0 && grid.iter().all(|side| side.is_multiple_of(window));
        let [a, b] = if tiles { [window, window] } else { grid };

        // Channels last: a row of a patch is then 21 neighbouring values.
        let edge = (PATCH_PADDING, PATCH_PADDING);
        let padded = [height, width].map(|pixels| pixels + 2 * PATCH_PADDING);
        let pixels = images
            .without_autodiff()
            .cast(self.proj.weight.val().dtype())
            .pad([(0, 0), (0, 0), edge, edge], 0.0)
            .permute([0, 2, 3, 1])
            .reshape([n_frames, padded[0] * padded[1] * 3]) // one copy, channels last
            .reshape([n_frames, padded[0], padded[1], 3]);
        let rows: Tensor<8> = pixels
            .unfold::<5, _>(1, PATCH, stride) // [N, h, W, 3, 7y]
            .unfold::<6, _>(2, PATCH, stride) // [N, h, w, 3, 7y, 7x]
            .unfold::<7, _>(1, a, a) // [N, h/a, w, 3, 7y, 7x, a]
            .unfold::<8, _>(2, b, b); // [N, h/a, w/b, 3, 7y, 7x, a, b]
        let n_windows = n_frames * (grid[0] / a) * (grid[1] / b);
        let rows =
            rows.permute([0, 1, 2, 6, 7, 4, 5, 3])
                .reshape([n_windows, a * b, PATCH * PATCH * 3]);

        let weight = self.proj.weight.val(); // [C, 3, 7y, 7x]
        let n_channels = weight.dims()[0];
        let weight = weight
            .permute([2, 3, 1, 0])
            .reshape([PATCH * PATCH * 3, n_channels]);
        let bias = self.proj.bias.as_ref().map(|bias| bias.val());
        WindowedMap {
            tokens: linear(rows, weight, bias),
            grid,
            window: [a, b],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn gathered_patches_equal_the_convolution() {
        let device = Device::flex();
        for (stride, size, window) in [(4, 32, 4), (2, 16, 4), (2, 20, 4), (4, 32, 0)] {
            let config = PatchEmbedConfig::new(stride, 6);
            let embed = config.init(&device);
            let images =
                Tensor::<4>::random([2, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
            let side = config.grid_side(size);
            let expected = embed.proj.forward(images.clone()).permute([0, 2, 3, 1]);
            let found = embed.forward(images, window);
            assert_eq!(found.grid, [side, side]);
            found
                .into_rows()
                .reshape([2, side, side, 6])
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
        }
    }
}
