//! Attention in CubeCL: the same on CUDA, on other GPUs through wgpu, and on CubeCL's CPU runtime.
//!
//! Forward is Burn's fused attention where the device has matrix units and the numbers are narrow ([`fused`]). Elsewhere,
//! and in backward everywhere, a block of queries meets the keys it may read: two products of Burn's with scores of at
//! most [`MOST_SCORES`] values between them, and kernels over rows of scores ([`rows`]). Queries that share a key head are rows
//! of one matrix, so keys and values are never repeated, and their gradients are summed by the product itself.
//!
//! A causal block meets only the keys up to its last query, so half of the scores are never computed.

mod fused;
mod rows;

use std::ops::Range;

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, Shape, Slice, TensorData};
use burn_cubecl::CubeBackend as Cube;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;

use super::{AttentionMask, scale};

/// Most scores in memory at once: 64 MiB in f32, half of what software Vulkan binds. Forward holds them once, backward four
/// times.
pub(super) const MOST_SCORES: usize = 1 << 24;

/// Queries of a block that are worth taking fewer batch entries at a time.
const WORTHWHILE_QUERIES: usize = 256;

/// A problem, or some of its batch entries.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    n_heads: usize,
    n_kv_heads: usize,
    n_queries: usize,
    n_keys: usize,
    d_head: usize,
    d_value: usize,
}

impl Sizes {
    fn of(query: &CubeTensor, key: &CubeTensor, value: &CubeTensor) -> Self {
        let [batch, n_heads, n_queries, d_head] = query.meta.shape().dims();
        let [_, n_kv_heads, n_keys, _] = key.meta.shape().dims();
        Self {
            batch,
            n_heads,
            n_kv_heads,
            n_queries,
            n_keys,
            d_head,
            d_value: value.meta.shape()[3],
        }
    }

    fn is_empty(&self) -> bool {
        let sizes = [
            self.batch,
            self.n_heads,
            self.n_queries,
            self.n_keys,
            self.d_head,
            self.d_value,
        ];
        sizes.contains(&0)
    }

    /// Batch entries and queries of a block of at most so many scores, if it is of more than one query.
    fn block(&self, most_scores: usize) -> [usize; 2] {
        let of_query = self.n_heads * self.n_keys;
        let queries = self.n_queries.min(WORTHWHILE_QUERIES);
        let entries = (most_scores / (of_query * queries)).clamp(1, self.batch);
        let queries = (most_scores / (of_query * entries)).clamp(1, self.n_queries);
        [entries, queries]
    }

    /// The batch entries of each block.
    fn entries(self, most_scores: usize) -> impl Iterator<Item = Range<usize>> {
        let [n_entries, _] = self.block(most_scores);
        let starts = (0..self.batch).step_by(n_entries);
        starts.map(move |start| start..(start + n_entries).min(self.batch))
    }

    /// The blocks of queries, each with the keys that it meets.
    fn query_blocks(&self, mask: &AttentionMask, most_scores: usize) -> Vec<Block> {
        let [_, n_queries] = self.block(most_scores);
        let starts = (0..self.n_queries).step_by(n_queries);
        let blocks = starts.map(|start| {
            let end = (start + n_queries).min(self.n_queries);
            let n_keys = if mask.is_causal() { end } else { self.n_keys };
            Block {
                queries: start..end,
                n_keys,
            }
        });
        blocks.collect()
    }

    /// `[B, N, s, w]` to `[B, N_kv, N/N_kv·s, w]`: the queries that share keys are rows of one matrix.
    fn shared(&self, tensor: CubeTensor) -> CubeTensor {
        let [batch, n_heads, n_rows, width] = tensor.meta.shape().dims();
        let n_rows = n_heads / self.n_kv_heads * n_rows;
        Cube::float_reshape(tensor, Shape::new([batch, self.n_kv_heads, n_rows, width]))
    }

    /// Back to `[B, N, s, w]`.
    fn by_head(&self, tensor: CubeTensor) -> CubeTensor {
        let [batch, n_kv_heads, n_rows, width] = tensor.meta.shape().dims();
        let n_rows = n_kv_heads * n_rows / self.n_heads;
        Cube::float_reshape(tensor, Shape::new([batch, self.n_heads, n_rows, width]))
    }
}

/// Queries that meet the first keys together.
struct Block {
    queries: Range<usize>,
    n_keys: usize,
}

/// Some indices of an axis.
fn part(tensor: &CubeTensor, axis: usize, range: Range<usize>) -> CubeTensor {
    if range == (0..tensor.meta.shape()[axis]) {
        return tensor.clone();
    }
    Cube::float_slice(tensor.clone(), &slices(axis, range))
}

fn slices(axis: usize, range: Range<usize>) -> [Slice; 4] {
    std::array::from_fn(|i| {
        if i == axis {
            Slice::from(range.clone())
        } else {
            Slice::full()
        }
    })
}

fn joined(mut parts: Vec<CubeTensor>, axis: usize) -> CubeTensor {
    if parts.len() == 1 {
        parts.swap_remove(0)
    } else {
        Cube::float_cat(parts, axis)
    }
}

fn transposed(tensor: CubeTensor) -> CubeTensor {
    Cube::float_swap_dims(tensor, 2, 3)
}

fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype {
        tensor
    } else {
        Cube::float_cast(tensor, FloatDType::from(dtype))
    }
}

/// A product whose sums are kept as f32, whatever the numbers it is made of.
fn product(left: CubeTensor, right: CubeTensor, dtype: DType) -> CubeTensor {
    matmul(left, right, None, MatmulStrategy::default(), dtype)
        .expect("Burn has a product for matrices of every size")
}

/// First and last key of each batch entry, on the device: `[B, 2]`.
fn key_ranges(mask: &AttentionMask, sizes: &Sizes, like: &CubeTensor) -> CubeTensor {
    let all = vec![0..sizes.n_keys; sizes.batch];
    let ranges = mask.key_ranges().unwrap_or(&all).iter();
    let values: Vec<i32> = ranges
        .flat_map(|range| [range.start as i32, range.end as i32])
        .collect();
    Cube::int_from_data(TensorData::new(values, [sizes.batch, 2]), &like.device)
}

fn zeros(shape: [usize; 4], dtype: DType, like: &CubeTensor) -> CubeTensor {
    Cube::float_zeros(Shape::new(shape), &like.device, FloatDType::from(dtype))
}

/// Weights of a block of queries `[B, N, s, d]`: `[B, N_kv, N/N_kv·s, L']` in f32.
fn weights(
    sizes: &Sizes,
    query: CubeTensor,
    key: CubeTensor,
    ranges: &CubeTensor,
    block: &Block,
    is_causal: bool,
) -> CubeTensor {
    let scores = product(sizes.shared(query), transposed(key), DType::F32);
    let n_positions = block.queries.len();
    let rows_of_entry = sizes.n_heads * n_positions;
    let position = is_causal.then_some((block.queries.start, n_positions));
    rows::softmax(
        scores,
        ranges.clone(),
        scale(sizes.d_head),
        rows_of_entry,
        position,
    )
}

/// `softmax(q·kᵀ/√d)·v`, with at most so many scores at once.
pub(super) fn attend(
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    mask: &AttentionMask,
    most_scores: usize,
) -> CubeTensor {
    let sizes = Sizes::of(&query, &key, &value);
    if sizes.is_empty() {
        let shape = [sizes.batch, sizes.n_heads, sizes.n_queries, sizes.d_value];
        return zeros(shape, value.dtype, &value);
    }
    if let Some(out) = fused::attend(&sizes, &query, &key, &value, mask) {
        return out;
    }
    let of_entries = sizes.entries(most_scores).map(|entries| {
        let inputs = [&query, &key, &value].map(|tensor| part(tensor, 0, entries.clone()));
        attend_in_blocks(inputs, &mask.of_entries(entries), most_scores)
    });
    joined(of_entries.collect(), 0)
}

fn attend_in_blocks(
    [query, key, value]: [CubeTensor; 3],
    mask: &AttentionMask,
    most_scores: usize,
) -> CubeTensor {
    let sizes = Sizes::of(&query, &key, &value);
    let ranges = key_ranges(mask, &sizes, &query);
    let blocks = sizes.query_blocks(mask, most_scores).into_iter();
    let blocks = blocks.map(|block| {
        let [key, value] = [&key, &value].map(|tensor| part(tensor, 2, 0..block.n_keys));
        let query = part(&query, 2, block.queries.clone());
        let weights = weights(&sizes, query, key, &ranges, &block, mask.is_causal());
        let dtype = value.dtype;
        sizes.by_head(product(cast(weights, dtype), value, dtype))
    });
    joined(blocks.collect(), 2)
}

/// Gradients of query, key and value, with at most four times so many scores at once.
pub(super) fn attend_backward(
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    gradient: CubeTensor,
    mask: &AttentionMask,
    most_scores: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&query, &key, &value);
    if sizes.is_empty() {
        let of = |like: &CubeTensor| zeros(like.meta.shape().dims(), like.dtype, like);
        return (of(&query), of(&key), of(&value));
    }
    let [mut of_query, mut of_key, mut of_value] = [const { Vec::new() }; 3];
    for entries in sizes.entries(most_scores) {
        let [query, key, value, gradient] =
            [&query, &key, &value, &gradient].map(|tensor| part(tensor, 0, entries.clone()));
        let mask = mask.of_entries(entries);
        let [query, key, value] =
            backward_in_blocks([query, key, value], gradient, &mask, most_scores);
        of_query.push(query);
        of_key.push(key);
        of_value.push(value);
    }
    (joined(of_query, 0), joined(of_key, 0), joined(of_value, 0))
}

fn backward_in_blocks(
    [query, key, value]: [CubeTensor; 3],
    gradient: CubeTensor,
    mask: &AttentionMask,
    most_scores: usize,
) -> [CubeTensor; 3] {
    let sizes = Sizes::of(&query, &key, &value);
    let dtype = value.dtype;
    let factor = scale(sizes.d_head);
    let ranges = key_ranges(mask, &sizes, &query);
    let (mut of_query, mut of_key, mut of_value) = (Vec::new(), Sum(None), Sum(None));
    // The last block first: if any does, it meets all keys.
    for block in sizes.query_blocks(mask, most_scores).into_iter().rev() {
        let [key, value] = [&key, &value].map(|tensor| part(tensor, 2, 0..block.n_keys));
        let [query, gradient] =
            [&query, &gradient].map(|tensor| part(tensor, 2, block.queries.clone()));
        let is_causal = mask.is_causal();
        let weights = weights(
            &sizes,
            query.clone(),
            key.clone(),
            &ranges,
            &block,
            is_causal,
        );
        let [query, gradient] = [query, gradient].map(|tensor| sizes.shared(tensor));
        let by_key = transposed(cast(weights.clone(), dtype));
        of_value.add(product(by_key, gradient.clone(), DType::F32));
        let of_weights = product(gradient, transposed(value), DType::F32);
        let of_scores = cast(rows::softmax_backward(weights, of_weights, factor), dtype);
        of_key.add(product(transposed(of_scores.clone()), query, DType::F32));
        of_query.push(sizes.by_head(product(of_scores, key, dtype)));
    }
    of_query.reverse();
    [
        joined(of_query, 2),
        cast(of_key.whole(), dtype),
        cast(of_value.whole(), dtype),
    ]
}

/// A sum of tensors `[B, N_kv, L', w]` in f32, the first of which has most keys: the others add to the first of them.
struct Sum(Option<CubeTensor>);

impl Sum {
    fn add(&mut self, of_keys: CubeTensor) {
        let n_keys = of_keys.meta.shape()[2];
        self.0 = Some(match self.0.take() {
            None => of_keys,
            Some(sum) => {
                let first = Cube::float_add(part(&sum, 2, 0..n_keys), of_keys);
                if n_keys == sum.meta.shape()[2] {
                    first
                } else {
                    Cube::float_slice_assign(sum, &slices(2, 0..n_keys), first)
                }
            }
        });
    }

    fn whole(self) -> CubeTensor {
        self.0.expect("a problem has a block")
    }
}

#[cfg(test)]
mod tests;
