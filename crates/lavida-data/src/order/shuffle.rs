//! One pass over one dataset: every sample once, in an order whose neighbours in time are neighbours in the store.
//!
//! A permutation of the whole dataset would need all of its row groups at hand at all times. Here the row groups are
//! permuted, and their samples within them; then every sample moves on by a uniform draw of up to a *window* of samples.
//! A row group is therefore needed for one window and a little, and never again in the pass. What stands at a rank is
//! found by redrawing the two blocks it can come from, so a rank far into a run costs what the first one costs. A window
//! that holds the whole dataset gives a uniform permutation of it.
//!
//! Letters: `n` samples, `w` samples of the window, *place*: where a sample stands before it moves, *key*: after it.

use crate::seed::{SeedId, StageRng};

/// How one dataset is shuffled.
pub(super) struct Shuffle {
    hash: [u8; 32],
    /// `[groups + 1]` where each row group begins in the dataset; ends with `n`.
    begins: Vec<u32>,
    window: u64,
}

/// Samples that follow one another in the order of a pass.
pub(super) struct Chunk {
    first_rank: u64,
    samples: Vec<u32>,
}

/// The row groups of a pass in the order it takes them.
pub(super) struct Pass {
    seed: u64,
    pass: u64,
    groups: Vec<u32>,
    /// `[groups + 1]` place where each begins.
    places: Vec<u32>,
}

impl Shuffle {
    /// For the dataset `hash` whose row groups hold so many samples each. `window` is at least 1.
    pub fn new(hash: [u8; 32], group_lengths: &[usize], window: u64) -> Self {
        Self {
            hash,
            begins: running_sum(group_lengths.iter().map(|&length| length as u32)),
            window: window.max(1),
        }
    }

    /// `n`
    pub fn n_samples(&self) -> u64 {
        self.begins.last().copied().map_or(0, u64::from)
    }

    /// Whether a pass is a uniform permutation of all samples.
    pub fn is_whole(&self) -> bool {
        self.window >= self.n_samples()
    }

    /// The largest row group.
    pub fn largest_group(&self) -> u64 {
        let lengths = self.begins.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.max().map_or(0, u64::from)
    }

    /// The order in which a pass takes the row groups.
    pub fn pass(&self, seed: u64, pass: u64) -> Pass {
        let mut groups: Vec<u32> = (0..self.begins.len() as u32 - 1).collect();
        if !self.is_whole() {
            StageRng::new(seed, "row group order", &[&self.hash, &pass]).shuffle(&mut groups);
        }
        let lengths = groups
            .iter()
            .map(|&group| self.samples_of(group).len() as u32);
        let places = running_sum(lengths);
        Pass {
            seed,
            pass,
            groups,
            places,
        }
    }

    /// The chunks that can hold `rank` (below `n`): the later one, and the one before it, if it begins after `rank`.
    pub fn chunks_of(&self, rank: u64) -> [u64; 2] {
        if self.is_whole() {
            return [0, 0];
        }
        // Chunk `c` holds the keys from `c·w`; its first rank is between `(c - 1)·w` and `c·w`.
        [rank / self.window + 1, rank / self.window]
    }

    /// The samples whose keys are in `c·w .. (c + 1)·w`, by key.
    pub fn chunk(&self, pass: &Pass, c: u64) -> Chunk {
        if self.is_whole() {
            return self.whole(pass);
        }
        let (begin, end) = (c * self.window, (c + 1) * self.window);
        let mut first_rank = 0;
        let mut moved: Vec<(u64, u32)> = Vec::new();
        if let Some(before) = c.checked_sub(1) {
            let block = self.block(pass, before);
            let stayed = block.iter().filter(|(key, _)| *key < begin).count();
            first_rank = (before * self.window).min(self.n_samples()) + stayed as u64;
            moved.extend(block.into_iter().filter(|(key, _)| *key >= begin));
        }
        moved.extend(
            self.block(pass, c)
                .into_iter()
                .filter(|(key, _)| *key < end),
        );
        moved.sort_by_key(|(key, _)| *key); // stable: what draws the same key stays in the order of places
        Chunk {
            first_rank,
            samples: moved.into_iter().map(|(_, sample)| sample).collect(),
        }
    }

    /// Key and sample of the places `b·w .. (b + 1)·w`.
    fn block(&self, pass: &Pass, b: u64) -> Vec<(u64, u32)> {
        let n = self.n_samples();
        let places = (b * self.window).min(n)..((b + 1) * self.window).min(n);
        let mut rng = StageRng::new(pass.seed, "window", &[&self.hash, &pass.pass, &b]);
        let mut block = Vec::with_capacity((places.end - places.start) as usize);
        let mut at = pass
            .places
            .partition_point(|&begin| u64::from(begin) <= places.start)
            - 1;
        while block.len() < (places.end - places.start) as usize {
            let begin = u64::from(pass.places[at]);
            for (i, sample) in self.shuffled_group(pass, at).into_iter().enumerate() {
                let place = begin + i as u64;
                if places.contains(&place) {
                    block.push((place + rng.below(self.window as usize) as u64, sample));
                }
            }
            at += 1;
        }
        block
    }

    /// The samples of the `at`-th row group of a pass.
    fn shuffled_group(&self, pass: &Pass, at: usize) -> Vec<u32> {
        let group = pass.groups[at];
        let mut samples: Vec<u32> = self.samples_of(group).collect();
        let ids: [&dyn SeedId; 3] = [&self.hash, &pass.pass, &u64::from(group)];
        StageRng::new(pass.seed, "row order", &ids).shuffle(&mut samples);
        samples
    }

    fn whole(&self, pass: &Pass) -> Chunk {
        let mut samples: Vec<u32> = (0..self.n_samples() as u32).collect();
        StageRng::new(pass.seed, "sample order", &[&self.hash, &pass.pass]).shuffle(&mut samples);
        Chunk {
            first_rank: 0,
            samples,
        }
    }

    fn samples_of(&self, group: u32) -> std::ops::Range<u32> {
        self.begins[group as usize]..self.begins[group as usize + 1]
    }
}

impl Chunk {
    /// The sample at `rank` of the pass, if this chunk holds it.
    pub fn at(&self, rank: u64) -> Option<u32> {
        let place = rank.checked_sub(self.first_rank)?;
        self.samples.get(place as usize).copied()
    }
}

fn running_sum(lengths: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut sums = vec![0];
    sums.extend(lengths.scan(0u32, |sum, length| {
        *sum += length;
        Some(*sum)
    }));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Samples of a pass by rank, asked for one by one.
    fn order(shuffle: &Shuffle, seed: u64, pass: u64) -> Vec<u32> {
        let pass = shuffle.pass(seed, pass);
        (0..shuffle.n_samples())
            .map(|rank| {
                let chunks = shuffle.chunks_of(rank);
                let held = chunks
                    .iter()
                    .find_map(|&c| shuffle.chunk(&pass, c).at(rank));
                held.unwrap()
            })
            .collect()
    }

    /// For each sample its rank and the ranks of its row group's first and last.
    fn ranks(order: &[u32]) -> Vec<u64> {
        let mut ranks = vec![0; order.len()];
        for (rank, &sample) in order.iter().enumerate() {
            ranks[sample as usize] = rank as u64;
        }
        ranks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_pass_holds_every_sample_once_whatever_the_sizes(
            lengths in prop::collection::vec(1usize..9, 1..20),
            window in 1u64..100,
            seed: u64,
            pass in 0u64..3,
        ) {
            let shuffle = Shuffle::new([7; 32], &lengths, window);
            let mut order = order(&shuffle, seed, pass);
            order.sort_unstable();
            prop_assert_eq!(order, (0..shuffle.n_samples() as u32).collect::<Vec<_>>());
        }

        #[test]
        fn a_row_group_is_needed_for_no_longer_than_two_windows_and_its_own_length(
            lengths in prop::collection::vec(1usize..9, 1..30),
            window in 1u64..60,
            seed: u64,
        ) {
            let shuffle = Shuffle::new([7; 32], &lengths, window);
            let ranks = ranks(&order(&shuffle, seed, 0));
            let mut begin = 0;
            for length in lengths {
                let of_group = &ranks[begin..begin + length];
                let span = of_group.iter().max().unwrap() - of_group.iter().min().unwrap();
                // Whoever stands between two samples has a key between theirs, and came from one window before it.
                let bound = 2 * window + length as u64;
                prop_assert!(shuffle.is_whole() || span < bound, "{span} ranks, window {window}");
                begin += length;
            }
        }
    }

    #[test]
    fn samples_travel_as_far_as_the_window_says() {
        let (n_groups, length, window) = (100, 32, 800);
        let shuffle = Shuffle::new([7; 32], &[length; 100], window);
        let pass = shuffle.pass(1, 0);
        let order = order(&shuffle, 1, 0);
        // Where each row group stands in the pass, and so where its samples stood before they moved.
        let mut place_of = vec![0u64; n_groups];
        for (at, &group) in pass.groups.iter().enumerate() {
            place_of[group as usize] = u64::from(pass.places[at]);
        }
        // Away from both ends a sample's rank is its key less half a window.
        let travels: Vec<f64> = order
            .iter()
            .enumerate()
            .skip(window as usize)
            .take(order.len() - 2 * window as usize)
            .map(|(rank, &sample)| {
                let in_middle = place_of[sample as usize / length] as f64 + length as f64 / 2.0;
                (rank as f64 + window as f64 / 2.0 - in_middle) / window as f64
            })
            .collect();
        let mean = travels.iter().sum::<f64>() / travels.len() as f64;
        let square = travels.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / travels.len() as f64;
        // A uniform draw has mean 1/2 and deviation 1/√12 = 0.289.
        assert!((mean - 0.5).abs() < 0.05, "mean {mean}");
        assert!(
            (square.sqrt() - 0.289).abs() < 0.03,
            "deviation {}",
            square.sqrt()
        );
    }

    #[test]
    fn samples_of_a_row_group_meet_in_a_batch_as_rarely_as_chance_in_the_window_has_it() {
        let (length, window, batch) = (32usize, 1600u64, 16usize);
        let shuffle = Shuffle::new([7; 32], &[32; 200], window);
        let order = order(&shuffle, 3, 0);
        let middle = &order[window as usize..order.len() - window as usize];
        let pairs: usize = middle
            .chunks_exact(batch)
            .map(|batch| {
                let groups: Vec<usize> = batch.iter().map(|&s| s as usize / length).collect();
                (0..groups.len())
                    .map(|i| {
                        groups[..i]
                            .iter()
                            .filter(|&&other| other == groups[i])
                            .count()
                    })
                    .sum::<usize>()
            })
            .sum();
        let n_batches = middle.len() / batch;
        let chance = (batch * (batch - 1) / 2 * length) as f64 / window as f64;
        let found = pairs as f64 / n_batches as f64;
        assert!(
            (found / chance - 1.0).abs() < 0.2,
            "{found} pairs a batch, {chance} by chance"
        );
    }

    #[test]
    fn a_window_over_everything_is_the_permutation_it_has_always_been() {
        let shuffle = Shuffle::new([7; 32], &[2, 3, 1], 6);
        assert!(shuffle.is_whole());
        let mut expected: Vec<u32> = (0..6).collect();
        StageRng::new(5, "sample order", &[&[7u8; 32], &2u64]).shuffle(&mut expected);
        assert_eq!(order(&shuffle, 5, 2), expected);
    }

    #[test]
    fn passes_and_seeds_give_other_orders() {
        let shuffle = Shuffle::new([7; 32], &[4; 20], 16);
        assert_eq!(order(&shuffle, 1, 0), order(&shuffle, 1, 0));
        assert_ne!(order(&shuffle, 1, 0), order(&shuffle, 1, 1));
        assert_ne!(order(&shuffle, 1, 0), order(&shuffle, 2, 0));
        let other = Shuffle::new([8; 32], &[4; 20], 16);
        assert_ne!(order(&shuffle, 1, 0), order(&other, 1, 0));
    }
}
