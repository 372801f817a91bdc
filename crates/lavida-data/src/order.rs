//! Which sample stands at which place of the endless stream of training samples.
//!
//! Two parts, both without state. The *schedule* says which dataset each position takes from, in
//! proportion to the weights and never a whole sample off; the *permutation* says which of the
//! dataset's samples that is, a fresh one for every pass over the dataset. Both follow from (seed,
//! pass, identity of the data), so every worker computes the same stream and a resumed run needs no
//! more than the position it stood at.
//!
//! Letters: `D` datasets, `L` positions of the schedule's period.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::Catalog;
use crate::seed::StageRng;

/// A place in the stream and the sample that stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Samples before it in the whole run.
    pub position: u64,
    /// Times its dataset had been passed over whole: 0 for the first.
    pub epoch: u64,
    /// Index in the catalog.
    pub index: usize,
}

/// The order of training samples.
pub struct SampleOrder {
    seed: u64,
    schedule: Schedule,
    datasets: Vec<OrderedDataset>,
    permutations: Mutex<HashMap<(usize, u64), Arc<[u32]>>>,
}

struct OrderedDataset {
    begin: usize,
    n_samples: usize,
    hash: [u8; 32],
}

/// Permutations kept for each dataset: the current pass, the one before (a prefetcher may be ahead)
/// and one to spare.
const PASSES_KEPT: usize = 3;

impl SampleOrder {
    /// The order of `catalog`'s samples under `seed`.
    pub fn new(catalog: &Catalog, seed: u64) -> Self {
        let shares: Vec<u64> = match weights(catalog) {
            Some(weights) => whole_shares(&weights),
            None => catalog
                .datasets()
                .iter()
                .map(|dataset| dataset.samples.len() as u64)
                .collect(),
        };
        let datasets = catalog
            .datasets()
            .iter()
            .map(|dataset| OrderedDataset {
                begin: dataset.samples.start,
                n_samples: dataset.samples.len(),
                hash: dataset.hash,
            })
            .collect();
        Self {
            seed,
            schedule: Schedule::new(&shares),
            datasets,
            permutations: Mutex::default(),
        }
    }

    /// The sample at `position`.
    pub fn sample(&self, position: u64) -> Position {
        let (dataset_idx, draw) = self.schedule.at(position);
        let dataset = &self.datasets[dataset_idx];
        let epoch = draw / dataset.n_samples as u64;
        let place = (draw % dataset.n_samples as u64) as usize;
        let permutation = self.permutation(dataset_idx, epoch);
        Position {
            position,
            epoch,
            index: dataset.begin + permutation[place] as usize,
        }
    }

    /// The samples of the global batch of `step` (0 is the first): positions
    /// `step · global_batch …`. Rank `r` of `n` takes its `n`-th part, in order.
    pub fn batch(&self, step: u64, global_batch: usize) -> Vec<Position> {
        let begin = step * global_batch as u64;
        (begin..begin + global_batch as u64)
            .map(|position| self.sample(position))
            .collect()
    }

    fn permutation(&self, dataset_idx: usize, pass: u64) -> Arc<[u32]> {
        let mut kept = self
            .permutations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(permutation) = kept.get(&(dataset_idx, pass)) {
            return permutation.clone();
        }
        let dataset = &self.datasets[dataset_idx];
        let mut order: Vec<u32> = (0..dataset.n_samples as u32).collect();
        StageRng::new(self.seed, "sample order", &[&dataset.hash, &pass]).shuffle(&mut order);
        let order: Arc<[u32]> = order.into();
        let passes: Vec<u64> = kept.keys().filter(|key| key.0 == dataset_idx).map(|key| key.1).collect();
        if passes.len() >= PASSES_KEPT
            && let Some(farthest) = passes.into_iter().max_by_key(|&other| other.abs_diff(pass))
        {
            kept.remove(&(dataset_idx, farthest));
        }
        kept.insert((dataset_idx, pass), order.clone());
        order
    }
}

fn weights(catalog: &Catalog) -> Option<Vec<f64>> {
    catalog.datasets().iter().map(|dataset| dataset.weight).collect()
}

/// Whole numbers in the proportion of `weights`: exact where a small common denominator exists,
/// as for 0.05 : 0.2 : 0.25, and otherwise to one part in 65536.
fn whole_shares(weights: &[f64]) -> Vec<u64> {
    const SMALL: u64 = 4096;
    const FINE: u64 = 1 << 16;
    let total: f64 = weights.iter().sum();
    let exact = (1..=SMALL).find_map(|denominator| {
        let shares = weights.iter().map(|weight| weight / total * denominator as f64);
        shares
            .map(|share| {
                let whole = share.round();
                (whole >= 1.0 && (share - whole).abs() < 1e-9).then_some(whole as u64)
            })
            .collect::<Option<Vec<u64>>>()
    });
    exact.unwrap_or_else(|| {
        let share = |weight: &f64| ((weight / total * FINE as f64).round() as u64).max(1);
        weights.iter().map(share).collect()
    })
}

/// Which dataset each position takes from, periodic in `L = Σ shares / gcd`.
///
/// Built by Tijdeman's algorithm (The chairman assignment problem, 1980): among the datasets that
/// are behind enough to take the next place, the one that would fall a sample behind first. After
/// any number of positions every dataset is less than one sample off its share.
struct Schedule {
    /// `[D]` places in a period.
    shares: Vec<u64>,
    /// `[L]` dataset of each place.
    places: Vec<u16>,
    /// `[⌈L / BLOCK⌉, D]` how often each dataset occurs before the block.
    before: Vec<u64>,
}

impl Schedule {
    const BLOCK: usize = 256;

    fn new(shares: &[u64]) -> Self {
        let divisor = shares.iter().copied().fold(0, gcd).max(1);
        let shares: Vec<u64> = shares.iter().map(|share| share / divisor).collect();
        let period: u64 = shares.iter().sum();
        let mut places = Vec::with_capacity(period as usize);
        let mut before = Vec::new();
        let mut taken = vec![0u64; shares.len()];
        for place in 0..period {
            if place as usize % Self::BLOCK == 0 {
                before.extend(&taken);
            }
            let dataset_idx = next_place(&shares, period, &taken, place + 1);
            taken[dataset_idx] += 1;
            places.push(dataset_idx as u16);
        }
        Self {
            shares,
            places,
            before,
        }
    }

    /// The dataset at `position`, and how many positions before it took from the same.
    fn at(&self, position: u64) -> (usize, u64) {
        let period = self.places.len() as u64;
        let place = (position % period) as usize;
        let dataset_idx = self.places[place] as usize;
        let block = place / Self::BLOCK;
        let in_block = self.places[block * Self::BLOCK..place]
            .iter()
            .filter(|&&other| other as usize == dataset_idx)
            .count() as u64;
        let in_period = self.before[block * self.shares.len() + dataset_idx] + in_block;
        (dataset_idx, position / period * self.shares[dataset_idx] + in_period)
    }
}

/// The dataset that takes the `n`-th place (from 1) of a period, where `taken` of the places before
/// are each dataset's. In whole numbers: all terms are multiplied by `period · 2(D - 1)`.
fn next_place(shares: &[u64], period: u64, taken: &[u64], n: u64) -> usize {
    let scale = 2 * (shares.len() as i128 - 1).max(1);
    let period = i128::from(period);
    // How far behind its share a dataset would be at place `n` if it did not take it.
    let behind = |d: usize| i128::from(shares[d]) * i128::from(n) - i128::from(taken[d]) * period;
    let slack = |d: usize| (scale - 1) * period - scale * behind(d);
    (0..shares.len())
        .filter(|&d| scale * behind(d) >= period)
        .min_by(|&a, &b| {
            // slack / share, without dividing
            let (a_first, b_first) = (slack(a) * i128::from(shares[b]), slack(b) * i128::from(shares[a]));
            a_first.cmp(&b_first)
        })
        .expect("the datasets are one place behind together, so one is a fair part of it behind")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
