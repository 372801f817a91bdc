//! Token compression by reverse attention (LAVIDA, arXiv 2602.19248).
//!
//! Background dominates a surveillance clip: its visual tokens sit in dense regions of the feature
//! space. The `L_r = max(1, ⌊keep_ratio·L⌋)` densest tokens are taken as background; every token joins
//! the background token nearest to it; inside each such cluster the tokens are averaged with the most
//! weight on those least like the background (Eq. 4). `L` tokens go in, `L_r` come out.
//! Paper: section 3.4, Eq. 3 and 4. Reference: `visual_token_sampling`.
//!
//! Where the reference leaves something open: a background token always belongs to its own cluster; of
//! equals the lower index comes first; of fewer than `n_neighbors + 1` tokens all others are neighbours;
//! a single token passes unchanged.
//!
//! Shapes: `B` samples · `L` visual tokens before, `L_r` after · `D` width of a token · `k` neighbours.

mod plain;

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

pub use plain::reverse_attention;

/// How tokens are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionConfig {
    /// `L_r / L`, in (0, 1]; default 0.5. Small is fast and forgetful, 1 keeps every token as it is.
    pub keep_ratio: f64,
    /// How density is estimated; default [`Density::Reachability`].
    pub density: Density,
    /// `k`, neighbours the density looks at, at least 1; default 8. Larger smooths over larger objects.
    pub n_neighbors: usize,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self {
            keep_ratio: 0.5,
            density: Density::default(),
            n_neighbors: 8,
        }
    }
}

/// Estimate of the density around a token, from its `k` nearest neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Density {
    /// Local reachability density of the local outlier factor, as the reference code has it:
    /// `k / Σ_j max(distance of j to its k-th neighbour, ‖z_i − z_j‖/√D)`.
    #[default]
    Reachability,
    /// Eq. 3 of the paper: `k / Σ_j ‖z_i − z_j‖²`.
    Knn,
}

impl CompressionConfig {
    /// `L_r`: how many of `n_tokens` tokens are left.
    pub fn n_kept(&self, n_tokens: usize) -> usize {
        ((self.keep_ratio * n_tokens as f64).floor() as usize).clamp(1, n_tokens)
    }

    /// Refuses values outside the documented ranges.
    pub fn check(&self) -> Result<(), CompressionError> {
        let keeps_some = self.keep_ratio > 0.0 && self.keep_ratio <= 1.0;
        if !keeps_some {
            return Err(CompressionError::KeepRatio(self.keep_ratio));
        }
        if self.n_neighbors == 0 {
            return Err(CompressionError::NoNeighbors);
        }
        Ok(())
    }
}

/// Why tokens cannot be compressed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompressionError {
    /// The setting is out of range.
    #[error("keep_ratio is {0}, expected a value in (0, 1]")]
    KeepRatio(f64),
    /// The setting is out of range.
    #[error("n_neighbors is 0, expected at least 1")]
    NoNeighbors,
    /// There is nothing to compress.
    #[error("no visual tokens to compress")]
    NoTokens,
    /// A density over such tokens would mean nothing.
    #[error(
        "visual token {row} of sample {sample} is not finite or too large (its squared length is {squared_length}, expected below 8e37)"
    )]
    NotFinite {
        /// Sample of the batch.
        sample: usize,
        /// First bad token of that sample.
        row: usize,
        /// What makes it bad.
        squared_length: f32,
    },
}

/// One sample after compression.
#[derive(Clone, Debug)]
pub struct CompressedTokens {
    /// `[L_r, D]` merged tokens, in the order of `kept`.
    pub tokens: Tensor<2>,
    /// `[L_r]` indices of the background tokens, ascending.
    pub kept: Tensor<1, Int>,
    /// `[L]` which row of `kept` each token belongs to.
    pub assignment: Tensor<1, Int>,
    /// `[L]` density of each token, in f32; zero for a single token, which has no neighbours.
    pub density: Tensor<1>,
}

/// Samples of equal length after compression.
#[derive(Clone, Debug)]
pub struct CompressedBatch {
    /// `[B, L_r, D]` merged tokens, in the order of `kept`.
    pub tokens: Tensor<3>,
    /// `[B, L_r]` indices of the background tokens within their sample, ascending.
    pub kept: Tensor<2, Int>,
    /// `[B, L]` which row of `kept` each token belongs to.
    pub assignment: Tensor<2, Int>,
    /// `[B, L]` density of each token, in f32.
    pub density: Tensor<2>,
}

/// Compresses the visual tokens of one sample, all frames together.
///
/// The gradient flows through the merged tokens with `kept` and `assignment` held fixed.
///
/// # Shapes
///
/// - tokens: `[L, D]`
///
/// # Errors
///
/// Settings out of range, no tokens, or a token that is not finite: the first one is named.
pub fn compress(
    tokens: Tensor<2>,
    config: &CompressionConfig,
) -> Result<CompressedTokens, CompressionError> {
    let batch = compress_batch(tokens.unsqueeze_dim(0), config)?;
    Ok(CompressedTokens {
        tokens: batch.tokens.squeeze_dim(0),
        kept: batch.kept.squeeze_dim(0),
        assignment: batch.assignment.squeeze_dim(0),
        density: batch.density.squeeze_dim(0),
    })
}

/// [`compress`] for samples of equal length; each sample is its own set of tokens.
///
/// # Shapes
///
/// - tokens: `[B, L, D]`
///
/// # Errors
///
/// As [`compress`].
pub fn compress_batch(
    tokens: Tensor<3>,
    config: &CompressionConfig,
) -> Result<CompressedBatch, CompressionError> {
    config.check()?;
    plain::compress_batch(tokens, config)
}
