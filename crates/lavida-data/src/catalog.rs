//! Every sample of one or several datasets, known without reading an image.
//!
//! The catalog is what the sample order numbers and what the exposure sampler draws distractors
//! from: ids, texts, categories and where each clip lies. It is read once from the metadata columns;
//! [`Catalog::read`] then fetches single clips through a cache of row groups.

use std::collections::BTreeMap;
use std::ops::Range;

use futures::stream::{self, StreamExt, TryStreamExt};
use lavida_store::Store;
use serde::{Deserialize, Serialize};

use crate::cache::RowGroupCache;
use crate::clip::Clip;
use crate::dataset::{ClipMeta, Dataset, DatasetHeader, Purpose};
pub use crate::schema::ObjectMeta;
use crate::seed::SeedId;
use crate::{Error, Result};

/// Bytes of decoded row groups kept when nothing else is said: a few dozen of the largest.
pub const DEFAULT_CACHE_BYTES: u64 = 512 << 20;

/// Requests for metadata on their way at once.
const N_REQUESTS: usize = 8;

/// A dataset to read and its share of the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// Where the dataset lies.
    pub uri: String,
    /// Share of the samples relative to the other sources'. Given for all sources or for none;
    /// none means that each has the weight of its size, so an epoch sees every sample once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

/// One dataset of a catalog.
#[derive(Clone, Debug)]
pub struct CatalogDataset {
    /// What its manifest says of it.
    pub header: DatasetHeader,
    /// Share of the samples relative to the other datasets'; `None` for all means their sizes.
    pub weight: Option<f64>,
    /// Where its samples stand in the catalog.
    pub samples: Range<usize>,
    /// Identity of its data ([`crate::manifest::DatasetManifest::hash`]).
    pub hash: [u8; 32],
}

/// What is known of a sample without reading its pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleEntry {
    /// Index of its dataset in [`Catalog::datasets`].
    pub dataset_idx: usize,
    /// Unique inside its dataset.
    pub id: String,
    /// Video (or image) the frames come from.
    pub video: String,
    /// True for clips of a video source.
    pub is_video: bool,
    /// Index in the video of its first frame.
    pub first_frame: u32,
    /// Frames per second, where the source says.
    pub fps: Option<f32>,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// Frames of the clip.
    pub n_frames: u32,
    /// Every text that names one of its objects, each once, in the order of the objects.
    pub descriptions: Vec<String>,
    /// Its objects without their masks.
    pub objects: Vec<ObjectMeta>,
    /// Every category seen in its frames (class datasets).
    pub present_categories: Vec<String>,
    /// Evaluation only.
    pub frame_labels: Option<Vec<bool>>,
    /// Shard of the dataset.
    pub shard: usize,
    /// Row group of the shard.
    pub row_group: usize,
    /// Row of the row group.
    pub row: usize,
}

/// A dataset in memory, for tests and demonstrations.
#[derive(Clone, Debug)]
pub struct MemoryDataset {
    /// As a manifest would have it.
    pub header: DatasetHeader,
    /// The clips; they are not validated.
    pub clips: Vec<Clip>,
    /// As in [`DataSource`].
    pub weight: Option<f64>,
}

/// The samples of one or several datasets.
pub struct Catalog {
    datasets: Vec<CatalogDataset>,
    entries: Vec<SampleEntry>,
    clips: Vec<Source>,
    cache: RowGroupCache,
}

enum Source {
    Stored(Dataset),
    Memory(Vec<Clip>),
}

impl Catalog {
    /// Reads the manifests and the metadata of all sources.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a source, for a source of another purpose (labels of a benchmark
    /// never reach training) or weights that are not shares; otherwise as [`Dataset::open`].
    pub async fn open(sources: &[DataSource], purpose: Purpose) -> Result<Self> {
        Self::open_with_cache(sources, purpose, DEFAULT_CACHE_BYTES).await
    }

    /// Mixes the datasets by `weights`, by name, instead of in proportion to their samples.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a dataset without a weight, and for weights that are not above 0. A weight for a
    /// dataset that is not here is fine: one settings file serves several mixtures.
    pub fn with_weights(mut self, weights: &BTreeMap<String, f64>) -> Result<Self> {
        for dataset in &mut self.datasets {
            let name = &dataset.header.dataset;
            let weight = weights.get(name).copied();
            dataset.weight = Some(weight.ok_or_else(|| {
                let known = weights.keys().cloned().collect::<Vec<_>>().join(", ");
                Error::invalid(
                    "sampler.weights",
                    format!("a weight for {name}"),
                    format!("weights for {known}"),
                )
            })?);
        }
        self.check()?;
        Ok(self)
    }

    /// [`Self::open`] with room for `cache_bytes` of decoded row groups.
    pub async fn open_with_cache(
        sources: &[DataSource],
        purpose: Purpose,
        cache_bytes: u64,
    ) -> Result<Self> {
        let mut catalog = Self::empty(cache_bytes);
        for source in sources {
            let store = Store::open(&source.uri)?;
            let dataset = Dataset::open(&store).await?;
            let header = dataset.manifest().header.clone();
            if header.purpose != purpose {
                return Err(Error::invalid(
                    store.uri(),
                    format!("a dataset for {purpose}"),
                    format!(
                        "one for {}: labels of a benchmark never reach training",
                        header.purpose
                    ),
                ));
            }
            let metas = read_metas(&dataset).await?;
            let hash = dataset.manifest().hash();
            catalog.add(header, hash, source.weight, metas);
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
            clips,
            weight,
        } in datasets
        {
            let mut hasher = blake3::Hasher::new();
            header.dataset.feed(&mut hasher);
            for clip in &clips {
                clip.id.feed(&mut hasher);
            }
            let hash = *hasher.finalize().as_bytes();
            let metas = clips.iter().map(ClipMeta::of).enumerate();
            let metas = metas.map(|(row, meta)| (0, 0, row, meta)).collect();
            catalog.add(header, hash, weight, metas);
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

    /// The dataset that sample `index` belongs to.
    pub fn dataset_of(&self, index: usize) -> &CatalogDataset {
        &self.datasets[self.entries[index].dataset_idx]
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
        for dataset in &self.datasets {
            hasher.update(&dataset.hash);
            hasher.update(&(dataset.samples.len() as u64).to_le_bytes());
            let weight = dataset.weight.map_or(u64::MAX, f64::to_bits);
            hasher.update(&weight.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// The clip of sample `index`, with its frames and masks.
    ///
    /// # Errors
    ///
    /// As [`Dataset::read_row_group`].
    pub async fn read(&self, index: usize) -> Result<Clip> {
        let entry = &self.entries[index];
        match &self.clips[entry.dataset_idx] {
            Source::Memory(clips) => Ok(clips[entry.row].clone()),
            Source::Stored(dataset) => {
                let key = (entry.dataset_idx, entry.shard, entry.row_group);
                let fetch = || dataset.read_row_group(entry.shard, entry.row_group);
                let clips = self.cache.get(key, fetch).await?;
                Ok(clips[entry.row].clone())
            }
        }
    }

    fn empty(cache_bytes: u64) -> Self {
        Self {
            datasets: Vec::new(),
            entries: Vec::new(),
            clips: Vec::new(),
            cache: RowGroupCache::new(cache_bytes),
        }
    }

    fn add(
        &mut self,
        header: DatasetHeader,
        hash: [u8; 32],
        weight: Option<f64>,
        metas: Vec<(usize, usize, usize, ClipMeta)>,
    ) {
        let dataset_idx = self.datasets.len();
        let begin = self.entries.len();
        let entries = metas
            .into_iter()
            .map(|(shard, row_group, row, meta)| entry(dataset_idx, shard, row_group, row, meta));
        self.entries.extend(entries);
        self.datasets.push(CatalogDataset {
            header,
            weight,
            samples: begin..self.entries.len(),
            hash,
        });
    }

    fn check(&self) -> Result<()> {
        if self.datasets.is_empty() {
            return Err(Error::invalid("data", "at least one dataset", "none"));
        }
        let names = || self.datasets.iter().map(|dataset| &dataset.header.dataset);
        for dataset in &self.datasets {
            let name = &dataset.header.dataset;
            if dataset.samples.is_empty() {
                return Err(Error::invalid(name, "at least one sample", "none"));
            }
            if names().filter(|other| *other == name).count() > 1 {
                let expected = "datasets of different names, which their sample ids begin with";
                return Err(Error::invalid("data", expected, format!("{name} twice")));
            }
            if let Some(weight) = dataset.weight
                && !(weight.is_finite() && weight > 0.0)
            {
                let what = format!("weight of {name}");
                return Err(Error::invalid(what, "a number above 0", weight));
            }
        }
        let n_weights = self
            .datasets
            .iter()
            .filter(|dataset| dataset.weight.is_some())
            .count();
        if n_weights != 0 && n_weights != self.datasets.len() {
            return Err(Error::invalid(
                "data weights",
                "one for every dataset or for none",
                format!("{n_weights} for {} datasets", self.datasets.len()),
            ));
        }
        Ok(())
    }
}

async fn read_metas(dataset: &Dataset) -> Result<Vec<(usize, usize, usize, ClipMeta)>> {
    let groups: Vec<Vec<(usize, usize, usize, ClipMeta)>> = stream::iter(dataset.row_groups())
        .map(|(shard, group)| async move {
            let metas = dataset.read_metas(shard, group).await?;
            let rows = metas.into_iter().enumerate();
            Ok::<_, Error>(rows.map(|(row, meta)| (shard, group, row, meta)).collect())
        })
        .buffered(N_REQUESTS)
        .try_collect()
        .await?;
    Ok(groups.into_iter().flatten().collect())
}

fn entry(
    dataset_idx: usize,
    shard: usize,
    row_group: usize,
    row: usize,
    meta: ClipMeta,
) -> SampleEntry {
    let mut descriptions: Vec<String> = Vec::new();
    for text in meta.objects.iter().flat_map(|object| &object.descriptions) {
        if !descriptions.contains(text) {
            descriptions.push(text.clone());
        }
    }
    SampleEntry {
        dataset_idx,
        id: meta.id,
        video: meta.video,
        is_video: meta.is_video,
        first_frame: meta.first_frame,
        fps: meta.fps,
        width: meta.width,
        height: meta.height,
        n_frames: meta.n_frames,
        descriptions,
        objects: meta.objects,
        present_categories: meta.present_categories,
        frame_labels: meta.frame_labels,
        shard,
        row_group,
        row,
    }
}
