//! Building a dataset: clips in, Parquet shards and one manifest out.
//!
//! Clips gather into row groups, row groups stream into shards, and nothing counts before
//! `_manifest.json` is there, written last with put-if-absent. A build that is killed leaves shards
//! that nobody reads and records that let it be resumed at its last whole shard. Memory holds one
//! row group, the parts of it on their way to the store and, compressed, the metadata of every clip.

use std::collections::{BTreeMap, HashSet};

use lavida_store::{ObjectWriter, Store, manifest};
use serde::Serialize;

use crate::clips::clip::Clip;
use crate::clips::clip::ClipMeta;
use crate::shards::dataset::Dataset;
use crate::shards::manifest::{
    DatasetHeader, DatasetManifest, MANIFEST_KEY, MetadataEntry, SHARDS_FOLDER, ShardEntry,
    ShardRange,
};
use crate::shards::parquet_file::{MetadataEncoder, ShardEncoder};
pub use crate::shards::progress::remove_unfinished;
use crate::shards::progress::{Done, Journal, Mark};
use crate::{Error, Result};

/// How clips are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WriterSettings {
    /// A shard is closed before it would pass this many bytes. Larger means fewer files and a
    /// later point to resume from.
    pub shard_bytes: u64,
    /// Most clips of a row group. Larger means more to read for one clip.
    pub row_group_rows: usize,
    /// A row group is closed before it would pass this many bytes; a single clip may. Larger means fewer requests, and
    /// more to fetch before the first batch, which needs a row group for nearly each of its clips.
    pub row_group_bytes: u64,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            shard_bytes: 256 << 20,
            row_group_rows: 64,
            row_group_bytes: 4 << 20,
        }
    }
}

/// Where a resumed build goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Clips already safely written; 0 when there was nothing to resume.
    pub n_clips: u64,
    /// The position given with the last of them ([`DatasetWriter::push_at`]).
    pub cursor: u64,
    /// Id of the last of them.
    pub last_id: Option<String>,
}

/// Writes one dataset.
pub struct DatasetWriter {
    store: Store,
    header: DatasetHeader,
    settings: WriterSettings,
    journal: Journal,
    ids: HashSet<String>,
    pending: Vec<Clip>,
    pending_bytes: u64,
    /// After the last clip pushed.
    pushed: Mark,
    skipped: BTreeMap<String, u64>,
    shard: Option<Box<OpenShard>>,
    /// Of every clip encoded.
    metadata: MetadataEncoder,
    failed: bool,
}

struct OpenShard {
    encoder: ShardEncoder,
    upload: ObjectWriter,
    /// After the last clip encoded.
    after: Mark,
}

impl DatasetWriter {
    /// Starts a dataset at `store`.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when there is a dataset already, [`Error::Invalid`] for a header or
    /// settings that cannot be.
    pub async fn create(
        store: &Store,
        header: DatasetHeader,
        settings: WriterSettings,
    ) -> Result<Self> {
        check_start(store, &header, &settings).await?;
        let journal = Journal::claim(store, &fingerprint(&header, &settings), Vec::new()).await?;
        Self::new(store, header, settings, journal)
    }

    /// Goes on with the newest unfinished build at `store`, or starts when there is none.
    ///
    /// Counts of what was skipped are restored as they stood when the last safe clip was pushed.
    /// A source that goes on at `cursor` counts only what comes after it; what it skips while
    /// planning, before the first clip, it counts right before [`Self::finish`].
    ///
    /// # Errors
    ///
    /// As [`Self::create`], and [`Error::Invalid`] when header or settings are not those of the
    /// unfinished build.
    pub async fn resume(
        store: &Store,
        header: DatasetHeader,
        settings: WriterSettings,
    ) -> Result<(Self, Resumed)> {
        check_start(store, &header, &settings).await?;
        let fingerprint = fingerprint(&header, &settings);
        let done = Journal::unfinished(store, &fingerprint).await?;
        let metas = read_metas(store, &header, &done).await?;
        let journal = Journal::claim(store, &fingerprint, done).await?;
        let mark = journal
            .done
            .last()
            .map_or_else(Mark::default, |done| done.after.clone());
        let resumed = Resumed {
            n_clips: mark.samples,
            cursor: mark.cursor,
            last_id: mark.last_id.clone(),
        };
        let mut writer = Self::new(store, header, settings, journal)?;
        writer.metadata.push(&metas)?;
        writer.ids = metas.into_iter().map(|meta| meta.id).collect();
        writer.skipped = mark.skipped.clone();
        writer.pushed = mark;
        Ok((writer, resumed))
    }

    fn new(
        store: &Store,
        header: DatasetHeader,
        settings: WriterSettings,
        journal: Journal,
    ) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            header,
            settings,
            journal,
            ids: HashSet::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            pushed: Mark::default(),
            skipped: BTreeMap::new(),
            shard: None,
            metadata: MetadataEncoder::new()?,
            failed: false,
        })
    }

    /// Clips taken so far, with those of a resumed build.
    pub fn n_clips(&self) -> u64 {
        self.pushed.samples
    }

    /// Frames of them.
    pub fn n_frames(&self) -> u64 {
        self.pushed.frames
    }

    /// Objects of them.
    pub fn n_objects(&self) -> u64 {
        self.pushed.objects
    }

    /// What was left out so far, by reason.
    pub fn skipped(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// Adds a clip; the source's position after it is the number of clips so far.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a clip that breaks a rule ([`Clip::validate`]) or repeats an id: the
    /// clip is not taken and the writer goes on. [`Error::Unavailable`] when the store cannot take
    /// a row group: the build is over.
    pub async fn push(&mut self, clip: &Clip) -> Result<()> {
        self.push_at(clip, self.pushed.samples + 1).await
    }

    /// Adds a clip; `cursor` is the source's own position after it, given back on resume.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub async fn push_at(&mut self, clip: &Clip, cursor: u64) -> Result<()> {
        self.check_alive()?;
        self.check_clip(clip)?;
        let n_bytes = estimated_bytes(clip);
        let full = self.pending.len() >= self.settings.row_group_rows
            || self.pending_bytes + n_bytes > self.settings.row_group_bytes;
        if full {
            self.flush().await?;
        }
        self.ids.insert(clip.id.clone());
        self.pending.push(clip.clone());
        self.pending_bytes += n_bytes;
        self.pushed.samples += 1;
        self.pushed.frames += clip.frames.len() as u64;
        self.pushed.objects += clip.objects.len() as u64;
        self.pushed.cursor = cursor;
        self.pushed.last_id = Some(clip.id.clone());
        self.pushed.skipped.clone_from(&self.skipped);
        Ok(())
    }

    /// Counts `n` things left out, by reason; the manifest tells.
    pub fn skip(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self.skipped.entry(reason.to_string()).or_default() += n;
        }
    }

    /// Closes the last shard and commits the manifest. Before this returns there is no dataset.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when not one clip was pushed, [`Error::Exists`] when another build
    /// committed first: what this one wrote is taken away then, since readers of a folder would find its rows a second time.
    pub async fn finish(mut self) -> Result<DatasetManifest> {
        self.check_alive()?;
        self.flush().await?;
        if let Some(shard) = self.shard.take() {
            self.close(shard).await?;
        }
        if self.journal.done.is_empty() {
            self.journal.withdraw().await?;
            return Err(Error::invalid(
                self.store.uri(),
                "at least one clip to write",
                format!("none; skipped: {:?}", self.skipped),
            ));
        }
        let shards: Vec<ShardEntry> = self
            .journal
            .done
            .iter()
            .map(|done| done.shard.clone())
            .collect();
        let metadata = self.metadata.finish()?;
        let metadata_key = format!("_clips-b{}.metadata", self.journal.build);
        self.store.put(&metadata_key, metadata.clone()).await?;
        let dataset = DatasetManifest {
            metadata: Some(MetadataEntry {
                key: metadata_key,
                data: ShardRange::of(0, &metadata),
            }),
            header: self.header,
            samples: self.pushed.samples,
            frames: self.pushed.frames,
            objects: self.pushed.objects,
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
            skipped: self.skipped,
            shards,
        };
        let committed = manifest::commit(&self.store, MANIFEST_KEY, &dataset).await;
        if matches!(committed, Err(Error::Exists { .. }))
            && let Err(error) = remove_beaten(&self.store, &dataset, &self.journal).await
        {
            tracing::warn!(%error, "what this build wrote stays beside the dataset that another one committed");
        }
        committed?;
        if let Err(error) = self.journal.clear().await {
            // The dataset is whole; the records only take up room.
            tracing::warn!(%error, "records of the finished build stay behind");
        }
        Ok(dataset)
    }

    /// Encodes the pending clips into a shard with room for them.
    async fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Until everything below has worked, a clip might be missing from the shard.
        self.failed = true;
        let mut shard = match self.shard.take() {
            Some(shard) if self.fits(&shard) => shard,
            Some(shard) => {
                self.close(shard).await?;
                self.open().await?
            }
            None => self.open().await?,
        };
        let bytes = shard.encoder.encode(&self.pending)?;
        shard.upload.write(bytes).await?;
        let metas: Vec<ClipMeta> = self.pending.iter().map(ClipMeta::of).collect();
        self.metadata.push(&metas)?;
        shard.after = self.pushed.clone();
        self.shard = Some(shard);
        self.pending.clear();
        self.pending_bytes = 0;
        self.failed = false;
        Ok(())
    }

    fn fits(&self, shard: &OpenShard) -> bool {
        shard.encoder.n_bytes() + self.pending_bytes <= self.settings.shard_bytes
    }

    async fn open(&self) -> Result<Box<OpenShard>> {
        let key = format!(
            "{SHARDS_FOLDER}/{}-{:05}-b{}.parquet",
            self.header.shard_prefix(),
            self.journal.done.len(),
            self.journal.build
        );
        Ok(Box::new(OpenShard {
            encoder: ShardEncoder::new()?,
            upload: self.store.writer(&key).await?,
            after: Mark::default(),
        }))
    }

    async fn close(&mut self, shard: Box<OpenShard>) -> Result<()> {
        let mut shard = *shard;
        let key = shard.upload.key().to_string();
        let (footer, entry) = shard.encoder.finish(key)?;
        shard.upload.write(footer).await?;
        shard.upload.finish().await?;
        let done = Done {
            shard: entry,
            after: shard.after,
        };
        self.journal.record(done).await
    }

    fn check_clip(&self, clip: &Clip) -> Result<()> {
        clip.validate(self.header.purpose)?;
        if clip.dataset != self.header.dataset {
            return Err(Error::invalid(
                format!("clip {}/{}", clip.dataset, clip.id),
                format!("a clip of dataset {}", self.header.dataset),
                &clip.dataset,
            ));
        }
        if self.ids.contains(&clip.id) {
            return Err(Error::invalid(
                format!("clip {}/{}", clip.dataset, clip.id),
                "ids used once",
                "the same id again",
            ));
        }
        Ok(())
    }

    fn check_alive(&self) -> Result<()> {
        if self.failed {
            return Err(Error::Internal(
                "a dataset writer was used after it had failed".to_string(),
            ));
        }
        Ok(())
    }
}

/// Deletes what only a build wrote that another one was faster than. Both may have begun with the shards of a build that they
/// resumed.
async fn remove_beaten(store: &Store, own: &DatasetManifest, journal: &Journal) -> Result<()> {
    let winner = Dataset::open(store).await?;
    let winner = winner.manifest();
    let keys = |manifest: &DatasetManifest| -> Vec<String> {
        let shards = manifest.shards.iter().map(|shard| shard.key.clone());
        let metadata = manifest.metadata.iter().map(|entry| entry.key.clone());
        shards.chain(metadata).collect()
    };
    let kept = keys(winner);
    for key in keys(own).iter().filter(|key| !kept.contains(key)) {
        store.delete(key).await?;
    }
    journal.clear().await
}

async fn check_start(
    store: &Store,
    header: &DatasetHeader,
    settings: &WriterSettings,
) -> Result<()> {
    header.validate()?;
    if settings.row_group_rows == 0 || settings.row_group_bytes == 0 || settings.shard_bytes == 0 {
        return Err(Error::invalid(
            "shard settings",
            "sizes above 0",
            format!("{settings:?}"),
        ));
    }
    Dataset::check_none_at(store).await
}

/// What has to be the same for a build to be the same build.
fn fingerprint(header: &DatasetHeader, settings: &WriterSettings) -> String {
    let text = serde_json::to_vec(&(header, settings)).expect("plain data");
    blake3::hash(&text).to_hex().to_string()
}

/// What an unfinished build has written into its shards.
async fn read_metas(store: &Store, header: &DatasetHeader, done: &[Done]) -> Result<Vec<ClipMeta>> {
    let shards: Vec<ShardEntry> = done.iter().map(|done| done.shard.clone()).collect();
    let dataset = Dataset::unfinished(store, header.clone(), shards);
    let mut metas = Vec::new();
    for (shard_idx, group_idx) in dataset.row_groups() {
        metas.extend(dataset.read_metas(shard_idx, group_idx).await?);
    }
    Ok(metas)
}

/// An upper bound of what a clip takes in a row group: its bytes, with room for the lengths and
/// levels that Parquet adds to every value and for page headers.
fn estimated_bytes(clip: &Clip) -> u64 {
    const A_VALUE: usize = 16;
    const A_CLIP: usize = 512;
    let text = |text: &str| text.len() + A_VALUE;
    let texts = |texts: &[String]| texts.iter().map(|t| text(t)).sum::<usize>();
    let frames: usize = clip
        .frames
        .iter()
        .map(|frame| frame.bytes.len() + A_VALUE + text(&frame.path))
        .sum();
    let objects: usize = clip
        .objects
        .iter()
        .map(|object| {
            let masks = object.masks.iter();
            let masks: usize = masks
                .map(|mask| {
                    mask.as_ref()
                        .map_or(A_VALUE, |mask| text(&mask.counts) + A_VALUE)
                })
                .sum();
            let category = object.category.as_deref().map_or(0, text);
            text(&object.id) + category + texts(&object.descriptions) + masks + A_VALUE
        })
        .sum();
    let rest = text(&clip.id) + text(&clip.video) + texts(&clip.present_categories);
    (frames + objects + rest + A_CLIP) as u64
}
