//! Kernels of the merge (Eq. 4) and its gradient: clusters as lists of members, one cube a cluster or a token.
//!
//! `samples` has for each token the first and last token of its sample, the first cluster and their number;
//! `clusters` the same for each cluster.

use cubecl::prelude::*;

use super::lanes::{LANES, inner_product};

/// First place of each cluster's members: tokens of the sample in lower clusters come before. `[N_r + 1]`.
#[cube(launch)]
pub(super) fn starts(assignment: &Tensor<i32>, clusters: &Tensor<i32>, starts: &mut Tensor<i32>) {
    let cluster = ABSOLUTE_POS as usize;
    let n_clusters = starts.shape(0) - 1;
    if cluster > n_clusters {
        terminate!();
    }
    if cluster == n_clusters {
        starts[cluster] = assignment.shape(0) as i32;
    } else {
        let first = clusters[cluster * 4] as usize;
        let last = clusters[cluster * 4 + 1] as usize;
        let own = cluster as i32 - clusters[cluster * 4 + 2];
        let mut before = first as i32;
        for token in first..last {
            if assignment[token] < own {
                before += 1;
            }
        }
        starts[cluster] = before;
    }
}

/// Members of each cluster, ascending: `[N]`; and where each token stands there.
#[cube(launch)]
pub(super) fn members(
    assignment: &Tensor<i32>,
    samples: &Tensor<i32>,
    starts: &Tensor<i32>,
    members: &mut Tensor<i32>,
    places: &mut Tensor<i32>,
) {
    let token = ABSOLUTE_POS as usize;
    if token >= assignment.shape(0) {
        terminate!();
    }
    let own = assignment[token];
    let mut place = starts[(samples[token * 4 + 2] + own) as usize];
    for other in samples[token * 4] as usize..token {
        if assignment[other] == own {
            place += 1;
        }
    }
    members[place as usize] = token as i32;
    places[token] = place;
}

/// Softmax weight of each member, in the order of `members`.
#[cube(launch)]
pub(super) fn weights<F: Float>(
    tokens: &Tensor<F>,
    kept: &Tensor<i32>,
    clusters: &Tensor<i32>,
    starts: &Tensor<i32>,
    members: &Tensor<i32>,
    weights: &mut Tensor<f32>,
    scale: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let cluster = CUBE_POS as usize;
    if cluster >= kept.shape(0) {
        terminate!();
    }
    let background = (clusters[cluster * 4] + kept[cluster]) as usize;
    let first = starts[cluster] as usize;
    let last = starts[cluster + 1] as usize;
    let mut parts = Shared::<[f32]>::new_slice(LANES);
    let mut largest = f32::new(-3.0e38);
    for at in first..last {
        let member = members[at] as usize;
        let product = inner_product(tokens, background, tokens, member, &mut parts, units);
        let score = f32::new(0.0) - product * scale;
        if score > largest {
            largest = score;
        }
        if UNIT_POS == 0 {
            weights[at] = score;
        }
    }
    if UNIT_POS == 0 {
        let mut total = f32::new(0.0);
        for at in first..last {
            let weight = (weights[at] - largest).exp();
            weights[at] = weight;
            total += weight;
        }
        for at in first..last {
            weights[at] = weights[at] / total;
        }
    }
}

/// Merged tokens: `[N_r, D]`.
#[cube(launch)]
pub(super) fn merge<F: Float>(
    tokens: &Tensor<F>,
    starts: &Tensor<i32>,
    members: &Tensor<i32>,
    weights: &Tensor<f32>,
    merged: &mut Tensor<F>,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let cluster = CUBE_POS as usize;
    if cluster >= merged.shape(0) {
        terminate!();
    }
    let d_token = tokens.shape(1);
    let first = starts[cluster] as usize;
    let last = starts[cluster + 1] as usize;
    let mut d = UNIT_POS as usize;
    while d < d_token {
        let mut sum = f32::new(0.0);
        for at in first..last {
            sum += weights[at] * f32::cast_from(tokens[members[at] as usize * d_token + d]);
        }
        merged[cluster * d_token + d] = F::cast_from(sum);
        d += units;
    }
}

/// `s_m = w_m·(g·z_m − g·z')` of each member, in the order of `members`.
#[cube(launch)]
pub(super) fn pulls<F: Float>(
    tokens: &Tensor<F>,
    gradient: &Tensor<F>,
    starts: &Tensor<i32>,
    members: &Tensor<i32>,
    weights: &Tensor<f32>,
    pulls: &mut Tensor<f32>,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let cluster = CUBE_POS as usize;
    if cluster >= gradient.shape(0) {
        terminate!();
    }
    let first = starts[cluster] as usize;
    let last = starts[cluster + 1] as usize;
    let mut parts = Shared::<[f32]>::new_slice(LANES);
    let mut merged = f32::new(0.0);
    for at in first..last {
        let member = members[at] as usize;
        let along = inner_product(gradient, cluster, tokens, member, &mut parts, units);
        merged += weights[at] * along;
        if UNIT_POS == 0 {
            pulls[at] = along;
        }
    }
    if UNIT_POS == 0 {
        for at in first..last {
            pulls[at] = weights[at] * (pulls[at] - merged);
        }
    }
}

/// Gradient of each token: one cube a token.
#[cube(launch)]
pub(super) fn gradient<F: Float>(
    tokens: &Tensor<F>,
    gradient: &Tensor<F>,
    kept: &Tensor<i32>,
    assignment: &Tensor<i32>,
    samples: &Tensor<i32>,
    starts: &Tensor<i32>,
    members: &Tensor<i32>,
    places: &Tensor<i32>,
    weights: &Tensor<f32>,
    pulls: &Tensor<f32>,
    moved: &mut Tensor<F>,
    scale: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let token = CUBE_POS as usize;
    if token >= moved.shape(0) {
        terminate!();
    }
    let d_token = tokens.shape(1);
    let cluster = (samples[token * 4 + 2] + assignment[token]) as usize;
    let background = (samples[token * 4] + kept[cluster]) as usize;
    let place = places[token] as usize;
    let first = starts[cluster] as usize;
    let last = starts[cluster + 1] as usize;
    let mut d = UNIT_POS as usize;
    while d < d_token {
        let mut sum = weights[place] * f32::cast_from(gradient[cluster * d_token + d])
            - scale * pulls[place] * f32::cast_from(tokens[background * d_token + d]);
        if background == token {
            for at in first..last {
                sum -=
                    scale * pulls[at] * f32::cast_from(tokens[members[at] as usize * d_token + d]);
            }
        }
        moved[token * d_token + d] = F::cast_from(sum);
        d += units;
    }
}
