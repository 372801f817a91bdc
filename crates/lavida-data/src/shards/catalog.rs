//! Every sample of one or several datasets, known without reading an image.
//!
//! The catalog is what the sample order numbers and what the exposure sampler draws distractors
//! from: ids, texts, categories and where each clip lies. It is read once from the metadata columns;
//! [`Catalog::read`] then fetches single clips, each with its row group, which is held for a while.
//! Who knows what it will read is served better by a [`crate::read_ahead::ReadAhead`].

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use lavida_store::Store;

use crate::clips::clip::Clip;
pub use crate::clips::clip::ObjectMeta;
use crate::seed::SeedId;
use crate::shards::dataset::{ClipMeta, Dataset, DatasetHeader, Purpose};
use crate::shards::disk_cache::DiskCache;
use crate::shards::mix::MaxCategories;
pub use crate::shards::mix::{DataSource, Share};
use crate::shards::row_groups::{RowGroups, RowKey};
use crate::{Error, Result};

/// Bytes of clips held when nothing else is said: half a shuffle window of pictures of a quarter MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;

/// Datasets that are opened at once.
const N_OPENED: usize = 8;

/// Where clips are kept that may be read again.
#[derive(Clone)]
pub struct Caching {
    /// Bytes of encoded clips held in memory by this process.
    pub memory_bytes: u64,
    /// The folder of this machine for what was fetched from a bucket; without one it is fetched again when needed again.
    pub disk: Option<Arc<DiskCache>>,
}

impl Default for Caching {
    fn default() -> Self {
        Self {
            memory_bytes: DEFAULT_MEMORY_BYTES,
            disk: None,
        }
    }
}

/// One dataset of a catalog.
#[derive(Clone, Debug)]
pub struct CatalogDataset {
    /// What its manifest says of it.
    pub header: DatasetHeader,
    /// Its part in the run.
    pub source: DataSource,
    /// Where its samples stand in the catalog.
    pub samples: Range<usize>,
    /// Identity of its data ([`crate::manifest::DatasetManifest::hash`]).
    pub hash: [u8; 32],
}

impl CatalogDataset {
    /// How many samples it has, for shares.
    fn n_samples(&self) -> f64 {
        self.samples.len() as f64
    }
}

/// What is known of a sample without reading its pixels: all that its row says of it (it reads as that), and where that is.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleEntry {
    /// Index of its dataset in [`Catalog::datasets`].
    pub dataset_idx: usize,
    /// Every text that names one of its objects, each once, in the order of the objects.
    pub descriptions: Vec<String>,
    /// Its clip without the pixels.
    pub clip: ClipMeta,
    /// Shard of the dataset.
    pub shard: usize,
    /// Row group of the shard.
    pub row_group: usize,
    /// Row of the row group.
    pub row: usize,
}

impl std::ops::Deref for SampleEntry {
    type Target = ClipMeta;

    fn deref(&self) -> &ClipMeta {
        &self.clip
    }
}

/// A dataset in memory, for tests and demonstrations.
#[derive(Clone, Debug)]
pub struct MemoryDataset {
    /// As a manifest would have it.
    pub header: DatasetHeader,
    /// Its share of the samples.
    pub share: Share,
    /// The clips; they are not validated.
    pub clips: Vec<Clip>,
}

/// The samples of one or several datasets.
pub struct Catalog {
    datasets: Vec<CatalogDataset>,
    entries: Vec<SampleEntry>,
    clips: Vec<Source>,
    row_groups: RowGroups,
}

enum Source {
    Stored(Dataset),
    Memory(Vec<Arc<Clip>>),
}

/// Where a clip stands in its shards: shard, row group, row.
type Place = (usize, usize, usize);

impl Catalog {
    /// Reads the manifests and the metadata of all sources.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a source and for a source of another purpose (labels of a benchmark
    /// never reach training); otherwise as [`Dataset::open`].
    pub async fn open(sources: &[DataSource], purpose: Purpose) -> Result<Self> {
        Self::open_with(sources, purpose, Caching::default()).await
    }

    /// The places at which there is no dataset, in the order of the sources.
    ///
    /// # Errors
    ///
    /// As the stores'.
    pub async fn missing(sources: &[DataSource]) -> Result<Vec<&str>> {
        let looked: Vec<Option<&str>> = stream::iter(sources)
            .map(|source| async move {
                let is_there = Dataset::is_at(&Store::open(&source.uri)?).await?;
                Ok((!is_there).then_some(source.uri.as_str()))
            })
            .buffered(N_OPENED)
            .try_collect()
            .await?;
        Ok(looked.into_iter().flatten().collect())
    }

    /// Each dataset's share of the samples that are drawn, in the order of the sources; they add up to 1.
    ///
    /// A dataset without a weight keeps the share that its samples have of all samples; the others divide the rest in
    /// proportion to their weights, a group's in proportion to its datasets' samples.
    pub fn shares(&self) -> Vec<f64> {
        let samples = || {
            self.datasets
                .iter()
                .map(CatalogDataset::n_samples)
                .collect()
        };
        let weights: Vec<f64> = self.weights().unwrap_or_else(samples);
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    /// The shares, not scaled: of datasets that all have a weight these as they are written. `None` where none has one, and
    /// all go by their samples.
    pub(crate) fn weights(&self) -> Option<Vec<f64>> {
        let weight = |dataset: &CatalogDataset| match &dataset.source.share {
            Share::BySamples => None,
            Share::Weight(weight) => Some(*weight),
            Share::Group { name, weight } => {
                let members = self.datasets.iter().filter(|other| {
                    matches!(&other.source.share, Share::Group { name: of, .. } if of == name)
                });
                let n_members: f64 = members.map(CatalogDataset::n_samples).sum();
                Some(weight * dataset.n_samples() / n_members)
            }
        };
        let weights: Vec<(f64, Option<f64>)> = self
            .datasets
            .iter()
            .map(|dataset| (dataset.n_samples(), weight(dataset)))
            .collect();
        if weights.iter().all(|(_, weight)| weight.is_none()) {
            return None;
        }
        let total: f64 = weights.iter().filter_map(|(_, weight)| *weight).sum();
        let unweighted = weights.iter().filter(|(_, weight)| weight.is_none());
        let n_unweighted: f64 = unweighted.map(|(n_samples, _)| n_samples).sum();
        let n_all = self.len() as f64;
        let scale = match n_unweighted {
            0.0 => 1.0,
            n => (n_all - n) / n_all / total,
        };
        let shares = weights.into_iter();
        let shares =
            shares.map(|(n_samples, weight)| weight.map_or(n_samples / n_all, |w| w * scale));
        Some(shares.collect())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let datasets = self.datasets.iter();
        datasets.map(|dataset| dataset.header.dataset.as_str())
    }

    /// [`Self::open`], keeping clips as `caching` says.
    pub async fn open_with(
        sources: &[DataSource],
        purpose: Purpose,
        caching: Caching,
    ) -> Result<Self> {
        let mut catalog = Self::empty(caching.memory_bytes);
        let opened: Vec<(Dataset, Vec<ClipMeta>)> = stream::iter(sources)
            .map(|source| open_one(source, purpose, caching.disk.clone()))
            .buffered(N_OPENED)
            .try_collect()
            .await?;
        for ((dataset, metas), source) in opened.into_iter().zip(sources) {
            let header = dataset.manifest().header.clone();
            let hash = dataset.manifest().hash();
            let places: Vec<Place> = places(&dataset).collect();
            catalog.add(header, hash, source, places.into_iter().zip(metas));
            catalog.clips.push(Source::Stored(dataset));
        }
        catalog.check()?;
        Ok(catalog)
    }

    /// A catalog of clips in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] as [`Self::open`].
    pub fn in_memory(datasets: Vec<MemoryDataset>) -> Result<Self> {
        let mut catalog = Self::empty(0);
        for MemoryDataset {
            header,
            share,
            clips,
        } in datasets
        {
            let mut hasher = blake3::Hasher::new();
            header.dataset.feed(&mut hasher);
            for clip in &clips {
                clip.id.feed(&mut hasher);
            }
            let hash = *hasher.finalize().as_bytes();
            let metas = clips.iter().map(ClipMeta::of).enumerate();
            let metas = metas.map(|(row, meta)| ((0, 0, row), meta));
            let source = DataSource {
                share,
                ..DataSource::new(header.dataset.clone())
            };
            catalog.add(header, hash, &source, metas);
            let clips = clips.into_iter().map(Arc::new).collect();
            catalog.clips.push(Source::Memory(clips));
        }
        catalog.check()?;
        Ok(catalog)
    }

    /// Samples of all datasets.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no sample; an open catalog has at least one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The datasets, in the order of the sources.
    pub fn datasets(&self) -> &[CatalogDataset] {
        &self.datasets
    }

    /// What is known of sample `index` (below [`Self::len`]).
    pub fn entry(&self, index: usize) -> &SampleEntry {
        &self.entries[index]
    }

    /// Every sample, in order.
    pub fn entries(&self) -> &[SampleEntry] {
        &self.entries
    }

    /// Index of the sample with this id, which is `ID` or, to tell datasets apart, `DATASET/ID`.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| {
            let dataset = &self.datasets[entry.dataset_idx].header.dataset;
            let with_dataset = || id.strip_prefix(dataset)?.strip_prefix('/');
            entry.id == id || with_dataset() == Some(&entry.id)
        })
    }

    /// Identity of the data and the shares: with the seed it decides the sample order.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lavida 2026 catalog identity");
        let weights = self.weights();
        for (i, dataset) in self.datasets.iter().enumerate() {
            let weight = weights
                .as_ref()
                .map_or(u64::MAX, |weights| weights[i].to_bits());
            hasher.update(&dataset.hash);
            hasher.update(&(dataset.samples.len() as u64).to_le_bytes());
            hasher.update(&weight.to_le_bytes());
            let DataSource {
                max_categories,
                exclusion,
                ..
            } = &dataset.source;
            if max_categories.is_some() || exclusion.is_some() {
                let max_categories = max_categories.map(MaxCategories::get);
                hasher.update(format!("{max_categories:?} {exclusion:?}").as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Samples of each row group of a dataset, in order. A dataset in memory is one row group.
    pub fn group_lengths(&self, dataset_idx: usize) -> Vec<usize> {
        let samples = self.datasets[dataset_idx].samples.clone();
        self.entries[samples]
            .chunk_by(|a, b| (a.shard, a.row_group) == (b.shard, b.row_group))
            .map(<[SampleEntry]>::len)
            .collect()
    }

    /// The clip of sample `index`, with its frames and masks.
    ///
    /// # Errors
    ///
    /// As [`Dataset::read_row_group`].
    pub async fn read(&self, index: usize) -> Result<Arc<Clip>> {
        let entry = &self.entries[index];
        match &self.clips[entry.dataset_idx] {
            Source::Memory(clips) => Ok(clips[entry.row].clone()),
            Source::Stored(dataset) => {
                let fetch = || dataset.read_row_group(entry.shard, entry.row_group);
                self.row_groups.get(entry.row_key(), fetch).await
            }
        }
    }

    /// Row groups that were read so far, from a store or the cache on disk.
    pub fn n_row_groups_read(&self) -> u64 {
        self.row_groups.n_fetched()
    }

    /// What is held of the datasets.
    pub(crate) fn row_groups(&self) -> &RowGroups {
        &self.row_groups
    }

    /// The row that is sample `index`, and the bytes of its row group; `None` for a dataset in memory.
    pub(crate) fn row(&self, index: usize) -> Option<(RowKey, u64)> {
        let entry = &self.entries[index];
        match &self.clips[entry.dataset_idx] {
            Source::Memory(_) => None,
            Source::Stored(dataset) => {
                let shard = &dataset.manifest().shards[entry.shard];
                Some((
                    entry.row_key(),
                    shard.row_groups[entry.row_group].data.bytes,
                ))
            }
        }
    }

    fn empty(memory_bytes: u64) -> Self {
        Self {
            datasets: Vec::new(),
            entries: Vec::new(),
            clips: Vec::new(),
            row_groups: RowGroups::new(memory_bytes),
        }
    }

    fn add(
        &mut self,
        header: DatasetHeader,
        hash: [u8; 32],
        source: &DataSource,
        metas: impl ExactSizeIterator<Item = (Place, ClipMeta)>,
    ) {
        let dataset_idx = self.datasets.len();
        let begin = self.entries.len();
        // Of each run of `n / limit` samples one, so that a limit keeps what the whole dataset is like.
        let n = metas.len();
        let limit = source.limit.map_or(n, |limit| limit.min(n));
        let is_kept = |i: usize| (i + 1) * limit / n > i * limit / n;
        let kept = metas.enumerate().filter(|(i, _)| is_kept(*i));
        let entries = kept.map(|(_, (place, meta))| entry(dataset_idx, place, meta));
        self.entries.extend(entries);
        self.datasets.push(CatalogDataset {
            header,
            source: source.clone(),
            samples: begin..self.entries.len(),
            hash,
        });
    }

    fn check(&self) -> Result<()> {
        if self.datasets.is_empty() {
            return Err(Error::invalid("data", "at least one dataset", "none"));
        }
        for dataset in &self.datasets {
            let name = &dataset.header.dataset;
            if dataset.samples.is_empty() {
                return Err(Error::invalid(name, "at least one sample", "none"));
            }
            if self.names().filter(|other| *other == name).count() > 1 {
                let expected = "datasets of different names, which their sample ids begin with";
                return Err(Error::invalid("data", expected, format!("{name} twice")));
            }
        }
        Ok(())
    }
}

impl SampleEntry {
    fn row_key(&self) -> RowKey {
        ((self.dataset_idx, self.shard, self.row_group), self.row)
    }
}

async fn open_one(
    source: &DataSource,
    purpose: Purpose,
    disk: Option<Arc<DiskCache>>,
) -> Result<(Dataset, Vec<ClipMeta>)> {
    let store = Store::open(&source.uri)?;
    let dataset = Dataset::open(&store).await?.cached_in(disk);
    let found = dataset.manifest().header.purpose;
    if found != purpose {
        return Err(Error::invalid(
            store.uri(),
            format!("a dataset for {purpose}"),
            format!("one for {found}: labels of a benchmark never reach training"),
        ));
    }
    let metas = dataset.read_all_metas().await?;
    Ok((dataset, metas))
}

/// Where the clips of a dataset stand, in their order.
fn places(dataset: &Dataset) -> impl Iterator<Item = Place> {
    let shards = dataset.manifest().shards.iter().enumerate();
    shards.flat_map(|(shard_idx, shard)| {
        let groups = shard.row_groups.iter().enumerate();
        groups.flat_map(move |(group_idx, group)| {
            (0..group.rows as usize).map(move |row| (shard_idx, group_idx, row))
        })
    })
}

fn entry(dataset_idx: usize, (shard, row_group, row): Place, meta: ClipMeta) -> SampleEntry {
    let mut descriptions: Vec<String> = Vec::new();
    for text in meta.objects.iter().flat_map(|object| &object.descriptions) {
        if !descriptions.contains(text) {
            descriptions.push(text.clone());
        }
    }
    SampleEntry {
        dataset_idx,
        descriptions,
        clip: meta,
        shard,
        row_group,
        row,
    }
}
