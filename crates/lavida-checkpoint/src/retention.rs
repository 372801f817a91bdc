//! Which checkpoints of a run are kept, and how the others go: the manifest first, so that no reader sees half of one.

use lavida_store::{Result, Store};

use crate::{
    committed,
    damage::is_set_aside,
    layout::{CHECKPOINTS, MANIFEST, place},
};

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

/// Deletes the checkpoints that are no longer kept, and what a run that was killed left of steps before the newest one.
///
/// # Errors
///
/// [`lavida_store::Error::Unavailable`] when the store fails.
pub async fn retire_outdated(run: &Store, retention: Retention) -> Result<()> {
    let committed = committed(run).await?;
    let abandoned = abandoned(run, &committed).await?;
    for step in retention.outdated(&committed).chain(abandoned) {
        retire(run, step).await?;
    }
    Ok(())
}

/// Steps before the newest checkpoint that have files and no manifest. One whose checkpoint was damaged and set aside is none
/// of them; later steps may still be on their way.
async fn abandoned(run: &Store, committed: &[u64]) -> Result<Vec<u64>> {
    let folders = run.list_dirs(CHECKPOINTS).await?;
    let steps = folders.iter().filter_map(|name| name.parse().ok());
    let mut abandoned = Vec::new();
    for step in steps.filter(|step| Some(step) < committed.last() && !committed.contains(step)) {
        let files = place(run, step).list("").await?;
        if !files.iter().any(|file| is_set_aside(&file.key)) {
            abandoned.push(step);
        }
    }
    Ok(abandoned)
}

async fn retire(run: &Store, step: u64) -> Result<()> {
    let place = place(run, step);
    place.delete(MANIFEST).await?;
    place.clear().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        commit, newest, open, set_aside,
        testing::{run, snapshot},
    };

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

    #[tokio::test]
    async fn the_newest_committed_checkpoint_is_found_and_old_ones_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        for step in [1, 2, 3, 10] {
            commit(&run, snapshot(step, 0), Retention::last(2))
                .await
                .unwrap();
        }
        assert_eq!(committed(&run).await.unwrap(), [3, 10]);
        let newest = open(run.uri()).await.unwrap();
        assert_eq!(newest.manifest.state.step, 10);
        assert_eq!(newest.part("tokenizer.json").await.unwrap()[0], 10);
        let optional = newest.part_if_any("tokenizer.json").await.unwrap();
        assert_eq!(optional.unwrap()[0], 10);
        assert_eq!(newest.part_if_any("carried").await.unwrap(), None);
        assert_eq!(run.list(CHECKPOINTS).await.unwrap().len(), 2 * 3);
        let one = open(newest.uri()).await.unwrap();
        assert_eq!(one.manifest, newest.manifest);
    }

    /// Leaves in `place` what a writer does that is killed in the middle of an upload, a part of which is stored.
    async fn killed_upload(place: &Store, key: &str) {
        let mut writer = place.writer(key).await.unwrap();
        writer.write(vec![1; 20 << 20].into()).await.unwrap();
        std::mem::forget(writer); // dropping it would tidy up
    }

    fn n_files(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn what_a_killed_save_left_goes_with_its_step_or_when_a_later_one_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        let at = |step| folder.path().join(CHECKPOINTS).join(format!("{step:010}"));
        let key = "g0-tokenizer.json";
        killed_upload(&place(&run, 3), key).await; // the run was killed when it was interrupted, at a step that is not due
        killed_upload(&place(&run, 4), key).await;
        place(&run, 4)
            .put("g0-settings.toml", Bytes::from_static(b"seed"))
            .await
            .unwrap();
        assert_eq!((n_files(&at(3)), n_files(&at(4))), (1, 2));
        assert!(newest(&run).await.unwrap().is_none());

        let kept = Retention::last(1);
        commit(&run, snapshot(4, 0), kept).await.unwrap();
        assert_eq!(n_files(&at(3)), 0, "step 3 will never be committed");
        assert_eq!(
            n_files(&at(4)),
            4,
            "nobody reads what is left beside three files"
        );
        let newest = newest(&run).await.unwrap().unwrap();
        assert_eq!(newest.part("tokenizer.json").await.unwrap()[..], [4; 100]);
        killed_upload(&place(&run, 6), key).await;
        commit(&run, snapshot(5, 0), kept).await.unwrap();
        assert_eq!(n_files(&at(4)), 0);
        assert_eq!(n_files(&at(6)), 1, "step 6 may be on its way");
    }

    #[tokio::test]
    async fn a_checkpoint_that_was_set_aside_is_not_taken_for_what_a_killed_save_left() {
        let run = Store::open("memory://checkpoint-set-aside-and-kept").unwrap();
        for step in [1, 2] {
            commit(&run, snapshot(step, 0), Retention::last(9))
                .await
                .unwrap();
        }
        set_aside(&run, 2).await.unwrap().unwrap();
        let there = place(&run, 2).list("").await.unwrap();
        commit(&run, snapshot(3, 0), Retention::last(9))
            .await
            .unwrap();
        assert_eq!(place(&run, 2).list("").await.unwrap(), there);
        assert_eq!(committed(&run).await.unwrap(), [1, 3]);
    }
}
