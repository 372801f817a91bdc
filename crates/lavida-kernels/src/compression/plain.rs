//! Token compression in plain Burn operations: the truth the kernels are tested against.
//!
//! It reads like the equations and pays for it: `[B, L, L]` distances and `[B, L_r, L]` weights are kept.
//! Which tokens are background and who belongs to whom is decided on values, without a tape; only the
//! merge of Eq. 4 is differentiated.

use burn::tensor::activation::softmax;
use burn::tensor::ops::IndexingUpdateOp;
use burn::tensor::{FloatDType, Int, IntDType, Tensor, assert_shape};

use super::{CompressionConfig, CompressionError, Density, NO_DISTANCE, is_bad_length};

/// Score of a token outside the cluster: its weight is exactly zero.
const OUTSIDE: f64 = -1e38;

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

/// [`super::compress`] for samples of equal length in plain operations, on any device; each is its own set of tokens.
///
/// # Shapes
///
/// - tokens: `[B, L, D]`
///
/// # Errors
///
/// As [`super::compress`].
pub fn compress_batch(
    tokens: Tensor<3>,
    config: &CompressionConfig,
) -> Result<CompressedBatch, CompressionError> {
    let [n_samples, n_tokens, _] = tokens.dims();
    if n_samples == 0 || n_tokens == 0 {
        return Err(CompressionError::NoTokens);
    }
    let values = tokens.clone().without_autodiff().cast(FloatDType::F32);
    check_finite(values.clone())?;

    let n_kept = config.keep_ratio.n_kept(n_tokens);
    let squared = squared_distances(values.clone()); // [B, L, L]
    let density = density(values, squared.clone(), config); // [B, L]
    let kept = densest(density.clone(), n_kept); // [B, L_r]
    let assignment = nearest_background(squared, kept.clone()); // [B, L]
    let merged = reverse_attention(tokens, kept.clone(), assignment.clone()); // [B, L_r, D]
    Ok(CompressedBatch {
        tokens: merged,
        kept,
        assignment,
        density,
    })
}

/// NaN, infinity and what would overflow: the first bad token is named.
fn check_finite(values: Tensor<3>) -> Result<(), CompressionError> {
    let [_, n_tokens, _] = values.dims();
    let squared_lengths = values.square().sum_dim(2).into_data();
    let squared_lengths = squared_lengths.as_slice::<f32>().expect("values are f32");
    match squared_lengths.iter().position(|l| is_bad_length(*l)) {
        None => Ok(()),
        Some(at) => Err(CompressionError::NotFinite {
            sample: at / n_tokens,
            row: at % n_tokens,
            squared_length: squared_lengths[at],
        }),
    }
}

/// `‖z_i − z_j‖² = ‖z_i‖² + ‖z_j‖² − 2·z_i·z_j`.
///
/// The lengths are the diagonal of the same product, so that equal tokens are exactly 0 apart.
fn squared_distances(values: Tensor<3>) -> Tensor<3> {
    let [n_samples, n_tokens, _] = values.dims();
    let products = values.clone().matmul(values.swap_dims(1, 2)); // [B, L, L]
    let diagonal = Tensor::<1, Int>::arange(0..n_tokens as i64, &products.device())
        .reshape([1, n_tokens, 1])
        .expand([n_samples, n_tokens, 1]);
    let lengths = products.clone().gather(2, diagonal); // [B, L, 1]
    (lengths.clone() + lengths.swap_dims(1, 2) - products * 2.0).clamp_min(0.0)
}

/// Density of each token (Eq. 3, or the reference's reachability): `[B, L]`.
fn density(values: Tensor<3>, squared: Tensor<3>, config: &CompressionConfig) -> Tensor<2> {
    let [n_samples, n_tokens, d_token] = values.dims();
    let k = config.n_neighbors.get().min(n_tokens - 1);
    if k == 0 {
        return Tensor::zeros([n_samples, n_tokens], &values.device());
    }
    let neighbors = nearest_neighbors(squared, k); // [B, L, k]
    let squared = squared_distances_to(values, neighbors.clone()); // [B, L, k]
    let farness = match config.density {
        Density::Knn => squared,
        Density::Reachability => {
            let distance = squared.div_scalar(d_token as f64).sqrt();
            let k_distance = distance.clone().max_dim(2).reshape([n_samples, n_tokens]);
            let of_neighbor = k_distance
                .gather(1, neighbors.reshape([n_samples, n_tokens * k]))
                .reshape([n_samples, n_tokens, k]);
            distance.max_pair(of_neighbor)
        }
    };
    let total = farness.sum_dim(2).reshape([n_samples, n_tokens]);
    (total + NO_DISTANCE).recip() * k as f64
}

/// `‖z_i − z_j‖²` for the listed `j` of each `i`, from the differences: between close tokens the product form of
/// [`squared_distances`] loses the digits that a density needs.
fn squared_distances_to(values: Tensor<3>, listed: Tensor<3, Int>) -> Tensor<3> {
    let [n_samples, n_tokens, d_token] = values.dims();
    let [_, _, k] = listed.dims();
    let listed = rows_of_batch(listed.reshape([n_samples, n_tokens * k]), n_tokens);
    let others = values
        .clone()
        .reshape([n_samples * n_tokens, d_token])
        .select(0, listed)
        .reshape([n_samples, n_tokens, k, d_token]);
    (others - values.unsqueeze_dim(2))
        .square()
        .sum_dim(3)
        .reshape([n_samples, n_tokens, k])
}

/// Token indices of each sample as rows of `[B·L, D]`: `[B, n]` → `[B·n]`.
fn rows_of_batch(tokens: Tensor<2, Int>, n_tokens: usize) -> Tensor<1, Int> {
    let [n_samples, n] = tokens.dims();
    let dtype: IntDType = tokens.dtype().into();
    let first_row = Tensor::<1, Int>::arange(0..n_samples as i64, &tokens.device()).cast(dtype);
    let first_row = (first_row * n_tokens as i64).reshape([n_samples, 1]);
    (tokens + first_row).reshape([n_samples * n])
}

/// Indices of the `k` nearest other tokens of each token: `[B, L, k]`.
///
/// It takes `k` times the nearest of what remains: unlike a sort, this puts the lower index first among equals.
fn nearest_neighbors(squared: Tensor<3>, k: usize) -> Tensor<3, Int> {
    let [n_samples, n_tokens, _] = squared.dims();
    let device = squared.device();
    let taken = Tensor::full([n_samples, n_tokens, 1], f32::INFINITY, &device);
    let take = |remaining: Tensor<3>, index: Tensor<3, Int>| {
        remaining.scatter(2, index, taken.clone(), IndexingUpdateOp::Add)
    };
    let itself = Tensor::<1, Int>::arange(0..n_tokens as i64, &device)
        .reshape([1, n_tokens, 1])
        .expand([n_samples, n_tokens, 1]);

    let mut remaining = take(squared, itself);
    let mut neighbors = Vec::with_capacity(k);
    for _ in 0..k {
        let nearest = remaining.clone().argmin(2); // [B, L, 1]
        remaining = take(remaining, nearest.clone());
        neighbors.push(nearest);
    }
    Tensor::cat(neighbors, 2)
}

/// Indices of the `n_kept` densest tokens, ascending: `[B, L_r]`.
///
/// A token's rank is how many come before it: the denser ones, and of equals those of lower index.
fn densest(density: Tensor<2>, n_kept: usize) -> Tensor<2, Int> {
    let [n_samples, n_tokens] = density.dims();
    let index = Tensor::<1, Int>::arange(0..n_tokens as i64, &density.device());
    let own = density.clone().reshape([n_samples, n_tokens, 1]);
    let other = density.reshape([n_samples, 1, n_tokens]);
    let shape = [n_samples, n_tokens, n_tokens];
    let (own, other) = (own.expand(shape), other.expand(shape));
    let lower_index = index
        .clone()
        .reshape([1, 1, n_tokens])
        .lower(index.clone().reshape([1, n_tokens, 1]))
        .expand(shape);
    let before = other.clone().greater(own.clone());
    let before = before.bool_or(other.equal(own).bool_and(lower_index));
    let rank = before.int().sum_dim(2).reshape([n_samples, n_tokens]);

    // Kept tokens sort to the front by index; the others are put behind them.
    let dropped = rank.greater_equal_elem(n_kept as i64);
    index
        .reshape([1, n_tokens])
        .expand([n_samples, n_tokens])
        .mask_fill(dropped, n_tokens as i64)
        .sort(1)
        .narrow(1, 0, n_kept)
}

/// The row of `kept` that is nearest to each token, the lower one of equals: `[B, L]`.
fn nearest_background(squared: Tensor<3>, kept: Tensor<2, Int>) -> Tensor<2, Int> {
    let [n_samples, n_tokens, _] = squared.dims();
    let [_, n_kept] = kept.dims();
    let shape = [n_samples, n_kept, n_tokens];
    let dtype: IntDType = kept.dtype().into(); // `argmin` has its own
    let kept = kept.reshape([n_samples, n_kept, 1]).expand(shape);
    let token = Tensor::<1, Int>::arange(0..n_tokens as i64, &squared.device())
        .reshape([1, 1, n_tokens])
        .expand(shape);
    squared
        .gather(1, kept.clone()) // [B, L_r, L]
        .mask_fill(kept.equal(token), -1.0) // a background token is nearest to itself, whatever its copies
        .argmin(1)
        .reshape([n_samples, n_tokens])
        .cast(dtype)
}

/// Eq. 4: inside each cluster, `Softmax(−Z^b_i Z_𝒩ᵀ / √D) · Z_𝒩`.
///
/// # Shapes
///
/// - tokens: `[B, L, D]`; the gradient flows into them
/// - kept: `[B, L_r]`, the background tokens; assignment: `[B, L]`, rows of `kept`, each row used
/// - output: `[B, L_r, D]`
pub fn reverse_attention(
    tokens: Tensor<3>,
    kept: Tensor<2, Int>,
    assignment: Tensor<2, Int>,
) -> Tensor<3> {
    let [n_samples, n_tokens, d_token] = tokens.dims();
    let [_, n_kept] = kept.dims();
    assert_shape!(kept, [n_samples, n_kept]);
    assert_shape!(assignment, [n_samples, n_tokens]);
    let dtype: FloatDType = tokens.dtype().into();
    let tokens = tokens.cast(FloatDType::F32);
    let device = tokens.device();

    let background = tokens
        .clone()
        .reshape([n_samples * n_tokens, d_token])
        .select(0, rows_of_batch(kept, n_tokens))
        .reshape([n_samples, n_kept, d_token]); // Z^b

    let shape = [n_samples, n_kept, n_tokens];
    let cluster = Tensor::<1, Int>::arange(0..n_kept as i64, &device)
        .reshape([1, n_kept, 1])
        .expand(shape);
    let outside = assignment
        .reshape([n_samples, 1, n_tokens])
        .expand(shape)
        .not_equal(cluster);

    let affinity = background.matmul(tokens.clone().swap_dims(1, 2)); // [B, L_r, L]
    let dissimilarity = affinity * -(d_token as f64).powf(-0.5);
    softmax(dissimilarity.mask_fill(outside, OUTSIDE), 2)
        .matmul(tokens)
        .cast(dtype)
}
