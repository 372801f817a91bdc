//! Checkpoints in the store: parts first, the manifest last, the newest committed one to resume from.
//!
//! `checkpoints/<step>/manifest.json` makes a checkpoint; files without one are garbage of a run that
//! died. The manifest is committed with put-if-absent, names every part with its size and hash, and
//! is deleted first when a checkpoint is retired, so no reader ever sees half of one.

use bytes::Bytes;
use futures::future::try_join_all;
use lavida_store::{Error, Result, Store, Versioned, manifest};
use lavida_train::checkpoint::{Snapshot, TrainState};
use serde::{Deserialize, Serialize};

const CHECKPOINTS: &str = "checkpoints";
pub(crate) const MANIFEST: &str = "manifest.json";

/// `manifest.json` of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// Numbers the run resumes from.
    pub state: TrainState,
    /// Every part, by name.
    pub parts: Vec<Part>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it is, for example `weights.safetensors`.
    pub name: String,
    /// Where it is, relative to the manifest.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its content, hex.
    pub blake3: String,
}

impl Versioned for CheckpointManifest {
    const FORMAT: &'static str = "lavida/checkpoint";
    const VERSION: u64 = 1;
}

/// A committed checkpoint, opened.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What it says of itself.
    pub manifest: CheckpointManifest,
    store: Store,
}

/// Writes the parts, commits the manifest, then retires all but the newest `keep_last`.
///
/// # Errors
/// [`Error::Fenced`] when the step was already committed by another worker of the run.
pub async fn commit(run: &Store, snapshot: Snapshot, keep_last: usize) -> Result<()> {
    let Snapshot { state, parts } = snapshot;
    let (step, generation) = (state.step, state.generation);
    let writes = parts.into_iter().map(|(name, bytes)| {
        let run = run.clone();
        async move { put_part(&run, step, generation, name, bytes).await }
    });
    let parts = try_join_all(writes).await?;
    let manifest = CheckpointManifest { state, parts };
    match publish(run, &manifest).await {
        Err(Error::Exists { what }) => {
            let theirs = published(run, step).await?;
            return Err(Error::Fenced {
                what,
                ours: generation,
                theirs: theirs.map_or(generation, |m| m.state.generation),
            });
        }
        other => other?,
    }
    retire_all_but(run, keep_last).await
}

/// Makes the checkpoint of a manifest count, once.
///
/// # Errors
/// [`Error::Exists`] when its step has one.
pub async fn publish(run: &Store, checkpoint: &CheckpointManifest) -> Result<()> {
    manifest::commit(&place(run, checkpoint.state.step), MANIFEST, checkpoint).await
}

/// The manifest of a step, if it is committed.
///
/// # Errors
/// [`Error::Corrupt`] when it is damaged.
pub async fn published(run: &Store, step: u64) -> Result<Option<CheckpointManifest>> {
    manifest::read(&place(run, step), MANIFEST).await
}

/// Writes one part of the checkpoint of `step`. Generations do not write over each other's parts; the part counts when
/// a manifest names it.
///
/// # Errors
/// [`Error::Unavailable`] when the store fails.
pub async fn put_part(
    run: &Store,
    step: u64,
    generation: u64,
    name: String,
    bytes: Bytes,
) -> Result<Part> {
    let part = Part {
        key: format!("g{generation}-{name}"),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        name,
    };
    place(run, step).put(&part.key, bytes).await?;
    Ok(part)
}

/// Deletes all checkpoints but the newest `keep_last`.
///
/// # Errors
/// [`Error::Unavailable`] when the store fails.
pub async fn retire_all_but(run: &Store, keep_last: usize) -> Result<()> {
    for retired in committed(run).await?.into_iter().rev().skip(keep_last) {
        retire(run, retired).await?;
    }
    Ok(())
}

/// Steps with a committed checkpoint, ascending.
pub async fn committed(run: &Store) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    for object in run.list(CHECKPOINTS).await? {
        let mut segments = object.key.rsplit('/');
        if segments.next() == Some(MANIFEST)
            && let Some(step) = segments.next().and_then(|s| s.parse().ok())
        {
            steps.push(step);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

/// The newest committed checkpoint of a run, if it has one.
pub async fn newest(run: &Store) -> Result<Option<Checkpoint>> {
    match committed(run).await?.last() {
        Some(step) => Checkpoint::read(place(run, *step)).await,
        None => Ok(None),
    }
}

/// The committed checkpoint of a step.
///
/// # Errors
/// [`Error::Corrupt`] when there is none.
pub async fn at_step(run: &Store, step: u64) -> Result<Checkpoint> {
    let place = place(run, step);
    let missing = || Error::corrupt(place.full(MANIFEST), "a committed checkpoint", "no file");
    Checkpoint::read(place.clone()).await?.ok_or_else(missing)
}

/// Opens `uri`: one checkpoint, or a run, whose newest committed checkpoint it is.
pub async fn open(uri: &str) -> Result<Checkpoint> {
    let store = Store::open(uri)?;
    if let Some(checkpoint) = Checkpoint::read(store.clone()).await? {
        return Ok(checkpoint);
    }
    newest(&store).await?.ok_or_else(|| {
        Error::invalid(
            uri,
            "a run or a checkpoint",
            "no committed checkpoint (no manifest.json, nothing under checkpoints/)",
        )
    })
}

impl Checkpoint {
    async fn read(store: Store) -> Result<Option<Self>> {
        let manifest = manifest::read(&store, MANIFEST).await?;
        Ok(manifest.map(|manifest| Self { manifest, store }))
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        self.store.uri()
    }

    /// The bytes of a part, checked against the manifest.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the part is missing, cut or changed; [`Error::Invalid`] when the checkpoint has none of
    /// that name.
    pub async fn part(&self, name: &str) -> Result<Bytes> {
        let part = self.manifest.parts.iter().find(|part| part.name == name);
        let part = part.ok_or_else(|| {
            let has = self.manifest.parts.iter().map(|part| part.name.as_str());
            Error::invalid(
                self.uri(),
                format!("a part {name}"),
                has.collect::<Vec<_>>().join(", "),
            )
        })?;
        let what = self.store.full(&part.key);
        let bytes = self.store.try_get(&part.key).await?;
        let bytes = bytes
            .ok_or_else(|| Error::corrupt(&what, format!("{} bytes", part.bytes), "no file"))?;
        if bytes.len() as u64 != part.bytes {
            return Err(Error::corrupt(
                what,
                format!("{} bytes", part.bytes),
                format!("{} bytes", bytes.len()),
            ));
        }
        let hash = blake3::hash(&bytes).to_hex();
        if hash.as_str() != part.blake3 {
            return Err(Error::corrupt(
                what,
                format!("content with blake3 {}", part.blake3),
                hash,
            ));
        }
        Ok(bytes)
    }

    /// [`Self::part`] where the checkpoint has one of that name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the part is missing, cut or changed.
    pub async fn part_if_any(&self, name: &str) -> Result<Option<Bytes>> {
        match self.manifest.parts.iter().any(|part| part.name == name) {
            true => self.part(name).await.map(Some),
            false => Ok(None),
        }
    }

    /// The settings the run was started with, as TOML.
    pub async fn settings_toml(&self) -> Result<String> {
        let name = lavida_train::checkpoint::SETTINGS;
        let bytes = self.part(name).await?;
        String::from_utf8(bytes.to_vec())
            .map_err(|e| Error::corrupt(self.store.full(name), "UTF-8 text", e))
    }
}

fn place(run: &Store, step: u64) -> Store {
    run.child(&format!("{CHECKPOINTS}/{step:010}"))
}

async fn retire(run: &Store, step: u64) -> Result<()> {
    let place = place(run, step);
    place.delete(MANIFEST).await?;
    for object in place.list("").await? {
        place.delete(&object.key).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lavida_train::settings::Stage;

    use super::*;

    fn snapshot(step: u64, generation: u64) -> Snapshot {
        Snapshot {
            state: TrainState {
                stage: Stage::Anomaly,
                step,
                position: step * 16,
                seed: 1,
                data: "d".into(),
                world_size: 1,
                generation,
            },
            parts: [
                (
                    "weights.safetensors".to_owned(),
                    Bytes::from(vec![step as u8; 100]),
                ),
                ("settings.toml".to_owned(), Bytes::from_static(b"seed = 1")),
            ]
            .into(),
        }
    }

    fn run(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path().to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_newest_committed_checkpoint_is_found_and_old_ones_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        for step in [1, 2, 3, 10] {
            commit(&run, snapshot(step, 0), 2).await.unwrap();
        }
        assert_eq!(committed(&run).await.unwrap(), [3, 10]);
        let newest = open(run.uri()).await.unwrap();
        assert_eq!(newest.manifest.state.step, 10);
        assert_eq!(newest.part("weights.safetensors").await.unwrap()[0], 10);
        let optional = newest.part_if_any("weights.safetensors").await.unwrap();
        assert_eq!(optional.unwrap()[0], 10);
        assert_eq!(newest.part_if_any("carried").await.unwrap(), None);
        assert_eq!(run.list(CHECKPOINTS).await.unwrap().len(), 2 * 3);
        let one = open(newest.uri()).await.unwrap();
        assert_eq!(one.manifest, newest.manifest);
    }

    #[tokio::test]
    async fn files_without_a_manifest_are_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), 3).await.unwrap();
        let torn = place(&run, 6);
        torn.put("g0-weights.safetensors", Bytes::from_static(b"half"))
            .await
            .unwrap();
        assert_eq!(newest(&run).await.unwrap().unwrap().manifest.state.step, 5);
    }

    #[tokio::test]
    async fn a_stale_generation_cannot_commit_over_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 2), 3).await.unwrap();
        let error = commit(&run, snapshot(5, 1), 3).await.unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        let kept = newest(&run).await.unwrap().unwrap();
        assert_eq!(kept.manifest.state.generation, 2);
        kept.part("weights.safetensors").await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_cut_or_changed_part_is_damage_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), 3).await.unwrap();
        let checkpoint = newest(&run).await.unwrap().unwrap();
        let key = "g0-weights.safetensors";
        let damages: [&[u8]; 2] = [&[5; 99], &[6; 100]];
        for damage in damages {
            place(&run, 5)
                .put(key, Bytes::copy_from_slice(damage))
                .await
                .unwrap();
            let error = checkpoint.part("weights.safetensors").await.unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().contains(key), "{error}");
        }
        place(&run, 5).delete(key).await.unwrap();
        let error = checkpoint.part("weights.safetensors").await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }
}
