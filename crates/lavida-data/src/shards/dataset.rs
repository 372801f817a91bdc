//! A built dataset: its manifest and its clips, never without checking them.
//!
//! Every range that is read alone has a hash in the manifest, so a flipped byte is
//! [`Error::Corrupt`] with the shard's name, not a sample that looks a little odd.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use lavida_store::{Store, manifest};
use tokio::sync::OnceCell;

use crate::clips::clip::Clip;
pub use crate::clips::clip::{ClipMeta, ObjectMeta};
use crate::shards::disk_cache::DiskCache;
pub use crate::shards::manifest::{
    CARD_KEY, CategorySource, DatasetHeader, DatasetManifest, EARLIER_MANIFEST_KEY, ERRORS_KEY,
    MANIFEST_KEY, MetadataEntry, Positives, Purpose, RowGroupEntry, ShardEntry, ShardRange,
};
use crate::shards::parquet_file::{Footer, decode_metadata};
use crate::{Error, Result};

/// Requests for metadata on their way at once.
const N_REQUESTS: usize = 8;

/// A committed dataset, open for reading. Cloning is cheap.
#[derive(Clone)]
pub struct Dataset {
    store: Store,
    manifest: Arc<DatasetManifest>,
    footers: Arc<[OnceCell<Footer>]>,
    cache: Option<Arc<DiskCache>>,
}

/// What [`Dataset::verify`] went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Shards hashed.
    pub shards: u64,
    /// Clips decoded.
    pub samples: u64,
    /// Frames whose headers were read.
    pub frames: u64,
    /// Objects.
    pub objects: u64,
    /// Masks decoded.
    pub masks: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Keys that the manifest does not name: left by builds that did not finish.
    pub leftovers: Vec<String>,
}

impl Dataset {
    /// Reads and checks the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when nothing was committed there or the version is not known,
    /// [`Error::Corrupt`] when the manifest is damaged.
    pub async fn open(store: &Store) -> Result<Self> {
        for key in [MANIFEST_KEY, EARLIER_MANIFEST_KEY] {
            if let Some(manifest) = manifest::read::<DatasetManifest>(store, key).await? {
                manifest.validate(&store.full(key))?;
                return Ok(Self::new(store, manifest));
            }
        }
        let found = "none: not a dataset, or its build has not finished";
        let expected = "the manifest of a dataset";
        Err(Error::invalid(store.full(MANIFEST_KEY), expected, found))
    }

    /// Whether a dataset was committed there. What it holds is not looked at.
    ///
    /// # Errors
    ///
    /// As the store's.
    pub async fn is_at(store: &Store) -> Result<bool> {
        Ok(Self::committed_at(store).await?.is_some())
    }

    /// Refuses a place that holds a dataset.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] with its manifest; otherwise as the store's.
    pub async fn check_none_at(store: &Store) -> Result<()> {
        match Self::committed_at(store).await? {
            None => Ok(()),
            Some(key) => Err(Error::Exists {
                what: format!("dataset {}", store.full(key)),
            }),
        }
    }

    async fn committed_at(store: &Store) -> Result<Option<&'static str>> {
        for key in [MANIFEST_KEY, EARLIER_MANIFEST_KEY] {
            if store.size(key).await?.is_some() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The same, keeping what is read in `cache`. What lies in a folder is read where it is.
    pub fn cached_in(mut self, cache: Option<Arc<DiskCache>>) -> Self {
        self.cache = cache.filter(|_| self.store.local_path().is_none());
        self
    }

    /// The finished shards of a build that has no manifest yet.
    pub(crate) fn unfinished(
        store: &Store,
        header: DatasetHeader,
        shards: Vec<ShardEntry>,
    ) -> Self {
        let manifest = DatasetManifest {
            header,
            samples: shards.iter().map(|shard| shard.rows).sum(),
            frames: 0,
            objects: 0,
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
            skipped: BTreeMap::new(),
            metadata: None,
            shards,
        };
        Self::new(store, manifest)
    }

    fn new(store: &Store, manifest: DatasetManifest) -> Self {
        let footers = manifest.shards.iter().map(|_| OnceCell::new()).collect();
        Self {
            store: store.clone(),
            manifest: Arc::new(manifest),
            footers,
            cache: None,
        }
    }

    /// What the dataset says of itself.
    pub fn manifest(&self) -> &DatasetManifest {
        &self.manifest
    }

    /// Where it lies.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All clips of one row group.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming shard and row group when a byte of it is not what was written,
    /// [`Error::Unavailable`] when the store does not answer.
    pub async fn read_row_group(&self, shard_idx: usize, group_idx: usize) -> Result<Vec<Clip>> {
        let group = &self.manifest.shards[shard_idx].row_groups[group_idx];
        let what = self.name_group(shard_idx, group_idx);
        // Together: of a shard that is read for the first time both are on their way.
        let (footer, bytes) = futures::try_join!(
            self.footer(shard_idx),
            self.part(&what, shard_idx, &group.data)
        )?;
        let (footer, offset) = (footer.clone(), group.data.offset);
        blocking(move || footer.clips(&what, group_idx, offset, bytes)).await
    }

    /// The metadata of one row group; no image or mask is read.
    pub async fn read_metas(&self, shard_idx: usize, group_idx: usize) -> Result<Vec<ClipMeta>> {
        let part = &self.manifest.shards[shard_idx].row_groups[group_idx].metadata;
        let what = self.name_group(shard_idx, group_idx);
        let (footer, bytes) =
            futures::try_join!(self.footer(shard_idx), self.part(&what, shard_idx, part))?;
        footer.metas(&what, group_idx, part.offset, bytes)
    }

    /// The metadata of all clips, in order. One request, or one for each row group where the dataset was built without.
    ///
    /// # Errors
    ///
    /// As [`Self::read_row_group`].
    pub async fn read_all_metas(&self) -> Result<Vec<ClipMeta>> {
        let Some(MetadataEntry { key, data }) = &self.manifest.metadata else {
            let groups = stream::iter(self.row_groups())
                .map(|(shard, group)| self.read_metas(shard, group))
                .buffered(N_REQUESTS);
            return Ok(groups
                .try_collect::<Vec<_>>()
                .await?
                .into_iter()
                .flatten()
                .collect());
        };
        let what = self.store.full(key);
        let bytes = self.whole(&what, key, data).await?;
        let expected = self.manifest.samples;
        blocking(move || {
            let metas = decode_metadata(&what, bytes)?;
            if metas.len() as u64 == expected {
                Ok(metas)
            } else {
                let expected = format!("{expected} clips");
                Err(Error::corrupt(what, expected, metas.len()))
            }
        })
        .await
    }

    /// `(shard, row group)` of every row group, in order.
    pub fn row_groups(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let lengths: Vec<usize> = self
            .manifest
            .shards
            .iter()
            .map(|shard| shard.row_groups.len())
            .collect();
        lengths
            .into_iter()
            .enumerate()
            .flat_map(|(shard_idx, n)| (0..n).map(move |group_idx| (shard_idx, group_idx)))
    }

    /// Every clip in order, holding one row group at a time.
    pub fn clips(&self) -> impl Stream<Item = Result<Clip>> + Send + use<> {
        let dataset = self.clone();
        stream::iter(self.row_groups())
            .then(move |(shard_idx, group_idx)| {
                let dataset = dataset.clone();
                async move { dataset.read_row_group(shard_idx, group_idx).await }
            })
            .map_ok(|clips| stream::iter(clips.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    /// Hashes every byte, decodes every row and mask, and checks every clip.
    ///
    /// # Errors
    ///
    /// The first damage found, as [`Error::Corrupt`] naming the shard.
    pub async fn verify(&self) -> Result<VerifyReport> {
        self.verify_with(|_| true, |_| {}).await
    }

    /// [`Self::verify`] of the shards that are wanted, by their index, telling how many bytes are done after each row group. Of
    /// some of the shards neither the sums nor what does not belong to the dataset is looked at.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`].
    pub async fn verify_with(
        &self,
        is_wanted: impl Fn(usize) -> bool,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut metas = self.read_all_metas().await?.into_iter();
        for (shard_idx, shard) in self.manifest.shards.iter().enumerate() {
            if is_wanted(shard_idx) {
                self.verify_shard(shard_idx, &mut metas, &mut report, &mut progress)
                    .await?;
            } else {
                metas.by_ref().take(shard.rows as usize).for_each(drop);
            }
        }
        if report.shards < self.manifest.shards.len() as u64 {
            return Ok(report);
        }
        let found = (report.samples, report.frames, report.objects);
        let stated = (
            self.manifest.samples,
            self.manifest.frames,
            self.manifest.objects,
        );
        if found != stated {
            return Err(Error::corrupt(
                self.store.full(MANIFEST_KEY),
                format!(
                    "{} samples, {} frames, {} objects",
                    stated.0, stated.1, stated.2
                ),
                format!("{}, {}, {}", found.0, found.1, found.2),
            ));
        }
        for object in self.store.list("").await? {
            let mut named = self.manifest.shards.iter().map(|shard| &shard.key);
            let metadata = self.manifest.metadata.as_ref().map(|entry| &entry.key);
            let beside = [MANIFEST_KEY, EARLIER_MANIFEST_KEY, CARD_KEY, ERRORS_KEY];
            if !named.any(|key| *key == object.key)
                && metadata != Some(&object.key)
                && !beside.contains(&object.key.as_str())
            {
                report.leftovers.push(object.key);
            }
        }
        Ok(report)
    }

    async fn verify_shard(
        &self,
        shard_idx: usize,
        metas: &mut impl Iterator<Item = ClipMeta>,
        report: &mut VerifyReport,
        progress: &mut (impl FnMut(u64) + Send),
    ) -> Result<()> {
        let shard = &self.manifest.shards[shard_idx];
        let what = self.store.full(&shard.key);
        let size = self.store.size(&shard.key).await?;
        if size != Some(shard.bytes) {
            let found = size.map_or("no file".to_string(), |size| format!("{size} bytes"));
            return Err(Error::corrupt(
                what,
                format!("{} bytes", shard.bytes),
                found,
            ));
        }
        let footer = self.footer(shard_idx).await?;
        let mut hasher = blake3::Hasher::new();
        let begin = shard
            .row_groups
            .first()
            .map_or(0, |group| group.data.offset);
        hasher.update(&self.fetch(shard_idx, 0..begin).await?);
        for (group_idx, group) in shard.row_groups.iter().enumerate() {
            let name = self.name_group(shard_idx, group_idx);
            let bytes = self.fetch(shard_idx, group.data.range()).await?;
            group.data.check(&name, &bytes)?;
            let metadata = &bytes[..group.metadata.bytes as usize];
            group.metadata.check(&name, metadata)?;
            hasher.update(&bytes);
            for clip in footer.clips(&name, group_idx, group.data.offset, bytes)? {
                self.verify_clip(&name, &clip)?;
                if metas.next() != Some(ClipMeta::of(&clip)) {
                    let expected = format!("the metadata that stands beside clip {}", clip.id);
                    let key = self
                        .manifest
                        .metadata
                        .as_ref()
                        .map_or("", |entry| &entry.key);
                    return Err(Error::corrupt(
                        self.store.full(key),
                        expected,
                        "other metadata",
                    ));
                }
                report.samples += 1;
                report.frames += clip.frames.len() as u64;
                report.objects += clip.objects.len() as u64;
                let masks = clip
                    .objects
                    .iter()
                    .flat_map(|object| object.masks.iter().flatten());
                report.masks += masks.count() as u64;
            }
            progress(report.bytes + group.data.range().end);
        }
        hasher.update(&self.fetch(shard_idx, shard.footer.range()).await?);
        let found = hasher.finalize().to_hex().to_string();
        if found != shard.blake3 {
            return Err(Error::corrupt(
                what,
                format!("BLAKE3 {}", shard.blake3),
                found,
            ));
        }
        report.shards += 1;
        report.bytes += shard.bytes;
        progress(report.bytes);
        Ok(())
    }

    fn verify_clip(&self, name: &str, clip: &Clip) -> Result<()> {
        let header = &self.manifest.header;
        clip.validate(header.purpose)
            .map_err(|error| Error::corrupt(name, "clips that keep their rules", error))
    }

    async fn footer(&self, shard_idx: usize) -> Result<&Footer> {
        let shard = &self.manifest.shards[shard_idx];
        self.footers[shard_idx]
            .get_or_try_init(|| async {
                let what = format!("{}, footer", self.store.full(&shard.key));
                let bytes = self.part(&what, shard_idx, &shard.footer).await?;
                Footer::parse(&what, &bytes, shard)
            })
            .await
    }

    /// A part of a shard, whole; `what` names it in errors.
    async fn part(&self, what: &str, shard_idx: usize, part: &ShardRange) -> Result<Bytes> {
        self.whole(what, &self.manifest.shards[shard_idx].key, part)
            .await
    }

    /// A part of an object, from the cache or the store, and whole.
    async fn whole(&self, what: &str, key: &str, part: &ShardRange) -> Result<Bytes> {
        let fetch = || self.fetch_from(key, part.range());
        if let Some(cache) = &self.cache {
            return cache.get(what, part, fetch).await;
        }
        let bytes = fetch().await?;
        let (what, part) = (what.to_owned(), part.clone());
        blocking(move || part.check(&what, &bytes).map(|()| bytes)).await
    }

    async fn fetch(&self, shard_idx: usize, range: Range<u64>) -> Result<Bytes> {
        self.fetch_from(&self.manifest.shards[shard_idx].key, range)
            .await
    }

    /// A range of an object. What the manifest names must be there, so absence is damage.
    async fn fetch_from(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        match self.store.get_range(key, range).await {
            Err(Error::Invalid { what, found, .. }) => Err(Error::corrupt(
                what,
                "an object that the manifest names",
                found,
            )),
            result => result,
        }
    }

    fn name_group(&self, shard_idx: usize, group_idx: usize) -> String {
        let key = &self.manifest.shards[shard_idx].key;
        format!("{}, row group {group_idx}", self.store.full(key))
    }
}

/// Hashing and decoding a row group takes milliseconds: not on a thread that serves others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Internal(format!("decoding a row group: {error}"))),
    }
}
