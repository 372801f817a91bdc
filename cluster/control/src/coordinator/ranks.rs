//! What the ranks of the world at work have said, so that a message costs the same in a world of eight and of a thousand:
//! sums and minima are kept as statuses come in, and nothing is searched for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Generation, MemberId, Status, World};

/// Values of all ranks, and their minimum.
struct Minimum<T> {
    of_rank: Vec<T>,
    n_at: BTreeMap<T, usize>,
}

impl<T: Ord + Copy> Minimum<T> {
    fn new(n_ranks: usize, value: T) -> Self {
        Self {
            of_rank: vec![value; n_ranks],
            n_at: BTreeMap::from([(value, n_ranks)]),
        }
    }

    fn set(&mut self, rank: usize, value: T) {
        let before = std::mem::replace(&mut self.of_rank[rank], value);
        if before == value {
            return;
        }
        if let Some(n) = self.n_at.get_mut(&before) {
            *n -= 1;
            if *n == 0 {
                self.n_at.remove(&before);
            }
        }
        *self.n_at.entry(value).or_default() += 1;
    }

    fn least(&self) -> Option<T> {
        self.n_at.keys().next().copied()
    }
}

/// The ranks of the world at work, by what their statuses say.
pub(super) struct Ranks {
    generation: Generation,
    of_member: BTreeMap<MemberId, usize>,
    steps: Minimum<u64>,
    barriers: Minimum<u32>,
    /// By rank: steps whose parts it has written.
    written: Vec<Vec<u64>>,
    /// How many ranks have written their parts of a step.
    n_written: BTreeMap<u64, usize>,
    /// Ranks whose status came since leases were last given.
    pub heard: BTreeSet<usize>,
    /// Up to which step leases were last given.
    pub bound: u64,
}

impl Ranks {
    /// Of a world of which nothing was heard yet.
    pub fn of(world: &World) -> Self {
        let n = world.size();
        let members = world.peers.iter().enumerate();
        Self {
            generation: world.generation,
            of_member: members.map(|(rank, peer)| (peer.member, rank)).collect(),
            steps: Minimum::new(n, world.resume_from),
            barriers: Minimum::new(n, 0),
            written: vec![Vec::new(); n],
            n_written: BTreeMap::new(),
            heard: BTreeSet::new(),
            bound: world.resume_from,
        }
    }

    /// The rank of a member.
    pub fn of_member(&self, member: MemberId) -> Option<usize> {
        self.of_member.get(&member).copied()
    }

    /// Takes in what a member says; of another world's work it is nothing.
    pub fn hear(&mut self, member: MemberId, status: &Status) {
        let Some(rank) = self.of_member(member) else {
            return;
        };
        if status.generation != self.generation {
            return;
        }
        self.heard.insert(rank);
        self.steps.set(rank, status.step);
        self.barriers.set(rank, status.barrier);
        let written: Vec<u64> = status.written.iter().map(|written| written.step).collect();
        if written == self.written[rank] {
            return;
        }
        for &step in &written {
            *self.n_written.entry(step).or_default() += 1;
        }
        for step in std::mem::replace(&mut self.written[rank], written) {
            if let Some(n) = self.n_written.get_mut(&step) {
                *n -= 1;
                if *n == 0 {
                    self.n_written.remove(&step);
                }
            }
        }
    }

    /// The last step that all have learned.
    pub fn slowest(&self) -> u64 {
        self.steps.least().unwrap_or(0)
    }

    /// Barriers that all have arrived at.
    pub fn barrier(&self) -> u32 {
        self.barriers.least().unwrap_or(0)
    }

    /// The oldest step after `committed` of which some have written their parts, and how many have.
    pub fn next_written(&self, committed: u64) -> Option<(u64, usize)> {
        let mut after = self.n_written.range(committed + 1..);
        after.next().map(|(&step, &n)| (step, n))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_minimum_that_is_kept_is_the_one_that_is_searched_for(
            changes in proptest::collection::vec((0usize..7, 0u64..9), 0..200),
        ) {
            let mut kept = Minimum::new(7, 4u64);
            let mut values = [4u64; 7];
            for (rank, value) in changes {
                kept.set(rank, value);
                values[rank] = value;
                prop_assert_eq!(kept.least(), values.iter().min().copied());
            }
        }
    }
}
