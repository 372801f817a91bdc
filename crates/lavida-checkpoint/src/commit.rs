//! Commit: parts first, the manifest last, once.
//!
//! The manifest is committed with put-if-absent, so of two workers of a run one makes the checkpoint of a step and the other
//! is fenced. Files that no manifest names are garbage of a run that died.

use futures::future::try_join_all;
use lavida_store::{Error, Result, Store, manifest};

use crate::{
    Piece, Retention,
    contents::Snapshot,
    layout::{CheckpointManifest, MANIFEST, place},
    put_piece,
    retention::retire_outdated,
};

/// Writes the parts, commits the manifest, then retires what is no longer kept.
///
/// # Errors
///
/// [`Error::Fenced`] when the step was already committed by another worker of the run.
pub async fn commit(run: &Store, snapshot: Snapshot, retention: Retention) -> Result<()> {
    let Snapshot { state, parts } = snapshot;
    let (step, generation) = (state.step, state.generation);
    let writes = parts.into_iter().map(|(name, content)| {
        let piece = Piece::whole(&name, content.n_bytes());
        put_piece(run, step, generation, piece, content)
    });
    let parts = try_join_all(writes).await?;
    let manifest = CheckpointManifest { state, parts };
    match publish(run, &manifest).await {
        Err(Error::Exists { what }) => match published(run, step).await? {
            // A store may do what it says it did not, and be asked again.
            Some(there) if there == manifest => {}
            theirs => {
                return Err(Error::Fenced {
                    what,
                    ours: generation,
                    theirs: theirs.map_or(generation, |m| m.state.generation),
                });
            }
        },
        other => other?,
    }
    retire_outdated(run, retention).await
}

/// Makes the checkpoint of a manifest count, once.
///
/// # Errors
///
/// [`Error::Exists`] when its step has one.
pub async fn publish(run: &Store, checkpoint: &CheckpointManifest) -> Result<()> {
    manifest::commit(&place(run, checkpoint.state.step), MANIFEST, checkpoint).await
}

/// The manifest of a step, if it is committed.
///
/// # Errors
///
/// [`Error::Corrupt`] when it is damaged.
pub async fn published(run: &Store, step: u64) -> Result<Option<CheckpointManifest>> {
    manifest::read(&place(run, step), MANIFEST).await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        committed, newest,
        testing::{run, snapshot},
    };

    #[tokio::test]
    async fn files_without_a_manifest_are_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
        let torn = place(&run, 6);
        torn.put("g0-tokenizer.json", Bytes::from_static(b"half"))
            .await
            .unwrap();
        assert_eq!(newest(&run).await.unwrap().unwrap().manifest.state.step, 5);
    }

    #[tokio::test]
    async fn a_stale_generation_cannot_commit_over_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 2), Retention::last(3))
            .await
            .unwrap();
        let error = commit(&run, snapshot(5, 1), Retention::last(3))
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        let kept = newest(&run).await.unwrap().unwrap();
        assert_eq!(kept.manifest.state.generation, 2);
        kept.part("tokenizer.json").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_there_already_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
        assert_eq!(committed(&run).await.unwrap(), [5]);
    }
}
