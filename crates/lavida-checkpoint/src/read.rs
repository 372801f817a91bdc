//! Reading: a run's newest checkpoint or the one of a step, its parts checked against the manifest by size and hash.
//!
//! A part is the files that it was cut into, end to end. One of tensors is never held as a file: its tensors are made as the bytes
//! come, and count once the last byte did and the hash is right. Nobody who asked for the newest checkpoint is given an older one: what is
//! wrong with it is an error that names the one before.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lavida_model::weights::{IncomingTensors, TensorData, Tensors, read_safetensors};
use lavida_store::{Error, Result, Store, manifest};

use crate::{
    contents::{FROZEN, OPTIMIZER, SETTINGS, SharedOrigin, WEIGHTS},
    layout::{CheckpointFile, CheckpointManifest, MANIFEST, committed, in_run, place},
    pieces,
};

/// A longer file is read in ranges of this size, several at once: an answer of a store may not take forever.
const READ_BYTES: u64 = 16 << 20;
const READS_AT_ONCE: usize = 6;

/// A committed checkpoint, opened.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What it says of itself.
    pub manifest: CheckpointManifest,
    store: Store,
    /// The run's committed checkpoint before it, where it was opened as the newest.
    before: Option<String>,
}

/// Every part of a checkpoint, read and checked.
#[derive(Clone, Debug)]
pub struct LoadedCheckpoint {
    /// What it says of itself.
    pub manifest: CheckpointManifest,
    /// Where it is.
    pub uri: String,
    /// The parts by name, but for those of [`Self::weights`] and [`Self::moments`].
    pub parts: BTreeMap<String, Bytes>,
    /// Every weight, in the number format it is stored in.
    pub weights: Tensors,
    /// The optimizer's moments; none of a checkpoint that an import made.
    pub moments: Tensors,
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
        let take = |chunk: &Bytes| {
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        self.read_files(&files, take).await?;
        Ok(bytes.into())
    }

    /// Gives the tensors of a part one by one, in the order of its file. What was given counts only when this returns without
    /// an error: the hash of a file is known after its last byte.
    ///
    /// # Errors
    ///
    /// As [`Self::part`]; [`Error::Corrupt`] for a part that holds no tensors; the first error of `take`.
    pub async fn each_tensor(
        &self,
        name: &str,
        mut take: impl FnMut(String, TensorData) -> Result<()>,
    ) -> Result<()> {
        let files = self.files(name)?;
        let n_bytes = files.iter().map(|file| file.bytes).sum();
        let mut incoming = IncomingTensors::new(n_bytes);
        let what = match files.first() {
            Some(file) => {
                let (store, key) = self.place_of(file)?;
                store.full(key)
            }
            None => self.uri().to_owned(),
        };
        // Damage is told as what it is by the hash; only a file that is as it was written is held against its format.
        let mut fault = None;
        let taking = |chunk: &Bytes| {
            if fault.is_some() {
                return Ok(());
            }
            match incoming.push(chunk) {
                Ok(tensors) => tensors
                    .into_iter()
                    .try_for_each(|(name, data)| take(name, data)),
                Err(error) => {
                    fault = Some(error);
                    Ok(())
                }
            }
        };
        self.read_files(&files, taking).await?;
        let read = fault.map_or_else(|| incoming.finish(), Err);
        read.map_err(|error| Error::corrupt(what, "a whole safetensors file", error))
    }

    /// Gives every weight once: those that train, then those that do not.
    ///
    /// # Errors
    ///
    /// As [`Self::each_tensor`].
    pub async fn each_weight(
        &self,
        mut take: impl FnMut(String, TensorData) -> Result<()>,
    ) -> Result<()> {
        self.each_tensor(WEIGHTS, &mut take).await?;
        if self.has_part(FROZEN) {
            self.each_tensor(FROZEN, &mut take).await?;
        }
        Ok(())
    }

    /// The tensors of a part, each in the number format it is stored in.
    ///
    /// # Errors
    ///
    /// As [`Self::each_tensor`].
    pub async fn tensors(&self, name: &str) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        let take = |name, data| {
            tensors.insert(name, data);
            Ok(())
        };
        self.each_tensor(name, take).await?;
        Ok(tensors)
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
        let (mut weights, mut moments) = (Tensors::new(), Tensors::new());
        for name in names {
            match name.as_str() {
                WEIGHTS | FROZEN => weights.extend(self.tensors(&name).await?),
                OPTIMIZER => moments = self.tensors(&name).await?,
                _ => {
                    let bytes = self.part(&name).await?;
                    parts.insert(name, bytes);
                }
            }
        }
        Ok(LoadedCheckpoint {
            uri: self.uri().to_owned(),
            manifest: self.manifest,
            parts,
            weights,
            moments,
        })
    }

    /// Whether it has a part of this name.
    pub fn has_part(&self, name: &str) -> bool {
        let mut files = self.manifest.parts.iter();
        files.any(|file| pieces::place(name, &file.name).is_some())
    }

    /// [`Self::part`] where the checkpoint has one of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the part is missing, cut or changed.
    pub async fn part_if_any(&self, name: &str) -> Result<Option<Bytes>> {
        if self.has_part(name) {
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
            self.read_file(file, |_| Ok(())).await?;
        }
        Ok(())
    }

    /// Gives the bytes of files end to end; damage names the checkpoint before.
    async fn read_files(
        &self,
        files: &[&CheckpointFile],
        mut give: impl FnMut(&Bytes) -> Result<()>,
    ) -> Result<()> {
        for file in files {
            let read = self.read_file(file, &mut give).await;
            read.map_err(|error| with_the_one_before(error, self.before.as_deref()))?;
        }
        Ok(())
    }

    /// The files of a part, in order.
    fn files(&self, name: &str) -> Result<Vec<&CheckpointFile>> {
        let files = self.manifest.parts.iter();
        let mut files: Vec<((usize, usize), &CheckpointFile)> = files
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
    async fn read_file(
        &self,
        file: &CheckpointFile,
        mut give: impl FnMut(&Bytes) -> Result<()>,
    ) -> Result<()> {
        let (store, key) = self.place_of(file)?;
        let what = store.full(key);
        // Of a file that others refer to as well, it is said who does.
        let referring = if key == file.key {
            String::new()
        } else {
            format!("; {} refers to it", self.store.full(MANIFEST))
        };
        let short = if file.bytes <= READ_BYTES {
            store.try_get(key).await?
        } else {
            None
        };
        let n_bytes = match &short {
            Some(bytes) => Some(bytes.len() as u64),
            None => store.size(key).await?,
        };
        if n_bytes != Some(file.bytes) {
            let found = n_bytes.map_or("no file".to_owned(), |n| format!("{n} bytes"));
            let found = format!("{found}{referring}");
            return Err(Error::corrupt(what, format!("{} bytes", file.bytes), found));
        }
        let rest = match &short {
            Some(_) => 0,
            None => file.bytes,
        };
        let reads = stream::iter(ranges(rest))
            .map(|range| store.get_range(key, range))
            .buffered(READS_AT_ONCE);
        let reads = stream::iter(short.map(Ok)).chain(reads);
        let mut reads = std::pin::pin!(reads);
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = reads.try_next().await? {
            give(&chunk)?;
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
            return Err(Error::corrupt(what, expected, format!("{hash}{referring}")));
        }
        Ok(())
    }

    /// The store and the key in it of a file.
    fn place_of<'a>(&self, file: &'a CheckpointFile) -> Result<(Store, &'a str)> {
        let Some(key) = in_run(&file.key) else {
            return Ok((self.store.clone(), &file.key));
        };
        let run = self.store.above(2).ok_or_else(|| {
            let expected = format!("a checkpoint of a run, which has {key}");
            Error::corrupt(self.store.full(MANIFEST), expected, "none above it")
        })?;
        Ok((run, key))
    }

    /// The file of this machine that holds the weights that do not train, with its hash.
    pub(crate) fn frozen_file(&self) -> Option<(std::path::PathBuf, String)> {
        let frozen = self
            .manifest
            .parts
            .iter()
            .find(|file| file.name == FROZEN)?;
        let (store, key) = self.place_of(frozen).ok()?;
        Some((store.local_path()?.join(key), frozen.blake3.clone()))
    }

    /// The settings the run was started with, as TOML.
    pub async fn settings_toml(&self) -> Result<String> {
        let bytes = self.part(SETTINGS).await?;
        String::from_utf8(bytes.to_vec())
            .map_err(|e| Error::corrupt(self.store.full(SETTINGS), "UTF-8 text", e))
    }
}

impl LoadedCheckpoint {
    /// What somebody hands over as it would lie in a checkpoint: the bytes of every part; `uri` says whose it is.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when weights or moments are missing or no safetensors file.
    pub fn of_parts(
        manifest: CheckpointManifest,
        uri: String,
        mut parts: BTreeMap<String, Bytes>,
    ) -> Result<Self> {
        let mut tensors = |name: &str| {
            let bytes = parts.remove(name);
            let bytes =
                bytes.ok_or_else(|| Error::corrupt(&uri, format!("a part {name}"), "none"))?;
            read_safetensors(&bytes).map_err(|e| Error::corrupt(name, "safetensors", e))
        };
        let (weights, moments) = (tensors(WEIGHTS)?, tensors(OPTIMIZER)?);
        Ok(Self {
            manifest,
            uri,
            parts,
            weights,
            moments,
        })
    }

    /// What is known of the file of weights that do not train, for a run that goes on from here.
    pub fn frozen(&self) -> SharedOrigin {
        frozen_of(&self.manifest)
    }

    /// The bytes of a part.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the checkpoint has none of that name.
    pub fn part(&self, name: &str) -> Result<Bytes> {
        let part = self.parts.get(name).cloned();
        part.ok_or_else(|| {
            let has: Vec<&str> = self.parts.keys().map(String::as_str).collect();
            Error::invalid(&self.uri, format!("a part {name}"), has.join(", "))
        })
    }

    /// The settings the run was started with, as TOML.
    ///
    /// # Errors
    ///
    /// As [`LoadedCheckpoint::part`]; [`Error::Corrupt`] when they are no text.
    pub fn settings_toml(&self) -> Result<String> {
        let bytes = self.part(SETTINGS)?;
        String::from_utf8(bytes.to_vec())
            .map_err(|e| Error::corrupt(&self.uri, "settings in UTF-8", e))
    }
}

fn frozen_of(manifest: &CheckpointManifest) -> SharedOrigin {
    let mut files = manifest.parts.iter();
    let frozen = files.find(|file| file.name == FROZEN);
    frozen
        .cloned()
        .map_or_else(SharedOrigin::default, SharedOrigin::known)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Retention, commit, cut, publish, put_piece,
        testing::{run, snapshot},
    };

    #[tokio::test]
    async fn a_missing_cut_or_changed_part_is_damage_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        commit(&run, snapshot(5, 0), Retention::last(3))
            .await
            .unwrap();
        let checkpoint = newest(&run).await.unwrap().unwrap();
        let key = "g0-tokenizer.json";
        let damages: [&[u8]; 2] = [&[5; 99], &[6; 100]];
        for damage in damages {
            place(&run, 5)
                .put(key, Bytes::copy_from_slice(damage))
                .await
                .unwrap();
            let error = checkpoint.part("tokenizer.json").await.unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().contains(key), "{error}");
        }
        place(&run, 5).delete(key).await.unwrap();
        let error = checkpoint.part("tokenizer.json").await.unwrap_err();
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
            ("tokenizer.json", long_part()),
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
                "tokenizer.json.00003-of-00003",
                "tokenizer.json.00002-of-00003",
                "tokenizer.json.00001-of-00003",
                "settings.toml"
            ]
        );
        let read = checkpoint.part("tokenizer.json").await.unwrap();
        assert!(read == long_part(), "other bytes");
        let optional = checkpoint.part_if_any("tokenizer.json").await.unwrap();
        assert!(optional == Some(read), "other bytes");
        assert_eq!(checkpoint.settings_toml().await.unwrap(), "seed = 1");
        let error = checkpoint.part("weights").await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[tokio::test]
    async fn a_piece_that_is_damaged_or_not_named_is_missed() {
        let run = Store::open("memory://checkpoint-of-three-damaged").unwrap();
        let mut checkpoint = written_by_three(&run).await;
        let key = "g7-tokenizer.json.00002-of-00003";
        let at = place(&run, 5);
        let mut bytes = at.get(key).await.unwrap().to_vec();
        bytes[1_000_000] ^= 1;
        at.put(key, bytes.into()).await.unwrap();
        let error = checkpoint.part("tokenizer.json").await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(key), "{error}");
        checkpoint.manifest.parts.remove(1);
        let error = checkpoint.part("tokenizer.json").await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[tokio::test]
    async fn tensors_come_one_by_one_and_a_part_that_holds_none_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        let n = READ_BYTES as usize / 4 * 2 + 1_000; // longer than what is read at once
        let tensors: Tensors = (0..3u8)
            .map(|i| {
                (
                    format!("w{i}"),
                    TensorData::new(vec![f32::from(i); n / 3], [n / 3]),
                )
            })
            .collect();
        let bytes = lavida_model::weights::write_safetensors(&tensors, None).unwrap();
        let mut snapshot = snapshot(5, 0);
        let content = Bytes::from(bytes).into();
        snapshot.parts.insert(WEIGHTS.to_owned(), content);
        commit(&run, snapshot, Retention::last(3)).await.unwrap();
        let checkpoint = newest(&run).await.unwrap().unwrap();
        assert!(checkpoint.tensors(WEIGHTS).await.unwrap() == tensors);
        let loaded = checkpoint.clone().load().await.unwrap();
        assert!(loaded.weights == tensors && loaded.moments.is_empty());
        let error = checkpoint.tensors("tokenizer.json").await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("g0-tokenizer.json"), "{error}");
    }
}
