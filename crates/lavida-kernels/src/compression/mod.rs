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
//! a single token passes unchanged. What is nearer is decided on the squared distance of the tokens as stored
//! (on Flex in f64), what is denser on the density as it is returned, in f32.
//!
//! [`plain`] reads like the equations and needs an L × L matrix; the operations of [`CompressionOps`], which
//! [`compress`] and its relatives call, do not.
//!
//! Shapes: `B` samples · `L` visual tokens before, `L_r` after · `D` width of a token · `k` neighbours · `N` tokens of
//! all samples, `N_r` after.

#[cfg(feature = "cube")]
mod cube;
mod flex;
mod keep_ratio;
mod ops;
pub mod plain;

use std::num::NonZeroUsize;

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor, assert_shape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use keep_ratio::{KeepRatio, KeepRatioError};
pub use ops::{BackgroundTokens, CompressionOps, Samples};
pub use plain::reverse_attention;

/// Keeps a density finite where all neighbours coincide with the token.
const NO_DISTANCE: f64 = 1e-10;

/// Above this squared length a squared distance may leave the range of f32.
const LARGEST_SQUARED_LENGTH: f32 = f32::MAX / 4.0;

/// Whether a token of this squared length is no number, infinite, or too large to compute with.
fn is_bad_length(squared_length: f32) -> bool {
    squared_length.is_nan() || squared_length > LARGEST_SQUARED_LENGTH
}

/// How tokens are compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompressionConfig {
    /// `L_r / L`; default 0.5. Small is fast and forgetful, 1 keeps every token as it is.
    pub keep_ratio: KeepRatio,
    /// How density is estimated; default [`Density::Reachability`].
    pub density: Density,
    /// `k`, neighbours the density looks at; default 8. Larger smooths over larger objects.
    pub n_neighbors: NonZeroUsize,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self {
            keep_ratio: KeepRatio::HALF,
            density: Density::default(),
            n_neighbors: const { NonZeroUsize::new(8).expect("8 is not 0") },
        }
    }
}

/// Estimate of the density around a token, from its `k` nearest neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Density {
    /// Local reachability density of the local outlier factor, as the reference code has it:
    /// `k / Σ_j max(distance of j to its k-th neighbour, ‖z_i − z_j‖/√D)`.
    #[default]
    Reachability,
    /// Eq. 3 of the paper: `k / Σ_j ‖z_i − z_j‖²`.
    Knn,
}

/// Why tokens cannot be compressed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompressionError {
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

/// Samples of any lengths after compression, one after the other.
#[derive(Clone, Debug)]
pub struct CompressedSamples {
    /// `[N_r, D]` merged tokens, in the order of `kept`.
    pub tokens: Tensor<2>,
    /// `[N_r]` indices of the background tokens within their sample, ascending in each.
    pub kept: Tensor<1, Int>,
    /// `[N]` which of its sample's rows of `kept` each token belongs to.
    pub assignment: Tensor<1, Int>,
    /// `[N]` density of each token, in f32.
    pub density: Tensor<1>,
    /// Rows of each sample in `tokens` and `kept`.
    pub n_kept: Vec<usize>,
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
/// No tokens, or a token that is not finite: the first one is named.
pub fn compress(
    tokens: Tensor<2>,
    config: &CompressionConfig,
) -> Result<CompressedTokens, CompressionError> {
    let [n_tokens, _] = tokens.dims();
    let samples = compress_samples(tokens, &[n_tokens], config)?;
    Ok(CompressedTokens {
        tokens: samples.tokens,
        kept: samples.kept,
        assignment: samples.assignment,
        density: samples.density,
    })
}

/// [`compress`] for samples of `n_tokens` rows each, one after the other and without padding; each sample is its own
/// set of tokens.
///
/// # Shapes
///
/// - tokens: `[N, D]`, where `N` is the sum of `n_tokens`
///
/// # Errors
///
/// As [`compress`]; a sample without tokens is refused too.
pub fn compress_samples(
    tokens: Tensor<2>,
    n_tokens: &[usize],
    config: &CompressionConfig,
) -> Result<CompressedSamples, CompressionError> {
    let samples = Samples::new(n_tokens, config)?;
    let [_, d_token] = tokens.dims();
    assert_shape!(tokens, [samples.n_tokens().iter().sum(), d_token]);

    let values = tokens.clone().without_autodiff();
    let background = Dispatch::choose_background(values.into_dispatch(), samples.clone(), *config);
    let squared_lengths = Tensor::<1>::from_dispatch(background.squared_lengths).into_data();
    let squared_lengths = squared_lengths.as_slice::<f32>().expect("lengths are f32");
    if let Some(at) = squared_lengths.iter().position(|l| is_bad_length(*l)) {
        let (sample, row) = samples.place(at);
        return Err(CompressionError::NotFinite {
            sample,
            row,
            squared_length: squared_lengths[at],
        });
    }
    let kept = Tensor::<1, Int>::from_dispatch(background.kept);
    let assignment = Tensor::<1, Int>::from_dispatch(background.assignment);
    let merged = Dispatch::merge_clusters(
        tokens.into_dispatch(),
        kept.clone().into_dispatch(),
        assignment.clone().into_dispatch(),
        samples.clone(),
    );
    Ok(CompressedSamples {
        tokens: Tensor::from_dispatch(merged),
        kept,
        assignment,
        density: Tensor::from_dispatch(background.density),
        n_kept: samples.n_kept().to_vec(),
    })
}
