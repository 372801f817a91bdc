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
    permutations: Mutex<Permutations>,
}

/// By dataset and pass.
type Permutations = HashMap<(usize, u64), Arc<[u32]>>;

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
        let passes: Vec<u64> = kept
            .keys()
            .filter(|key| key.0 == dataset_idx)
            .map(|key| key.1)
            .collect();
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
    catalog
        .datasets()
        .iter()
        .map(|dataset| dataset.weight)
        .collect()
}

/// Whole numbers in the proportion of `weights`: exact where a small common denominator exists,
/// as for 0.05 : 0.2 : 0.25, and otherwise to one part in 65536.
fn whole_shares(weights: &[f64]) -> Vec<u64> {
    const SMALL: u64 = 4096;
    const FINE: u64 = 1 << 16;
    let total: f64 = weights.iter().sum();
    let exact = (1..=SMALL).find_map(|denominator| {
        let shares = weights
            .iter()
            .map(|weight| weight / total * denominator as f64);
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
            if (place as usize).is_multiple_of(Self::BLOCK) {
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
        (
            dataset_idx,
            position / period * self.shares[dataset_idx] + in_period,
        )
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
            let (a_first, b_first) = (
                slack(a) * i128::from(shares[b]),
                slack(b) * i128::from(shares[a]),
            );
            a_first.cmp(&b_first)
        })
        .expect("the datasets are one place behind together, so one is a fair part of it behind")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MemoryDataset;
    use crate::clip::Clip;
    use crate::dataset::{CategorySource, DatasetHeader, Positives, Purpose};
    use proptest::prelude::*;

    fn dataset(name: &str, n_samples: usize, weight: Option<f64>) -> MemoryDataset {
        let clip = |i: usize| Clip {
            id: i.to_string(),
            dataset: name.to_string(),
            video: String::new(),
            is_video: false,
            first_frame: 0,
            fps: None,
            width: 1,
            height: 1,
            frames: Vec::new(),
            objects: Vec::new(),
            present_categories: Vec::new(),
            frame_labels: None,
        };
        MemoryDataset {
            header: DatasetHeader {
                dataset: name.to_string(),
                split: "train".to_string(),
                purpose: Purpose::Training,
                category_source: CategorySource::Descriptions,
                max_categories: 30,
                positives: Positives::One,
                eval_categories: None,
                true_categories: Default::default(),
                settings: serde_json::Value::Null,
            },
            clips: (0..n_samples).map(clip).collect(),
            weight,
        }
    }

    fn catalog(sizes: &[usize], weights: Option<&[f64]>) -> Catalog {
        let datasets = sizes.iter().enumerate().map(|(i, &n_samples)| {
            dataset(
                &format!("set {i}"),
                n_samples,
                weights.map(|weights| weights[i]),
            )
        });
        Catalog::in_memory(datasets.collect()).unwrap()
    }

    proptest! {
        #[test]
        fn without_weights_an_epoch_holds_every_sample_once(
            sizes in prop::collection::vec(1usize..40, 1..5),
            seed: u64,
        ) {
            let catalog = catalog(&sizes, None);
            let order = SampleOrder::new(&catalog, seed);
            let n = catalog.len() as u64;
            for epoch in 0..3 {
                let places: Vec<Position> =
                    (epoch * n..(epoch + 1) * n).map(|position| order.sample(position)).collect();
                prop_assert!(places.iter().all(|place| place.epoch == epoch));
                let mut indices: Vec<usize> = places.iter().map(|place| place.index).collect();
                indices.sort_unstable();
                prop_assert_eq!(indices, (0..catalog.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn weights_are_kept_to_less_than_a_sample_at_every_prefix(
            shares in prop::collection::vec(1u64..60, 1..7),
        ) {
            let schedule = Schedule::new(&shares);
            let total: u64 = shares.iter().sum();
            let mut taken = vec![0u64; shares.len()];
            for position in 0..2 * total {
                let (dataset_idx, before) = schedule.at(position);
                prop_assert_eq!(before, taken[dataset_idx]);
                taken[dataset_idx] += 1;
                for (taken, share) in taken.iter().zip(&shares) {
                    let fair = share * (position + 1);
                    prop_assert!((taken * total).abs_diff(fair) < total);
                }
            }
        }

        #[test]
        fn every_pass_over_a_dataset_sees_each_of_its_samples_once(
            sizes in prop::collection::vec(1usize..12, 2..4),
            seed: u64,
        ) {
            let weights: Vec<f64> = (1..=sizes.len()).map(|i| i as f64).collect();
            let catalog = catalog(&sizes, Some(&weights));
            let order = SampleOrder::new(&catalog, seed);
            let mut seen = HashMap::new();
            for position in 0..400 {
                let place = order.sample(position);
                *seen.entry((place.index, place.epoch)).or_insert(0) += 1;
            }
            prop_assert!(seen.values().all(|&times| times == 1));
        }

        #[test]
        fn any_slice_equals_the_whole(
            sizes in prop::collection::vec(1usize..20, 1..4),
            seed: u64,
            begin in 0u64..5000,
            n_samples in 1usize..16,
        ) {
            let catalog = catalog(&sizes, None);
            let whole = SampleOrder::new(&catalog, seed);
            for position in 0..begin {
                whole.sample(position);
            }
            // Asked first, and from the middle: what was asked before does not matter.
            let fresh = SampleOrder::new(&catalog, seed);
            let batch = fresh.batch(begin, n_samples);
            prop_assert_eq!(&batch, &whole.batch(begin, n_samples));
            let first = begin * n_samples as u64;
            for (i, place) in batch.iter().enumerate() {
                prop_assert_eq!(*place, whole.sample(first + i as u64));
            }
        }
    }

    #[test]
    fn the_order_depends_on_seed_pass_and_data_alone() {
        let indices = |catalog: &Catalog, seed, begin: u64| -> Vec<usize> {
            let order = SampleOrder::new(catalog, seed);
            (begin..begin + 50)
                .map(|position| order.sample(position).index)
                .collect()
        };
        let fifty = catalog(&[50], None);
        assert_eq!(indices(&fifty, 1, 0), indices(&catalog(&[50], None), 1, 0));
        assert_ne!(indices(&fifty, 1, 0), indices(&fifty, 2, 0));
        assert_ne!(indices(&fifty, 1, 0), indices(&fifty, 1, 50));
        let renamed = Catalog::in_memory(vec![dataset("another", 50, None)]).unwrap();
        assert_ne!(indices(&fifty, 1, 0), indices(&renamed, 1, 0));
    }

    #[test]
    fn the_weights_of_the_paper_are_exact() {
        let weights = [0.05, 0.2, 0.25, 0.2, 0.05, 0.1, 0.1, 0.05];
        assert_eq!(whole_shares(&weights), [1, 4, 5, 4, 1, 2, 2, 1]);
        assert_eq!(whole_shares(&[1.0, 2.0]), [1, 2]);
        let odd = whole_shares(&[1.0, std::f64::consts::PI, 1e-9]);
        assert!(odd.iter().all(|&share| share > 0));
    }

    #[test]
    fn positions_far_into_a_run_cost_no_replay() {
        let catalog = catalog(&[3000, 1000], None);
        let order = SampleOrder::new(&catalog, 1);
        let place = order.sample(u64::MAX / 2);
        assert_eq!(place.epoch, u64::MAX / 2 / 4000);
    }
}
