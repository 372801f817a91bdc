//! The attention kernels of f32 on the CPU: a block of queries at a time.

use std::cell::RefCell;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{AttentionMask, MASKED_SCORE, scale};
use crate::matrix::{Right, View, multiply, multiply_into, positive, tensor};
use crate::softmax::{backward_in_place, exponentials_in_place, softmax_in_place};

/// Queries that meet all keys together in backward. Measured with 4096 keys of width 96: 48 of them make 49 G multiply-adds
/// and adds a second, 96 make 58 and 192 make 74, for the keys are packed again for every block.
const QUERY_BLOCK: usize = 192;
/// Multiply-adds below which a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 20;
/// Multiply-adds that take as long as packing a value.
const PACKING: usize = 16;

/// A tensor of `[B, N, positions, width]` anywhere in memory.
struct Heads<'a> {
    values: &'a [f32],
    shape: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        Self {
            values: &tensor.storage::<f32>()[layout.start_offset()..],
            shape: std::array::from_fn(|axis| layout.shape()[axis]),
            strides: std::array::from_fn(|axis| layout.strides()[axis] as usize),
        }
    }

    /// `[positions, width]` of head `index % n_heads` of batch entry `index / n_heads`; an axis of length 1 serves all.
    fn head(&self, index: usize, n_heads: usize) -> View<'a> {
        let place = |axis: usize, index: usize| match self.shape[axis] {
            1 => 0,
            _ => index * self.strides[axis],
        };
        View::new(
            &self.values[place(0, index / n_heads) + place(1, index % n_heads)..],
            [self.shape[2], self.shape[3]],
            [self.strides[2], self.strides[3]],
        )
    }
}

/// Scores of keys that a query may not read are made so small that they weigh nothing; `rows` are of the queries of a
/// batch entry from `first` on.
fn hide(mask: &AttentionMask, entry: usize, first: usize, n_keys: usize, rows: &mut [f32]) {
    if mask.reads_all() {
        return;
    }
    for (i, row) in rows.chunks_exact_mut(n_keys).enumerate() {
        let readable = mask.readable(entry, first + i, n_keys);
        row[..readable.start].fill(MASKED_SCORE);
        row[readable.end..].fill(MASKED_SCORE);
    }
}

/// A query that may read no key gives weight to none.
fn erase(mask: &AttentionMask, entry: usize, first: usize, n_keys: usize, rows: &mut [f32]) {
    if mask.reads_all() {
        return;
    }
    for (i, row) in rows.chunks_exact_mut(n_keys).enumerate() {
        if mask.readable(entry, first + i, n_keys).is_empty() {
            row.fill(0.0);
        }
    }
}

/// One head: its queries, keys and mask.
#[derive(Clone, Copy)]
struct Head<'a> {
    query: View<'a>,
    key: View<'a>,
    mask: &'a AttentionMask,
    entry: usize,
    scale: f32,
}

impl<'a> Head<'a> {
    /// Some queries, and in `rows` their weights of all keys.
    fn weights(&self, first: usize, n_queries: usize, rows: &mut [f32]) -> View<'a> {
        let n_keys = self.key.shape[0];
        let query = self.query.rows(first, n_queries);
        multiply(query, self.key.transposed(), self.scale, false, rows);
        hide(self.mask, self.entry, first, n_keys, rows);
        softmax_in_place(rows, n_keys);
        erase(self.mask, self.entry, first, n_keys, rows);
        query
    }
}

thread_local! {
    /// Scores of one block; fresh memory would cost more than a small head.
    static SCORES: RefCell<[Vec<f32>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// Two buffers of this many values, whatever they are. Nothing that runs inside may share work among threads: this one
/// would pick up another block, and its buffers are in use.
fn with_scratch(n_values: usize, work: impl FnOnce(&mut [f32], &mut [f32])) {
    SCORES.with_borrow_mut(|buffers| {
        let [first, second] = buffers.each_mut().map(|buffer| {
            if buffer.len() < n_values {
                buffer.resize(n_values, 0.0);
            }
            &mut buffer[..n_values]
        });
        work(first, second);
    });
}

/// How many pieces of this much work a thread takes at a time.
fn pieces_per_task(work: usize) -> usize {
    WORTH_A_THREAD.div_ceil(work.max(1))
}

/// `softmax(q·kᵀ/√d)·v`; every tensor has values. Heads of one position lie side by side in the result, as the
/// projection that follows reads them.
pub(super) fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    mask: &AttentionMask,
) -> FlexTensor {
    let tensors = [query, key, value].map(positive);
    let [query, key, value] = std::array::from_fn(|i| Heads::of(&tensors[i]));
    let [batch, n_heads, n_queries, d_head] = query.shape;
    let [_, n_kv_heads, n_keys, d_value] = value.shape;
    let n_sharing = n_heads / n_kv_heads;
    let scale = scale(d_head);
    let (work_of_query, width) = (n_heads * n_keys * (d_head + d_value), n_heads * d_value);
    let block = query_block(n_queries, n_keys);
    let mut out = vec![0f32; batch * n_queries * width];
    let attend_block = |place: [usize; 2], sides: &[Right; 2], first: usize, out: &mut [f32]| {
        let [entry, head] = place;
        let query = query.head(entry * n_heads + head, n_heads);
        let n_rows = out.len().div_ceil(width);
        with_scratch(n_rows * n_keys, |weights, totals| {
            let totals = &mut totals[..n_rows];
            let query = query.rows(first, n_rows);
            multiply_into(query, &sides[0], scale, false, weights, n_keys);
            hide(mask, entry, first, n_keys, weights);
            exponentials_in_place(weights, n_keys, totals);
            erase(mask, entry, first, n_keys, weights);
            let weights = View::of_rows(weights, n_keys);
            multiply_into(weights, &sides[1], 1.0, false, out, width);
            for (row, total) in out.chunks_mut(width).zip(totals) {
                let factor = 1.0 / *total;
                row[..d_value].iter_mut().for_each(|value| *value *= factor);
            }
        });
    };
    out.par_chunks_mut(n_queries * width)
        .with_min_len(pieces_per_task(n_queries * work_of_query))
        .enumerate()
        .for_each(|(entry, out)| {
            // Keys and values of a head are packed once for all queries that read them.
            let sides_of = |kv_head: usize| {
                let index = entry * n_kv_heads + kv_head;
                let sides = [
                    key.head(index, n_kv_heads).transposed(),
                    value.head(index, n_kv_heads),
                ];
                sides.map(|side| Right::for_rows(side, block))
            };
            let sides: Vec<_> = (0..n_kv_heads)
                .into_par_iter()
                .with_min_len(pieces_per_task(PACKING * n_keys * (d_head + d_value)))
                .map(sides_of)
                .collect();
            out.par_chunks_mut(block * width)
                .with_min_len(pieces_per_task(block * work_of_query))
                .enumerate()
                .for_each(|(i, out)| {
                    for head in 0..n_heads {
                        let (sides, out) = (&sides[head / n_sharing], &mut out[head * d_value..]);
                        attend_block([entry, head], sides, i * block, out);
                    }
                });
        });
    tensor(out, [batch, n_queries, n_heads, d_value]).transpose(1, 2)
}

/// Queries of a head that meet all keys together, so many that their scores stay in the second-level cache.
fn query_block(n_queries: usize, n_keys: usize) -> usize {
    const SCORES: usize = 1 << 18;
    const TILES: usize = 24; // whole tiles of any product
    let most = (SCORES / n_keys / TILES).max(2) * TILES;
    most.min(n_queries)
}

/// Gradients of query, key and value; every tensor has values.
pub(super) fn attend_backward(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    gradient: FlexTensor,
    mask: &AttentionMask,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let tensors = [query, key, value, gradient].map(positive);
    let [query, key, value, gradient] = std::array::from_fn(|i| Heads::of(&tensors[i]));
    let [batch, n_heads, n_queries, d_head] = query.shape;
    let [_, n_kv_heads, n_keys, d_value] = value.shape;
    let n_sharing = n_heads / n_kv_heads;
    let scale = scale(d_head);
    // Of keys and values for each query head, so that a head is one thread's work.
    let sizes = [n_queries * d_head, n_keys * d_head, n_keys * d_value];
    let [mut of_query, mut of_key, mut of_value] =
        sizes.map(|size| vec![0f32; batch * n_heads * size]);
    let backward_head =
        |index: usize, of_query: &mut [f32], of_key: &mut [f32], of_value: &mut [f32]| {
            let of_kv_head = index / n_sharing; // key heads divide query heads
            let key = key.head(of_kv_head, n_kv_heads);
            let value = value.head(of_kv_head, n_kv_heads);
            let gradient = gradient.head(index, n_heads);
            let head = Head {
                query: query.head(index, n_heads),
                key,
                mask,
                entry: index / n_heads,
                scale,
            };
            for (i, of_query) in of_query.chunks_mut(QUERY_BLOCK * d_head).enumerate() {
                let (first, n_rows, adds) = (i * QUERY_BLOCK, of_query.len() / d_head, i > 0);
                with_scratch(n_rows * n_keys, |weights, of_scores| {
                    let query = head.weights(first, n_rows, weights);
                    let gradient = gradient.rows(first, n_rows);
                    let by_key = View::of_rows(weights, n_keys).transposed();
                    multiply(by_key, gradient, 1.0, adds, of_value);
                    multiply(gradient, value.transposed(), 1.0, false, of_scores);
                    backward_in_place(of_scores, weights, n_keys);
                    let of_scores = View::of_rows(of_scores, n_keys);
                    multiply(of_scores, key, scale, false, of_query);
                    multiply(of_scores.transposed(), query, scale, adds, of_key);
                });
            }
        };
    of_query
        .par_chunks_mut(n_queries * d_head)
        .zip(of_key.par_chunks_mut(n_keys * d_head))
        .zip(of_value.par_chunks_mut(n_keys * d_value))
        .with_min_len(pieces_per_task(2 * n_queries * n_keys * (d_head + d_value)))
        .enumerate()
        .for_each(|(index, ((of_query, of_key), of_value))| {
            backward_head(index, of_query, of_key, of_value);
        });
    let of_key = summed(of_key, n_sharing, n_keys * d_head);
    let of_value = summed(of_value, n_sharing, n_keys * d_value);
    (
        tensor(of_query, [batch, n_heads, n_queries, d_head]),
        tensor(of_key, [batch, n_kv_heads, n_keys, d_head]),
        tensor(of_value, [batch, n_kv_heads, n_keys, d_value]),
    )
}

/// The gradients of the query heads that share a key head become one, summed in their order.
fn summed(of_heads: Vec<f32>, n_sharing: usize, n_values: usize) -> Vec<f32> {
    if n_sharing == 1 {
        return of_heads;
    }
    let mut of_kv_heads = Vec::with_capacity(of_heads.len() / n_sharing);
    for heads in of_heads.chunks_exact(n_sharing * n_values) {
        let start = of_kv_heads.len();
        of_kv_heads.extend_from_slice(&heads[..n_values]);
        for head in heads[n_values..].chunks_exact(n_values) {
            let sums = of_kv_heads[start..].iter_mut();
            sums.zip(head).for_each(|(sum, value)| *sum += value);
        }
    }
    of_kv_heads
}
