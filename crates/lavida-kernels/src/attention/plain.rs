//! Attention as Burn composes it, with all scores at once: the truth, and what runs where there is no kernel.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, TensorData};

use super::{AttentionMask, MASKED_SCORE, scale};

/// Sizes of a problem.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    n_heads: usize,
    n_kv_heads: usize,
    n_queries: usize,
    n_keys: usize,
}

impl Sizes {
    fn of<B: Backend>(query: &FloatTensor<B>, key: &FloatTensor<B>) -> Self {
        let [batch, n_heads, n_queries, _] = query.shape().dims();
        let [_, n_kv_heads, n_keys, _] = key.shape().dims();
        Self {
            batch,
            n_heads,
            n_kv_heads,
            n_queries,
            n_keys,
        }
    }

    /// `[B, N, S, w]` to `[B, N_kv, N/N_kv·S, w]`: the queries that share keys are rows of one matrix.
    fn shared<B: Backend>(&self, tensor: FloatTensor<B>) -> FloatTensor<B> {
        let width = tensor.shape()[3];
        let n_rows = self.n_heads / self.n_kv_heads * self.n_queries;
        B::float_reshape(
            tensor,
            Shape::new([self.batch, self.n_kv_heads, n_rows, width]),
        )
    }

    /// Back to `[B, N, S, w]`.
    fn by_head<B: Backend>(&self, tensor: FloatTensor<B>) -> FloatTensor<B> {
        let width = tensor.shape()[3];
        B::float_reshape(
            tensor,
            Shape::new([self.batch, self.n_heads, self.n_queries, width]),
        )
    }

    /// A value for each query and key of each batch entry.
    fn of_keys(&self, value: impl Fn(usize, usize, usize) -> f32) -> TensorData {
        let [batch, n_queries, n_keys] = [self.batch, self.n_queries, self.n_keys];
        let mut values = Vec::with_capacity(batch * n_queries * n_keys);
        for entry in 0..batch {
            for query in 0..n_queries {
                values.extend((0..n_keys).map(|key| value(entry, query, key)));
            }
        }
        TensorData::new(values, [batch, 1, n_queries, n_keys])
    }
}

/// `[B, N_kv, N/N_kv·S, L]` in f32.
fn weights<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    mask: &AttentionMask,
) -> FloatTensor<B> {
    let sizes = Sizes::of::<B>(&query, &key);
    let device = query.device();
    let factor = scale(query.shape()[3]);
    let query = sizes.shared::<B>(B::float_mul_scalar(query, factor.into()));
    let scores = widened::<B>(B::float_matmul(query, B::float_swap_dims(key, 2, 3)));
    if mask.reads_all() {
        return B::softmax(scores, 3);
    }
    let reads = |entry, query, key| mask.readable(entry, query, sizes.n_keys).contains(&key);
    let penalty = sizes.of_keys(|entry, query, key| {
        if reads(entry, query, key) {
            0.0
        } else {
            MASKED_SCORE
        }
    });
    let kept = sizes.of_keys(|entry, query, key| f32::from(reads(entry, query, key)));
    let [penalty, kept] = [penalty, kept].map(|data| B::float_from_data(data, &device));
    let scores = B::float_add(sizes.by_head::<B>(scores), penalty);
    // Where no key is read the softmax gives all the same weight, and they get none.
    sizes.shared::<B>(B::float_mul(B::softmax(scores, 3), kept))
}

fn widened<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    if tensor.dtype() == DType::F32 {
        tensor
    } else {
        B::float_cast(tensor, FloatDType::F32)
    }
}

pub(super) fn attend<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    mask: &AttentionMask,
) -> FloatTensor<B> {
    let sizes = Sizes::of::<B>(&query, &key);
    let dtype = FloatDType::from(value.dtype());
    let weights = weights::<B>(query, key, mask);
    sizes.by_head::<B>(B::float_matmul(B::float_cast(weights, dtype), value))
}

pub(super) fn attend_backward<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    gradient: FloatTensor<B>,
    mask: &AttentionMask,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let sizes = Sizes::of::<B>(&query, &key);
    let dtype = FloatDType::from(value.dtype());
    let factor = scale(query.shape()[3]);
    let weights = weights::<B>(query.clone(), key.clone(), mask);
    let gradient = sizes.shared::<B>(gradient);
    let narrow = B::float_cast(weights.clone(), dtype);
    let of_value = B::float_matmul(B::float_swap_dims(narrow, 2, 3), gradient.clone());
    let of_weights = B::float_matmul(gradient, B::float_swap_dims(value, 2, 3));
    let of_weights = widened::<B>(of_weights);
    let along = B::float_sum_dim(B::float_mul(weights.clone(), of_weights.clone()), 3);
    let of_scores = B::float_mul(weights, B::float_sub(of_weights, along));
    let of_scores = B::float_mul_scalar(of_scores, factor.into());
    let of_scores = B::float_cast(of_scores, dtype);
    let by_key = B::float_swap_dims(of_scores.clone(), 2, 3);
    let of_key = B::float_matmul(by_key, sizes.shared::<B>(query));
    let of_query = sizes.by_head::<B>(B::float_matmul(of_scores, key));
    (of_query, of_key, of_value)
}
