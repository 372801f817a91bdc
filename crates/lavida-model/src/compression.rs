//! What of a clip's visual tokens the language model reads: an argument of every forward pass and no part of a model, so
//! that one model in memory answers at any ratio.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use lavida_kernels::compression::{CompressionConfig, Density, KeepRatio};

/// How visual tokens are compressed: `[compression]` of a settings file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// Share of visual tokens kept; 1 switches compression off. Lower is leaner and coarser.
    #[schemars(extend("unit" = "share"))]
    pub keep_ratio: KeepRatio,
    /// How dense the surroundings of a token are: the reference's local reachability density, or the paper's Eq. 3 (`knn`).
    pub density: Density,
    /// Neighbours of the density estimate; of fewer tokens all are. Larger smooths over larger objects.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "tokens"))]
    pub n_neighbors: NonZeroUsize,
    /// At inference, drop patches that look like the first frame's (reference only).
    pub drop_static_patches: bool,
}

impl Default for Compression {
    fn default() -> Self {
        let merging = CompressionConfig::default();
        Self {
            keep_ratio: merging.keep_ratio,
            density: merging.density,
            n_neighbors: merging.n_neighbors,
            drop_static_patches: false,
        }
    }
}

impl Compression {
    /// What is left of it once the vision tower has looked: the merging of tokens.
    pub fn merging(&self) -> CompressionConfig {
        CompressionConfig {
            keep_ratio: self.keep_ratio,
            density: self.density,
            n_neighbors: self.n_neighbors,
        }
    }
}
