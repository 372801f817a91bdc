//! Checkpoints in the store: parts first, the manifest last, the newest committed one to resume from.
//!
//! `checkpoints/<step>/manifest.json` makes a checkpoint; files without one are garbage of a run that
//! died, and go when a later step is committed. The manifest is committed with put-if-absent, names every
//! file with its size and hash, and is deleted first when a checkpoint is retired, so no reader ever sees half of one.

mod pieces;
mod retention;
mod whole;
mod writing;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use lavida_store::{Error, Result, Store, Versioned, manifest};
use lavida_train::checkpoint::{Snapshot, TrainState};
use serde::{Deserialize, Serialize};

pub use pieces::{Piece, cut};
pub use retention::Retention;
pub use whole::{Damaged, LoadedCheckpoint, Newest, newest_whole, newest_whole_step, set_aside};
pub use writing::put_piece;

const CHECKPOINTS: &str = "checkpoints";
pub(crate) const MANIFEST: &str = "manifest.json";
/// A longer file is read in ranges of this size, several at once: an answer of a store may not take forever.
const READ_BYTES: u64 = 16 << 20;
const READS_AT_ONCE: usize = 4;

/// `manifest.json` of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// Numbers the run resumes from.
    pub state: TrainState,
    /// Every file, by name.
    pub parts: Vec<Part>,
}

/// One file of a checkpoint: a part, or a [`Piece`] of one.
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
    /// The run's committed checkpoint before it, where it was opened as the newest.
    before: Option<String>,
}

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

/// Deletes the checkpoints that are no longer kept, and what a run that was killed left of steps before the newest one.
///
/// # Errors
///
/// [`Error::Unavailable`] when the store fails.
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
        if !files.iter().any(|file| whole::is_set_aside(&file.key)) {
            abandoned.push(step);
        }
    }
    Ok(abandoned)
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
///
/// # Errors
///
/// [`Error::Corrupt`] when its manifest is damaged; as every damage of what is opened here it names the checkpoint before.
pub async fn newest(run: &Store) -> Result<Option<Checkpoint>> {
    let steps = committed(run).await?;
    let Some((newest, older)) = steps.split_last() else {
        return Ok(None);
    };
    let before = older.last().map(|step| place(run, *step).uri().to_owned());
    let read = Checkpoint::read(place(run, *newest)).await;
    let read = read.map_err(|error| with_the_one_before(error, before.as_deref()))?;
    Ok(read.map(|checkpoint| Checkpoint {
        before,
        ..checkpoint
    }))
}

/// The committed checkpoint of a step.
///
/// # Errors
///
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
    if let Some(newest) = newest(&store).await? {
        return Ok(newest);
    }
    let found = match store.size("SHA256SUMS").await? {
        Some(_) => {
            "an export, which is read where it is a folder of this machine: copy it here first"
        }
        None => "no committed checkpoint (no manifest.json, nothing under checkpoints/)",
    };
    Err(Error::invalid(uri, "a run or a checkpoint", found))
}

impl Checkpoint {
    async fn read(store: Store) -> Result<Option<Self>> {
        let manifest = manifest::read(&store, MANIFEST).await?;
        Ok(manifest.map(|manifest| Self {
            manifest,
            store,
            before: None,
        }))
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        self.store.uri()
    }

    /// The bytes of a part, checked against the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a file of it is missing, cut or changed; [`Error::Invalid`] when the checkpoint has none of
    /// that name.
    pub async fn part(&self, name: &str) -> Result<Bytes> {
        let files = self.files(name)?;
        let n_bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
        for file in files {
            let read = self.read_file(file, |chunk| bytes.extend_from_slice(chunk));
            let read = read.await;
            read.map_err(|error| with_the_one_before(error, self.before.as_deref()))?;
        }
        Ok(bytes.into())
    }

    /// Reads every part.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a file is missing, cut or changed.
    pub async fn load(self) -> Result<LoadedCheckpoint> {
        let names = self.manifest.parts.iter();
        let names: BTreeSet<String> = names.map(|file| pieces::part_of(&file.name)).collect();
        let mut parts = BTreeMap::new();
        for name in names {
            let bytes = self.part(&name).await?;
            parts.insert(name, bytes);
        }
        Ok(LoadedCheckpoint {
            uri: self.uri().to_owned(),
            manifest: self.manifest,
            parts,
        })
    }

    /// [`Self::part`] where the checkpoint has one of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the part is missing, cut or changed.
    pub async fn part_if_any(&self, name: &str) -> Result<Option<Bytes>> {
        let is_there = |file: &Part| pieces::place(name, &file.name).is_some();
        if self.manifest.parts.iter().any(is_there) {
            self.part(name).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reads every file and keeps none.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`].
    pub async fn verify(&self) -> Result<()> {
        for file in &self.manifest.parts {
            self.read_file(file, |_| {}).await?;
        }
        Ok(())
    }

    /// The files of a part, in order.
    fn files(&self, name: &str) -> Result<Vec<&Part>> {
        let files = self.manifest.parts.iter();
        let mut files: Vec<((usize, usize), &Part)> = files
            .filter_map(|file| Some((pieces::place(name, &file.name)?, file)))
            .collect();
        files.sort_by_key(|(place, _)| *place);
        let n = files.len();
        let are_all = files.iter().enumerate();
        if n > 0 && are_all.into_iter().all(|(i, (place, _))| *place == (i, n)) {
            return Ok(files.into_iter().map(|(_, file)| file).collect());
        }
        let has = self.manifest.parts.iter().map(|part| part.name.as_str());
        Err(Error::invalid(
            self.uri(),
            format!("a part {name}"),
            has.collect::<Vec<_>>().join(", "),
        ))
    }

    /// Gives the bytes of a file in order. What was given counts only when this returns without an error.
    async fn read_file(&self, file: &Part, mut give: impl FnMut(&Bytes)) -> Result<()> {
        let what = self.store.full(&file.key);
        let short = if file.bytes <= READ_BYTES {
            self.store.try_get(&file.key).await?
        } else {
            None
        };
        let n_bytes = match &short {
            Some(bytes) => Some(bytes.len() as u64),
            None => self.store.size(&file.key).await?,
        };
        if n_bytes != Some(file.bytes) {
            let found = n_bytes.map_or("no file".to_owned(), |n| format!("{n} bytes"));
            return Err(Error::corrupt(what, format!("{} bytes", file.bytes), found));
        }
        let rest = match &short {
            Some(_) => 0,
            None => file.bytes,
        };
        let reads = stream::iter(ranges(rest))
            .map(|range| self.store.get_range(&file.key, range))
            .buffered(READS_AT_ONCE);
        let reads = stream::iter(short.map(Ok)).chain(reads);
        let mut reads = std::pin::pin!(reads);
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = reads.try_next().await? {
            give(&chunk);
            let hashing = tokio::task::spawn_blocking(move || {
                hasher.update(&chunk);
                hasher
            });
            hasher = hashing
                .await
                .map_err(|e| Error::Internal(format!("hashing {what}: {e}")))?;
        }
        let hash = hasher.finalize().to_hex();
        if hash.as_str() != file.blake3 {
            let expected = format!("content with blake3 {}", file.blake3);
            return Err(Error::corrupt(what, expected, hash));
        }
        Ok(())
    }

    /// The settings the run was started with, as TOML.
    pub async fn settings_toml(&self) -> Result<String> {
        let name = lavida_train::checkpoint::SETTINGS;
        let bytes = self.part(name).await?;
        String::from_utf8(bytes.to_vec())
            .map_err(|e| Error::corrupt(self.store.full(name), "UTF-8 text", e))
    }
}

/// Damage of the newest checkpoint, for whoever asked for it: nobody is given another one without a word.
fn with_the_one_before(error: Error, before: Option<&str>) -> Error {
    match (error, before) {
        (
            Error::Corrupt {
                what,
                expected,
                found,
            },
            Some(before),
        ) => Error::Corrupt {
            what,
            expected,
            found: format!("{found}; the one before it is {before}"),
        },
        (error, _) => error,
    }
}

/// A file of so many bytes in the ranges it is read in.
fn ranges(n_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..n_bytes.div_ceil(READ_BYTES)).map(move |i| {
        let start = i * READ_BYTES;
        start..(start + READ_BYTES).min(n_bytes)
    })
}

fn place(run: &Store, step: u64) -> Store {
    run.child(&format!("{CHECKPOINTS}/{step:010}"))
}

async fn retire(run: &Store, step: u64) -> Result<()> {
    let place = place(run, step);
    place.delete(MANIFEST).await?;
    place.clear().await
}

#[cfg(test)]
mod tests {
    use lavida_train::settings::Stage;

    use super::*;

    pub(super) fn snapshot(step: u64, generation: u64) -> Snapshot {
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
                    Bytes::from(vec![step as u8; 100]).into(),
                ),
                (
                    "settings.toml".to_owned(),
                    Bytes::from_static(b"seed = 1").into(),
                ),
            ]
            .into(),
        }
    }

    pub(super) fn run(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path().to_str().unwrap()).unwrap()
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
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
        let torn = place(&run, 6);
        torn.put("g0-weights.safetensors", Bytes::from_static(b"half"))
            .await
            .unwrap();
        assert_eq!(newest(&run).await.unwrap().unwrap().manifest.state.step, 5);
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
        let key = "g0-weights.safetensors";
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
        assert_eq!(
            newest.part("weights.safetensors").await.unwrap()[..],
            [4; 100]
        );
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
        kept.part("weights.safetensors").await.unwrap();
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

    #[tokio::test]
    async fn a_missing_cut_or_changed_part_is_damage_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
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

    /// Longer than what is cut and than what is read at once.
    const LONG: usize = (READ_BYTES as usize) * 2 + 12_345;

    fn long_part() -> Bytes {
        let words =
            (0..LONG as u32 / 4 + 1).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes());
        words.take(LONG).collect()
    }

    /// A checkpoint whose long part three workers wrote.
    async fn written_by_three(run: &Store) -> Checkpoint {
        let mut parts = Vec::new();
        for (name, content) in [
            ("weights.safetensors", long_part()),
            ("settings.toml", Bytes::from_static(b"seed = 1")),
        ] {
            for piece in cut(name, content.len() as u64, 3) {
                let written = put_piece(run, 5, 7, piece, content.clone().into()).await;
                parts.push(written.unwrap());
            }
        }
        parts.sort_by(|a, b| b.name.cmp(&a.name)); // whatever order a manifest has
        let state = snapshot(5, 7).state;
        publish(run, &CheckpointManifest { state, parts })
            .await
            .unwrap();
        newest(run).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_part_that_several_workers_wrote_reads_as_one() {
        let run = Store::open("memory://checkpoint-of-three").unwrap();
        let checkpoint = written_by_three(&run).await;
        let names = checkpoint.manifest.parts.iter().map(|part| &*part.name);
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "weights.safetensors.00003-of-00003",
                "weights.safetensors.00002-of-00003",
                "weights.safetensors.00001-of-00003",
                "settings.toml"
            ]
        );
        let read = checkpoint.part("weights.safetensors").await.unwrap();
        assert!(read == long_part(), "other bytes");
        let optional = checkpoint.part_if_any("weights.safetensors").await.unwrap();
        assert!(optional == Some(read), "other bytes");
        assert_eq!(checkpoint.settings_toml().await.unwrap(), "seed = 1");
        let error = checkpoint.part("weights").await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[tokio::test]
    async fn a_piece_that_is_damaged_or_not_named_is_missed() {
        let run = Store::open("memory://checkpoint-of-three-damaged").unwrap();
        let mut checkpoint = written_by_three(&run).await;
        let key = "g7-weights.safetensors.00002-of-00003";
        let at = place(&run, 5);
        let mut bytes = at.get(key).await.unwrap().to_vec();
        bytes[1_000_000] ^= 1;
        at.put(key, bytes.into()).await.unwrap();
        let error = checkpoint.part("weights.safetensors").await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(key), "{error}");
        checkpoint.manifest.parts.remove(1);
        let error = checkpoint.part("weights.safetensors").await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}
