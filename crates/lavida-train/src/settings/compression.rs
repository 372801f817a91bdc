//! `[compression]`: how visual tokens are compressed.

use lavida_model::compression::{CompressionConfig, Density};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[compression]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionSettings {
    /// Share of visual tokens kept; 1 switches compression off. Lower is leaner and coarser.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0, "unit" = "share"))]
    pub keep_ratio: f64,
    /// How dense the surroundings of a token are: the reference's local reachability density, or the paper's Eq. 3 (`knn`).
    pub density: Density,
    /// Neighbours of the density estimate; of fewer tokens all are. Larger smooths over larger objects.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "tokens"))]
    pub n_neighbors: usize,
    /// At inference, drop patches that look like the first frame's (reference only).
    pub drop_static_patches: bool,
}

impl Default for CompressionSettings {
    fn default() -> Self {
        let config = CompressionConfig::default();
        Self {
            keep_ratio: config.keep_ratio,
            density: config.density,
            n_neighbors: config.n_neighbors,
            drop_static_patches: false,
        }
    }
}

impl CompressionSettings {
    /// The operation's own configuration.
    pub fn config(&self) -> CompressionConfig {
        CompressionConfig {
            keep_ratio: self.keep_ratio,
            density: self.density,
            n_neighbors: self.n_neighbors,
        }
    }
}
