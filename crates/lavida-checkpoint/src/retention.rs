//! Which checkpoints of a run are kept.

/// What is kept: the newest few, and now and then one for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest, at least one.
    pub keep_last: usize,
    /// Those of every step that is a multiple of this; 0 for none.
    pub keep_every: u64,
}

impl Retention {
    /// The newest `n`, and no others.
    pub fn last(n: usize) -> Self {
        Self {
            keep_last: n,
            keep_every: 0,
        }
    }

    /// Which of the `committed` steps (ascending) are no longer kept, newest first.
    pub fn outdated(self, committed: &[u64]) -> impl Iterator<Item = u64> {
        let older = committed.iter().rev().skip(self.keep_last.max(1));
        // No number but 0 is a multiple of 0, and step 0 has no checkpoint.
        older
            .copied()
            .filter(move |step| !step.is_multiple_of(self.keep_every))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_and_every_multiple_are_kept_and_nothing_else(
            steps in prop::collection::btree_set(1u64..200, 0..30),
            keep_last in 1usize..6,
            keep_every in prop_oneof![Just(0u64), 1u64..40],
        ) {
            let committed: Vec<u64> = steps.iter().copied().collect();
            let retention = Retention { keep_last, keep_every };
            let outdated: BTreeSet<u64> = retention.outdated(&committed).collect();
            prop_assert!(outdated.is_subset(&steps));
            for (age, step) in committed.iter().rev().enumerate() {
                let is_kept = age < keep_last || (keep_every > 0 && step % keep_every == 0);
                prop_assert_eq!(!outdated.contains(step), is_kept, "step {}", step);
            }
            // What one pass keeps the next one keeps.
            let kept: Vec<u64> = steps.difference(&outdated).copied().collect();
            prop_assert_eq!(retention.outdated(&kept).count(), 0);
        }
    }
}
