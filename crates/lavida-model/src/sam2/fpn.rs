//! Feature pyramid: the stages of Hiera brought to one width, the coarse ones handed down.
//!
//! Only levels 2 and 3 are summed; level 3 itself is dropped afterwards (`scalp` 1 in the reference), so
//! that the top of the pyramid is level 2. Levels 0 and 1 serve the mask decoder alone, which narrows
//! them at once; see [`pointwise_composed`](super::pointwise_composed).
//! Reference: `sam2/modeling/backbones/image_encoder.py`, `FpnNeck` (SAM2).
//!
//! Shapes: `N` frames · `L` cells of a level, row by row · `E` width of the pyramid.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};

use super::pointwise;

/// Sizes of an [`FpnNeck`].
#[derive(Config, Debug)]
pub struct FpnNeckConfig {
    /// Width `E` of every level.
    pub d_model: usize,
    /// Widths of the stages, finest first.
    pub stage_dims: [usize; 4],
}

/// Convolution of one level, under the reference's name.
#[derive(Module, Debug)]
pub struct Lateral {
    /// 1 × 1.
    pub conv: Conv2d,
}

/// One 1 × 1 convolution per stage and the way down.
#[derive(Module, Debug)]
pub struct FpnNeck {
    /// Coarsest first, as in the reference.
    pub convs: Vec<Lateral>,
}

impl FpnNeckConfig {
    /// A new neck with random weights.
    pub fn init(&self, device: &Device) -> FpnNeck {
        let convs = self.stage_dims.iter().rev();
        let convs = convs
            .map(|dim| Lateral {
                conv: Conv2dConfig::new([*dim, self.d_model], [1, 1]).init(device),
            })
            .collect();
        FpnNeck { convs }
    }
}

impl FpnNeck {
    /// The convolution of a level; 0 is the finest.
    pub fn conv(&self, level: usize) -> &Conv2d {
        &self.convs[self.convs.len() - 1 - level].conv
    }

    /// Level 2, the top of the pyramid: its own stage plus the coarsest one, enlarged.
    ///
    /// # Shapes
    ///
    /// - stage2: `[N, 4·h·w, C2]`, grid: its `[2h, 2w]`; stage3: `[N, h·w, C3]`
    /// - output: `[N, 4·h·w, E]`
    pub fn top(&self, stage2: Tensor<3>, grid: [usize; 2], stage3: Tensor<3>) -> Tensor<3> {
        let fine = pointwise(self.conv(2), stage2);
        let coarse = pointwise(self.conv(3), stage3);
        let [n_frames, n_cells, width] = fine.dims();
        let [h, w] = grid.map(|side| side / 2);
        let fine = fine.reshape([n_frames * h, 2, w, 2, width]);
        let coarse = coarse.reshape([n_frames * h, 1, w, 1, width]); // nearest neighbour
        (fine + coarse).reshape([n_frames, n_cells, width])
    }
}
