//! Which sample stands at which place of the endless stream of training samples.
//!
//! Two parts, both without state. The *schedule* says which dataset each position takes from, in
//! proportion to the weights and never a whole sample off; the *shuffle* says which of the
//! dataset's samples that is, another order for every pass over the dataset. Both follow from (seed,
//! pass, identity of the data), so every worker computes the same stream and a resumed run needs no
//! more than the position it stood at.
//!
//! Samples do not move farther than a *window* of the stream from where their row group stands, so what is
//! needed soon lies in few row groups and each is fetched once a pass ([`shuffle`]). A dataset has its
//! share of the window; one that fits into its share is permuted whole.
//!
//! Letters: `D` datasets, `L` positions of the schedule's period.

pub mod read_ahead;
mod schedule;
mod shuffle;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::shards::catalog::Catalog;
use schedule::{Schedule, whole_shares};
use shuffle::{Chunk, Pass, Shuffle};

/// Window of the shuffle in samples when nothing else is said. What a batch is drawn from is then 128 full row groups
/// or more; half of it is held in memory on average, 600 MB of COCO's pictures.
pub const DEFAULT_SHUFFLE_WINDOW: usize = 8192;

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
    window: u64,
    schedule: Schedule,
    datasets: Vec<OrderedDataset>,
    data: [u8; 32],
    drawn: Mutex<Drawn>,
}

struct OrderedDataset {
    begin: usize,
    shuffle: Shuffle,
}

/// What was drawn last: readers walk the stream, at a few places of it at once.
struct Drawn {
    /// By dataset and pass.
    passes: Recent<(usize, u64), Pass>,
    /// By dataset, pass and number.
    chunks: Recent<(usize, u64, u64), Chunk>,
}

/// Passes and chunks of each dataset that are kept: where the pipe reads, and where it reads ahead.
const PASSES_KEPT: usize = 3;
const CHUNKS_KEPT: usize = 6;

impl SampleOrder {
    /// The order of `catalog`'s samples under `seed`, shuffled within `window` samples.
    pub fn new(catalog: &Catalog, seed: u64, window: usize) -> Self {
        let datasets = catalog.datasets();
        let shares: Vec<u64> = match catalog.weights() {
            Some(weights) => whole_shares(&weights),
            None => datasets
                .iter()
                .map(|set| set.samples.len() as u64)
                .collect(),
        };
        let schedule = Schedule::new(&shares);
        let window = window.max(1) as u64;
        let ordered = datasets.iter().enumerate().map(|(i, dataset)| {
            let groups = catalog.group_lengths(i);
            OrderedDataset {
                begin: dataset.samples.start,
                shuffle: Shuffle::new(dataset.hash, &groups, schedule.draws_in(i, window)),
            }
        });
        Self {
            seed,
            window,
            datasets: ordered.collect(),
            data: catalog.hash(),
            drawn: Mutex::new(Drawn {
                passes: Recent::new(PASSES_KEPT * datasets.len()),
                chunks: Recent::new(CHUNKS_KEPT * datasets.len()),
            }),
            schedule,
        }
    }

    /// Identity of the data and of how it is ordered: a run goes on only where it is the same. That of the data alone
    /// where every dataset is permuted whole.
    pub fn hash(&self) -> [u8; 32] {
        if self
            .datasets
            .iter()
            .all(|dataset| dataset.shuffle.is_whole())
        {
            return self.data;
        }
        let mut hasher = blake3::Hasher::new_derive_key("lavida 2026 order by windows");
        hasher.update(&self.data);
        hasher.update(&self.window.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The sample at `position`.
    pub fn sample(&self, position: u64) -> Position {
        let (dataset_idx, draw) = self.schedule.at(position);
        let dataset = &self.datasets[dataset_idx];
        let n_samples = dataset.shuffle.n_samples();
        let epoch = draw / n_samples;
        let sample = self.sample_of_pass(dataset_idx, epoch, draw % n_samples);
        Position {
            position,
            epoch,
            index: dataset.begin + sample as usize,
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

    /// Positions after which nobody needs a row group that is needed now, but for the next pass; and where a dataset is
    /// permuted whole, not even that.
    pub fn reach(&self) -> u64 {
        let reach = |(i, dataset): (usize, &OrderedDataset)| match &dataset.shuffle {
            whole if whole.is_whole() => self.schedule.positions_of(i, 2 * whole.n_samples()),
            windowed => 2 * self.window + self.schedule.positions_of(i, windowed.largest_group()),
        };
        self.datasets
            .iter()
            .enumerate()
            .map(reach)
            .max()
            .unwrap_or(0)
    }

    fn sample_of_pass(&self, dataset_idx: usize, pass: u64, rank: u64) -> u32 {
        let shuffle = &self.datasets[dataset_idx].shuffle;
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pass = drawn
            .passes
            .get_or_insert((dataset_idx, pass), || shuffle.pass(self.seed, pass));
        let held = shuffle.chunks_of(rank).into_iter().find_map(|c| {
            let chunk = || shuffle.chunk(&of_pass, c);
            drawn
                .chunks
                .get_or_insert((dataset_idx, pass, c), chunk)
                .at(rank)
        });
        held.expect("chunks follow one another without a gap")
    }
}

/// The values used last, at most `capacity` of them.
struct Recent<K, V> {
    capacity: usize,
    clock: u64,
    values: HashMap<K, (u64, Arc<V>)>,
}

impl<K: Hash + Eq + Copy, V> Recent<K, V> {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            clock: 0,
            values: HashMap::new(),
        }
    }

    fn get_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        self.clock += 1;
        if let Some((used, value)) = self.values.get_mut(&key) {
            *used = self.clock;
            return value.clone();
        }
        if self.values.len() >= self.capacity {
            let oldest = self.values.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.values.remove(&oldest);
            }
        }
        let value = Arc::new(make());
        self.values.insert(key, (self.clock, value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clips::clip::Clip;
    use crate::shards::catalog::{MemoryDataset, Share};
    use crate::shards::dataset::{CategorySource, DatasetHeader, Positives, Purpose};
    use proptest::prelude::*;

    fn dataset(name: &str, n_samples: usize) -> MemoryDataset {
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
                protocol: None,
                interval: None,
                settings: serde_json::Value::Null,
            },
            share: Share::default(),
            clips: (0..n_samples).map(clip).collect(),
        }
    }

    fn catalog(sizes: &[usize], weights: Option<&[f64]>) -> Catalog {
        let datasets = sizes.iter().enumerate().map(|(i, &n_samples)| {
            let weight = weights.map(|weights| Share::Weight(weights[i]));
            MemoryDataset {
                share: weight.unwrap_or_default(),
                ..dataset(&format!("set {i}"), n_samples)
            }
        });
        Catalog::in_memory(datasets.collect()).unwrap()
    }

    proptest! {
        #[test]
        fn without_weights_an_epoch_holds_every_sample_once(
            sizes in prop::collection::vec(1usize..40, 1..5),
            seed: u64,
            window in 1usize..120,
        ) {
            let catalog = catalog(&sizes, None);
            let order = SampleOrder::new(&catalog, seed, window);
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
        fn every_pass_over_a_dataset_sees_each_of_its_samples_once(
            sizes in prop::collection::vec(1usize..12, 2..4),
            seed: u64,
            window in 1usize..40,
        ) {
            let weights: Vec<f64> = (1..=sizes.len()).map(|i| i as f64).collect();
            let catalog = catalog(&sizes, Some(&weights));
            let order = SampleOrder::new(&catalog, seed, window);
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
            window in 1usize..60,
        ) {
            let catalog = catalog(&sizes, None);
            let whole = SampleOrder::new(&catalog, seed, window);
            for position in 0..begin {
                whole.sample(position);
            }
            // Asked first, and from the middle: what was asked before does not matter.
            let fresh = SampleOrder::new(&catalog, seed, window);
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
            let order = SampleOrder::new(catalog, seed, 20);
            (begin..begin + 50)
                .map(|position| order.sample(position).index)
                .collect()
        };
        let fifty = catalog(&[50], None);
        assert_eq!(indices(&fifty, 1, 0), indices(&catalog(&[50], None), 1, 0));
        assert_ne!(indices(&fifty, 1, 0), indices(&fifty, 2, 0));
        assert_ne!(indices(&fifty, 1, 0), indices(&fifty, 1, 50));
        let renamed = Catalog::in_memory(vec![dataset("another", 50)]).unwrap();
        assert_ne!(indices(&fifty, 1, 0), indices(&renamed, 1, 0));
    }

    #[test]
    fn positions_far_into_a_run_cost_no_replay() {
        let catalog = catalog(&[3000, 1000], None);
        for window in [100, 4000] {
            let order = SampleOrder::new(&catalog, 1, window);
            let place = order.sample(u64::MAX / 2);
            assert_eq!(place.epoch, u64::MAX / 2 / 4000);
        }
    }

    #[test]
    fn a_run_is_told_apart_where_its_order_is() {
        let catalog = catalog(&[30, 10], None);
        let hash = |window| SampleOrder::new(&catalog, 1, window).hash();
        assert_eq!(hash(40), catalog.hash());
        assert_eq!(hash(400), catalog.hash());
        assert_ne!(hash(39), catalog.hash());
        assert_ne!(hash(39), hash(20));
    }
}
