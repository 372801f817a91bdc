//! Which checkpoint a run goes on from when the newest is damaged: the newest that is whole.
//!
//! A damaged one is set aside: its manifest gets another name in the same folder, so nothing is lost, it is no
//! checkpoint any more, and its step can be committed again. That happens only once an older one is known to be whole, so
//! a run whose every checkpoint is damaged is never begun anew by mistake.

use std::fmt;

use lavida_store::{Error, Result, Store};

use crate::{
    layout::{MANIFEST, SET_ASIDE, committed, place},
    read::{LoadedCheckpoint, at_step},
};

/// A committed checkpoint that is not what its manifest says, or whose manifest is none.
#[derive(Debug)]
pub struct Damaged {
    /// Its step.
    pub step: u64,
    /// The file, what was expected and found.
    pub error: Error,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the checkpoint of step {} is damaged: {}",
            self.step, self.error
        )
    }
}

/// What a run may go on from.
#[derive(Debug)]
pub struct Newest {
    /// The newest checkpoint that is whole; none where the run has none at all.
    pub whole: Option<LoadedCheckpoint>,
    /// Newer ones that are damaged, newest first.
    pub damaged: Vec<Damaged>,
}

/// Reads the newest checkpoint of a run that is whole.
///
/// # Errors
///
/// [`Error::Corrupt`] when the run has checkpoints and none is whole, with what is wrong with each; what the store fails
/// with, which is no damage.
pub async fn newest_whole(run: &Store) -> Result<Newest> {
    let mut search = Search::default();
    for step in committed(run).await?.into_iter().rev() {
        let read = async { at_step(run, step).await?.load().await };
        if let Some(loaded) = search.judge(step, read.await)? {
            return Ok(Newest {
                whole: Some(loaded),
                damaged: search.damaged,
            });
        }
    }
    search.found_none(run)?;
    Ok(Newest {
        whole: None,
        damaged: Vec::new(),
    })
}

/// The newest step up to and including `last` whose checkpoint is whole; nothing of it is kept in memory.
///
/// # Errors
///
/// As [`newest_whole`].
pub async fn newest_whole_step(run: &Store, last: u64) -> Result<Option<u64>> {
    let mut search = Search::default();
    let steps = committed(run).await?.into_iter().rev();
    for step in steps.filter(|step| *step <= last) {
        let read = async { at_step(run, step).await?.verify().await };
        if search.judge(step, read.await)?.is_some() {
            return Ok(Some(step));
        }
    }
    search.found_none(run)?;
    Ok(None)
}

/// Checkpoints that were found damaged so far.
#[derive(Default)]
struct Search {
    damaged: Vec<Damaged>,
}

impl Search {
    /// What was read of a step's checkpoint; none when it is damaged.
    fn judge<T>(&mut self, step: u64, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error @ Error::Corrupt { .. }) => {
                self.damaged.push(Damaged { step, error });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn found_none(self, run: &Store) -> Result<()> {
        if self.damaged.is_empty() {
            return Ok(());
        }
        let found = self.damaged.iter().map(Damaged::to_string);
        let found = found.collect::<Vec<_>>().join("; ");
        Err(Error::corrupt(
            run.uri(),
            "a checkpoint that is whole",
            found,
        ))
    }
}

/// Makes the checkpoint of a step no checkpoint any more. Says where its manifest is now; none where there was none.
///
/// # Errors
///
/// [`Error::Unavailable`] when the store fails.
pub async fn set_aside(run: &Store, step: u64) -> Result<Option<String>> {
    let place = place(run, step);
    let Some(manifest) = place.try_get(MANIFEST).await? else {
        return Ok(None);
    };
    let mut n = 0;
    let key = loop {
        let key = format!("{SET_ASIDE}{n}.json");
        match place.create(&key, manifest.clone()).await {
            Ok(()) => break key,
            Err(Error::Exists { .. }) => n += 1,
            Err(error) => return Err(error),
        }
    };
    place.delete(MANIFEST).await?;
    Ok(Some(place.full(&key)))
}

/// Whether a file of this name is the manifest of a checkpoint that was set aside.
pub(crate) fn is_set_aside(name: &str) -> bool {
    name.starts_with(SET_ASIDE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Retention, commit, newest,
        testing::{run, snapshot},
    };

    const WEIGHTS: &str = "g0-tokenizer.json";

    /// A run with checkpoints of these steps.
    async fn checkpoints_of(steps: &[u64]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        for step in steps {
            let committing = commit(&run, snapshot(*step, 0), Retention::last(9));
            committing.await.unwrap();
        }
        (folder, run)
    }

    /// Every way in which the checkpoint of a step can be damaged.
    async fn damage(run: &Store, step: u64, how: &str) {
        let at = place(run, step);
        match how {
            "a missing part" => at.delete(WEIGHTS).await.unwrap(),
            "a cut part" => at.put(WEIGHTS, vec![step as u8; 99].into()).await.unwrap(),
            "a longer part" => at.put(WEIGHTS, vec![step as u8; 101].into()).await.unwrap(),
            "a changed part" => at.put(WEIGHTS, vec![0; 100].into()).await.unwrap(),
            "a broken manifest" => at.put(MANIFEST, "{".into()).await.unwrap(),
            "a changed manifest" => {
                let text = at.get(MANIFEST).await.unwrap().to_vec();
                let text = String::from_utf8(text).unwrap();
                let text = text.replace("\"position\": ", "\"position\": 1");
                at.put(MANIFEST, text.into()).await.unwrap();
            }
            _ => unreachable!("{how}"),
        }
    }

    const DAMAGES: [(&str, &str); 6] = [
        ("a missing part", WEIGHTS),
        ("a cut part", WEIGHTS),
        ("a longer part", WEIGHTS),
        ("a changed part", WEIGHTS),
        ("a broken manifest", MANIFEST),
        ("a changed manifest", MANIFEST),
    ];

    #[tokio::test]
    async fn the_newest_that_is_whole_is_found_past_every_kind_of_damage() {
        for (how, file) in DAMAGES {
            let (_folder, run) = checkpoints_of(&[2, 4, 6]).await;
            damage(&run, 6, how).await;
            let found = newest_whole(&run).await.unwrap();
            let whole = found.whole.unwrap();
            assert_eq!(whole.manifest.state.step, 4, "{how}");
            assert_eq!(whole.parts["tokenizer.json"][0], 4, "{how}");
            let [damaged] = &found.damaged[..] else {
                panic!("{how}: {:?}", found.damaged)
            };
            assert_eq!(damaged.step, 6, "{how}");
            assert!(damaged.to_string().contains(file), "{how}: {damaged}");
            assert_eq!(newest_whole_step(&run, 9).await.unwrap(), Some(4), "{how}");
            assert_eq!(newest_whole_step(&run, 3).await.unwrap(), Some(2), "{how}");
        }
    }

    #[tokio::test]
    async fn what_is_set_aside_is_no_checkpoint_and_its_step_can_be_committed_again() {
        let (_folder, run) = checkpoints_of(&[2, 4]).await;
        for n in 0..2 {
            damage(&run, 4, "a changed part").await;
            let kept = set_aside(&run, 4).await.unwrap().unwrap();
            assert!(
                kept.ends_with(&format!("0000000004/damaged-{n}.json")),
                "{kept}"
            );
            assert_eq!(committed(&run).await.unwrap(), [2]);
            let again = commit(&run, snapshot(4, 0), Retention::last(9));
            again.await.unwrap();
            let newest = newest(&run).await.unwrap().unwrap();
            assert_eq!(newest.part("tokenizer.json").await.unwrap()[0], 4);
        }
        assert_eq!(set_aside(&run, 3).await.unwrap(), None);
    }

    #[tokio::test]
    async fn where_none_is_whole_each_is_named_and_nothing_is_changed() {
        let (_folder, run) = checkpoints_of(&[2, 4]).await;
        damage(&run, 2, "a missing part").await;
        damage(&run, 4, "a broken manifest").await;
        let before = run.list("").await.unwrap();
        let error = newest_whole(&run).await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        for words in ["step 2", "step 4", WEIGHTS, MANIFEST] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(run.list("").await.unwrap(), before);
        let (_folder, empty) = checkpoints_of(&[]).await;
        let found = newest_whole(&empty).await.unwrap();
        assert!(found.whole.is_none() && found.damaged.is_empty());
    }

    #[tokio::test]
    async fn a_store_that_fails_and_a_newer_format_are_no_damage() {
        let (_folder, run) = checkpoints_of(&[2, 4]).await;
        let manifest = r#"{"format": "lavida/checkpoint", "version": 9, "blake3": ""}"#;
        place(&run, 4).put(MANIFEST, manifest.into()).await.unwrap();
        let error = newest_whole(&run).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert_eq!(newest_whole_step(&run, 3).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn who_reads_a_damaged_newest_one_is_told_the_one_before_and_gets_none() {
        for (how, file) in DAMAGES {
            let (_folder, run) = checkpoints_of(&[2, 4]).await;
            damage(&run, 4, how).await;
            let read = async {
                let opened = crate::open(run.uri()).await?;
                opened.part("tokenizer.json").await
            };
            let error = read.await.unwrap_err();
            assert_eq!(error.exit_code(), 3, "{how}: {error}");
            for words in [file, "the one before it is ", "checkpoints/0000000002"] {
                assert!(error.to_string().contains(words), "{how}: {error}");
            }
        }
    }
}
