//! Which dataset each position takes from.

/// Whole numbers in the proportion of `weights`: exact where a small common denominator exists,
/// as for 0.05 : 0.2 : 0.25, and otherwise to one part in 65536.
pub(super) fn whole_shares(weights: &[f64]) -> Vec<u64> {
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
pub(super) struct Schedule {
    /// `[D]` places in a period.
    shares: Vec<u64>,
    /// `[L]` dataset of each place.
    places: Vec<u16>,
    /// `[⌈L / BLOCK⌉, D]` how often each dataset occurs before the block.
    before: Vec<u64>,
}

impl Schedule {
    const BLOCK: usize = 256;

    /// From each dataset's share, in whole numbers.
    pub fn new(shares: &[u64]) -> Self {
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

    /// Positions in which a dataset is drawn from `n_draws` times, rounded up.
    pub fn positions_of(&self, dataset_idx: usize, n_draws: u64) -> u64 {
        let of_period = u128::from(n_draws) * self.places.len() as u128;
        of_period.div_ceil(u128::from(self.shares[dataset_idx])) as u64
    }

    /// Draws from a dataset in `n_positions`, rounded down.
    pub fn draws_in(&self, dataset_idx: usize, n_positions: u64) -> u64 {
        let draws = u128::from(n_positions) * u128::from(self.shares[dataset_idx]);
        (draws / self.places.len() as u128) as u64
    }

    /// The dataset at `position`, and how many positions before it took from the same.
    pub fn at(&self, position: u64) -> (usize, u64) {
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
    use proptest::prelude::*;

    proptest! {
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
        fn in_any_window_every_dataset_has_its_share_to_less_than_two_samples(
            shares in prop::collection::vec(1u64..60, 1..7),
            begin in 0u64..1000,
            length in 1u64..500,
        ) {
            let schedule = Schedule::new(&shares);
            let total: u64 = shares.iter().sum();
            let mut taken = vec![0u64; shares.len()];
            for position in begin..begin + length {
                taken[schedule.at(position).0] += 1;
            }
            for (taken, share) in taken.iter().zip(&shares) {
                prop_assert!((taken * total).abs_diff(share * length) < 2 * total);
            }
        }
    }

    #[test]
    fn the_weights_of_the_paper_are_exact() {
        let weights = [0.05, 0.2, 0.25, 0.2, 0.05, 0.1, 0.1, 0.05];
        assert_eq!(whole_shares(&weights), [1, 4, 5, 4, 1, 2, 2, 1]);
        assert_eq!(whole_shares(&[1.0, 2.0]), [1, 2]);
        let odd = whole_shares(&[1.0, std::f64::consts::PI, 1e-9]);
        assert!(odd.iter().all(|&share| share > 0));
    }
}
