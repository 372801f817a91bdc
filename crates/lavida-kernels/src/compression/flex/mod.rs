//! Token compression on Flex: on the host, on all cores, without an L × L anything.
//!
//! The nearest tokens come from products of panels (`product`), corrected where they are close (`nearest`). A token
//! with a background token around it has found its cluster; only the others look through all of them.
//! Memory beside input and output: panels of at most 32 MiB, some 1,800 bytes a token, and 150 KiB a
//! thread.

mod merge;
mod nearest;
mod product;
mod tokens;
mod words;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorData};
use rayon::prelude::*;

use super::{CompressionConfig, Density, NO_DISTANCE, is_bad_length};
use merge::Clusters;
use nearest::{Blocking, Neighbor, Neighborhoods, nearest_of, neighborhoods};
use product::Arithmetic;
use tokens::{Tokens, Value, squared_lengths};

/// What is background and who belongs to it, for all samples one after the other.
pub(super) struct Choice {
    pub(super) kept: FlexTensor,
    pub(super) assignment: FlexTensor,
    pub(super) density: FlexTensor,
    pub(super) squared_lengths: FlexTensor,
}

/// Calls a function with a tensor's values, whatever their type.
macro_rules! with_values {
    ($tensor:expr, $values:ident => $call:expr) => {
        match $tensor.dtype() {
            DType::F32 => {
                let $values = $tensor.storage::<f32>();
                $call
            }
            DType::BF16 => {
                let $values = $tensor.storage::<half::bf16>();
                $call
            }
            DType::F16 => {
                let $values = $tensor.storage::<half::f16>();
                $call
            }
            other => panic!("tokens are f32, bf16 or f16, not {other:?}"),
        }
    };
}

/// The background of each sample of `n_tokens` rows of `tokens` `[N, D]`.
pub(super) fn choose(tokens: FlexTensor, n_tokens: &[usize], config: &CompressionConfig) -> Choice {
    let tokens = whole(tokens);
    let d_token = d_token(&tokens);
    let choice = with_values!(tokens, values => choose_all(values, d_token, n_tokens, config));
    let HostChoice {
        kept,
        assignment,
        density,
        squared_lengths,
    } = choice;
    let indices = |indices: Vec<u32>| {
        let indices: Vec<i32> = indices.into_iter().map(|index| index as i32).collect();
        let shape = [indices.len()];
        FlexTensor::from_data(TensorData::new(indices, shape))
    };
    let floats = |values: Vec<f32>| {
        let shape = [values.len()];
        FlexTensor::from_data(TensorData::new(values, shape))
    };
    Choice {
        kept: indices(kept),
        assignment: indices(assignment),
        density: floats(density),
        squared_lengths: floats(squared_lengths),
    }
}

/// Merged tokens `[ΣL_r, D]` of the samples.
pub(super) fn merge(
    tokens: FlexTensor,
    kept: FlexTensor,
    assignment: FlexTensor,
    n_tokens: &[usize],
    n_kept: &[usize],
) -> FlexTensor {
    let tokens = whole(tokens);
    let d_token = d_token(&tokens);
    let (background, cluster) = through_samples(kept, assignment, n_tokens, n_kept);
    let shape = [background.len(), d_token];
    with_values!(tokens, values => {
        let merged = Clusters::new(values, d_token, background, cluster).merge();
        FlexTensor::from_data(TensorData::new(merged, shape))
    })
}

/// Gradient of the tokens `[N, D]` from that of the merged ones.
pub(super) fn merge_backward(
    tokens: FlexTensor,
    kept: FlexTensor,
    assignment: FlexTensor,
    gradient: FlexTensor,
    n_tokens: &[usize],
    n_kept: &[usize],
) -> FlexTensor {
    let (tokens, gradient) = (whole(tokens), whole(gradient));
    assert_eq!(
        tokens.dtype(),
        gradient.dtype(),
        "a gradient is of its tensor's type"
    );
    let d_token = d_token(&tokens);
    let (background, cluster) = through_samples(kept, assignment, n_tokens, n_kept);
    let shape = [cluster.len(), d_token];
    with_values!(tokens, values => {
        let clusters = Clusters::new(values, d_token, background, cluster);
        FlexTensor::from_data(TensorData::new(clusters.backward(gradient.storage()), shape))
    })
}

fn d_token(tokens: &FlexTensor) -> usize {
    tokens.shape().last().copied().unwrap_or(0)
}

/// The same values in row-major order from the start of their storage.
fn whole(tensor: FlexTensor) -> FlexTensor {
    let n_values = tensor.shape().num_elements();
    let is_whole = tensor.layout().contiguous_offsets() == Some((0, n_values));
    if is_whole && tensor.bytes().len() == n_values * tensor.dtype().size() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Background tokens and clusters counted through all samples instead of within each.
fn through_samples(
    kept: FlexTensor,
    assignment: FlexTensor,
    n_tokens: &[usize],
    n_kept: &[usize],
) -> (Vec<u32>, Vec<u32>) {
    let through = |indices: FlexTensor, sizes: &[usize], firsts: &[usize]| -> Vec<u32> {
        let indices = indices.into_data();
        let mut indices = indices.iter::<i64>();
        let mut first = 0;
        let mut through = Vec::with_capacity(sizes.iter().sum());
        for (size, step) in sizes.iter().zip(firsts) {
            let sample = indices.by_ref().take(*size);
            through.extend(sample.map(|index| first + index as u32));
            first += *step as u32;
        }
        through
    };
    (
        through(kept, n_kept, n_tokens),
        through(assignment, n_tokens, n_kept),
    )
}

/// [`Choice`] before it is tensors.
#[derive(Debug, Default, PartialEq)]
struct HostChoice {
    kept: Vec<u32>,
    assignment: Vec<u32>,
    density: Vec<f32>,
    squared_lengths: Vec<f32>,
}

fn choose_all<T: Value>(
    values: &[T],
    d_token: usize,
    n_tokens: &[usize],
    config: &CompressionConfig,
) -> HostChoice {
    let lengths = squared_lengths(values, d_token);
    let squared_lengths: Vec<f32> = lengths.iter().map(|length| *length as f32).collect();
    let mut choice = HostChoice {
        squared_lengths,
        ..HostChoice::default()
    };
    if choice
        .squared_lengths
        .iter()
        .any(|length| is_bad_length(*length))
    {
        // Refused by the caller, who reads the lengths; the rest has the right shape and means nothing.
        let n_kept = n_tokens.iter().map(|n| config.keep_ratio.n_kept(*n)).sum();
        choice.kept = vec![0; n_kept];
        choice.assignment = vec![0; lengths.len()];
        choice.density = vec![0.0; lengths.len()];
        return choice;
    }
    let mut rest = values;
    for n_tokens in n_tokens {
        let (sample, after) = rest.split_at(n_tokens * d_token);
        rest = after;
        let arithmetic = Arithmetic::of_this_machine();
        let chosen = choose_one(sample, d_token, config, arithmetic, Blocking::new());
        choice.kept.extend(chosen.kept);
        choice.assignment.extend(chosen.assignment);
        choice.density.extend(chosen.density);
    }
    choice
}

/// The background of one sample of finite tokens.
fn choose_one<T: Value>(
    values: &[T],
    d_token: usize,
    config: &CompressionConfig,
    arithmetic: Arithmetic,
    blocking: Blocking,
) -> HostChoice {
    let mut tokens = Tokens::new(values, d_token, arithmetic);
    let n_tokens = tokens.n_tokens();
    let k = config.n_neighbors.get().min(n_tokens - 1);
    if k == 0 {
        return HostChoice {
            kept: vec![0],
            assignment: vec![0],
            density: vec![0.0],
            ..HostChoice::default()
        };
    }
    let around = neighborhoods(&mut tokens, k, blocking);
    let density = density(&around.nearest, k, &tokens, config.density);
    let kept = densest(&density, config.keep_ratio.n_kept(n_tokens));
    let assignment = assign(&tokens, &around, k, &kept, blocking);
    HostChoice {
        kept,
        assignment,
        density,
        ..HostChoice::default()
    }
}

/// Density of each token from its `k` neighbours.
fn density<T: Value>(
    neighbors: &[Neighbor],
    k: usize,
    tokens: &Tokens<T>,
    density: Density,
) -> Vec<f32> {
    let squared = |neighbor: &Neighbor| neighbor.squared_distance / tokens.squared_scale();
    let distance = |neighbor: &Neighbor| (squared(neighbor) / tokens.d_token() as f64).sqrt();
    let k_distance = |token: u32| distance(&neighbors[(token as usize + 1) * k - 1]);
    neighbors
        .par_chunks(k)
        .map(|nearest| {
            let mut farness: Vec<f64> = nearest
                .iter()
                .map(|neighbor| match density {
                    Density::Knn => squared(neighbor),
                    Density::Reachability => distance(neighbor).max(k_distance(neighbor.token)),
                })
                .collect();
            farness.sort_unstable_by(f64::total_cmp); // equal terms have an equal sum
            (k as f64 / (farness.iter().sum::<f64>() + NO_DISTANCE)) as f32
        })
        .collect()
}

/// The `n_kept` densest tokens, ascending; of equals those of lower index.
fn densest(density: &[f32], n_kept: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..density.len() as u32).collect();
    if n_kept < order.len() {
        order.select_nth_unstable_by(n_kept, |a, b| {
            let (of_a, of_b) = (density[*a as usize], density[*b as usize]);
            of_b.total_cmp(&of_a).then(a.cmp(b))
        });
        order.truncate(n_kept);
    }
    order.sort_unstable();
    order
}

/// The row of `kept` nearest to each token.
fn assign<T: Value>(
    tokens: &Tokens<T>,
    around: &Neighborhoods,
    k: usize,
    kept: &[u32],
    blocking: Blocking,
) -> Vec<u32> {
    const NONE: u32 = u32::MAX;
    let mut row_of = vec![NONE; tokens.n_tokens()];
    for (row, token) in kept.iter().enumerate() {
        row_of[*token as usize] = row as u32;
    }
    let is_kept = |token: u32| row_of[token as usize] != NONE;
    // All that is nearer than a neighbour is a neighbour: the first background token among them is the nearest.
    let mut assignment: Vec<u32> = around
        .nearest
        .par_chunks(k)
        .enumerate()
        .map(|(token, nearest)| {
            let token = token as u32;
            std::iter::once(token)
                .chain(nearest.iter().map(|neighbor| neighbor.token))
                .find(|token| is_kept(*token))
                .or_else(|| around.nearest_further(tokens, token, is_kept))
                .map_or(NONE, |token| row_of[token as usize])
        })
        .collect();
    let far: Vec<u32> = (0..tokens.n_tokens() as u32)
        .filter(|token| assignment[*token as usize] == NONE)
        .collect();
    let nearest = nearest_of(tokens, &far, kept, blocking);
    for (token, nearest) in far.iter().zip(nearest) {
        assignment[*token as usize] = row_of[nearest as usize];
    }
    assignment
}

#[cfg(test)]
mod tests;
