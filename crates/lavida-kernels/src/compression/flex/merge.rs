//! Reverse attention inside each cluster (Eq. 4) and its gradient, cluster by cluster and row by row.
//!
//! With `c = 1/√D`, a cluster of background token `b` has weights `w_m = softmax(−c·z_b·z_m)` and becomes
//! `z' = Σ_m w_m·z_m`. Its gradient `g` moves member `m` by `w_m·g − c·s_m·z_b` and the background token besides by
//! `−c·Σ_m s_m·z_m`, where `s_m = w_m·(g·z_m − g·z')`.

use rayon::prelude::*;

use super::tokens::{Value, inner_product};
use crate::fast_math::with_vectors;

/// Tokens of all samples and who belongs to whom; rows count through all samples.
pub(super) struct Clusters<'a, T> {
    values: &'a [T],
    d_token: usize,
    /// Background token of each cluster.
    background: Vec<u32>,
    /// Members of cluster `c`, ascending: `members[starts[c]..starts[c + 1]]`.
    starts: Vec<usize>,
    members: Vec<u32>,
    /// Cluster of each token.
    cluster: Vec<u32>,
}

impl<'a, T: Value> Clusters<'a, T> {
    pub(super) fn new(
        values: &'a [T],
        d_token: usize,
        background: Vec<u32>,
        cluster: Vec<u32>,
    ) -> Self {
        let mut starts = vec![0; background.len() + 1];
        for cluster in &cluster {
            starts[*cluster as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut members = vec![0; cluster.len()];
        for (token, cluster) in cluster.iter().enumerate() {
            let place = &mut next[*cluster as usize];
            members[*place] = token as u32;
            *place += 1;
        }
        Self {
            values,
            d_token,
            background,
            starts,
            members,
            cluster,
        }
    }

    fn row(&self, token: u32) -> &'a [T] {
        &self.values[token as usize * self.d_token..][..self.d_token]
    }

    fn members(&self, cluster: usize) -> &[u32] {
        &self.members[self.starts[cluster]..self.starts[cluster + 1]]
    }

    /// Weight of each member of a cluster, in their order.
    fn weights(&self, cluster: usize) -> Vec<f64> {
        let background = self.row(self.background[cluster]);
        let scale = -(self.d_token as f64).powf(-0.5);
        let members = self.members(cluster).iter();
        let scores: Vec<f64> = members
            .map(|member| inner_product(background, self.row(*member)) * scale)
            .collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    /// `z'` of a cluster into `sums`.
    fn merge_one(&self, cluster: usize, weights: &[f64], sums: &mut [f32]) {
        sums.fill(0.0);
        for (member, weight) in self.members(cluster).iter().zip(weights) {
            add_scaled(sums, self.row(*member), *weight as f32);
        }
    }

    /// Merged tokens: `[L_r, D]`.
    pub(super) fn merge(&self) -> Vec<T> {
        let mut merged = vec![T::from_f32(0.0); self.background.len() * self.d_token];
        let new_sums = || vec![0f32; self.d_token];
        merged
            .par_chunks_mut(self.d_token)
            .enumerate()
            .for_each_init(new_sums, |sums, (cluster, merged)| {
                self.merge_one(cluster, &self.weights(cluster), sums);
                for (merged, sum) in merged.iter_mut().zip(sums) {
                    *merged = T::from_f32(*sum);
                }
            });
        merged
    }

    /// Gradient of the tokens `[L, D]` from that of the merged tokens `[L_r, D]`.
    pub(super) fn backward(&self, gradient: &[T]) -> Vec<T> {
        let gradient = |cluster: usize| &gradient[cluster * self.d_token..][..self.d_token];
        // Weight and `s` of each member, in the order of `members`.
        let pulls: Vec<(f64, f64)> = (0..self.background.len())
            .into_par_iter()
            .flat_map_iter(|cluster| {
                let weights = self.weights(cluster);
                let members = self.members(cluster).iter();
                let along: Vec<f64> = members
                    .map(|member| inner_product(gradient(cluster), self.row(*member)))
                    .collect();
                let merged: f64 = weights.iter().zip(&along).map(|(w, a)| w * a).sum();
                let pulls = weights.into_iter().zip(along);
                pulls.map(move |(weight, along)| (weight, weight * (along - merged)))
            })
            .collect();

        let scale = (self.d_token as f64).powf(-0.5);
        let mut place = vec![0u32; self.members.len()]; // of each token among the members
        for (at, member) in self.members.iter().enumerate() {
            place[*member as usize] = at as u32;
        }
        let mut moved = vec![T::from_f32(0.0); self.values.len()];
        let new_sums = || vec![0f32; self.d_token];
        moved
            .par_chunks_mut(self.d_token)
            .enumerate()
            .for_each_init(new_sums, |sums, (token, moved)| {
                let cluster = self.cluster[token] as usize;
                let background = self.background[cluster];
                let (weight, pull) = pulls[place[token] as usize];
                sums.fill(0.0);
                add_scaled(sums, gradient(cluster), weight as f32);
                add_scaled(sums, self.row(background), (-scale * pull) as f32);
                if background as usize == token {
                    let pulls = &pulls[self.starts[cluster]..self.starts[cluster + 1]];
                    for (member, (_, pull)) in self.members(cluster).iter().zip(pulls) {
                        add_scaled(sums, self.row(*member), (-scale * pull) as f32);
                    }
                }
                for (moved, sum) in moved.iter_mut().zip(sums) {
                    *moved = T::from_f32(*sum);
                }
            });
        moved
    }
}

/// `sums += factor·values`
fn add_scaled<T: Value>(sums: &mut [f32], values: &[T], factor: f32) {
    const PIECE: usize = 256;
    let mut piece = [0f32; PIECE];
    for (sums, values) in sums.chunks_mut(PIECE).zip(values.chunks(PIECE)) {
        for (piece, value) in piece.iter_mut().zip(values) {
            *piece = value.to_f32();
        }
        add_scaled_piece(sums, &piece[..values.len()], factor);
    }
}

with_vectors! {
    /// `sums += factor·values`
    fn add_scaled_piece(sums: &mut [f32], values: &[f32], factor: f32) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += factor * value;
        }
    }
}
