//! A built evaluation set, opened: its videos, what is asked of them, and what each is known to show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lavida_data::{
    Error, Result,
    catalog::{Catalog, DataSource},
    manifest::Purpose,
};

use crate::{
    frames::FrameSource,
    pixels,
    protocols::{BenchmarkFile, Protocol},
};

/// An evaluation set, opened.
pub struct Benchmark {
    /// Its name.
    pub name: String,
    /// Every row of it.
    pub catalog: Arc<Catalog>,
    /// Categories that are asked for.
    pub categories: Vec<String>,
    /// Categories that a video shows, by its name, where the set knows.
    pub true_categories: BTreeMap<String, Vec<String>>,
    /// Its videos, in the set's order.
    pub videos: Vec<BenchmarkVideo>,
    /// The file that it is scored by, where one was named.
    pub file: Option<BenchmarkFile>,
}

/// One video of a benchmark.
#[derive(Clone, Debug)]
pub struct BenchmarkVideo {
    /// Its name.
    pub name: String,
    /// First frame → row of the catalog.
    pub rows: BTreeMap<usize, usize>,
    /// Frames of the video.
    pub n_frames: usize,
}

impl Benchmark {
    /// Opens an evaluation set; `asked` replaces its categories.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a set of another purpose, and where neither it nor the caller says what to ask for.
    pub async fn open(uri: &str, asked: Option<Vec<String>>) -> Result<Self> {
        let source = DataSource::new(uri);
        let catalog = Catalog::open(&[source], Purpose::Evaluation).await?;
        let header = &catalog.datasets()[0].header;
        let categories = asked.or_else(|| header.eval_categories.clone());
        let categories = categories.ok_or_else(|| {
            let expected = "categories to ask for: the set names none, give --categories";
            Error::invalid(uri, expected, "none")
        })?;
        let mut order: Vec<&str> = Vec::new();
        let mut videos: BTreeMap<&str, BenchmarkVideo> = BTreeMap::new();
        for (row, entry) in catalog.entries().iter().enumerate() {
            let video = videos.entry(&entry.video).or_insert_with(|| {
                order.push(&entry.video);
                BenchmarkVideo {
                    name: entry.video.clone(),
                    rows: BTreeMap::new(),
                    n_frames: 0,
                }
            });
            video.rows.insert(entry.first_frame as usize, row);
            let end = (entry.first_frame + entry.n_frames()) as usize;
            video.n_frames = video.n_frames.max(end);
        }
        let videos = order.iter().map(|name| videos[name].clone()).collect();
        Ok(Self {
            name: header.dataset.clone(),
            categories,
            true_categories: header.true_categories.clone(),
            videos,
            catalog: Arc::new(catalog),
            file: None,
        })
    }

    /// Opens the set of a benchmark; `asked` replaces the categories of its file.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`Error::Invalid`] for a set of another name and for one without the benchmark's videos.
    pub async fn open_as(
        uri: &str,
        file: &BenchmarkFile,
        asked: Option<Vec<String>>,
    ) -> Result<Self> {
        let asked = asked.unwrap_or_else(|| file.categories.clone());
        let mut benchmark = Self::open(uri, Some(asked)).await?;
        if benchmark.name != file.set {
            let expected = format!("a set named {}, as {} is built", file.set, file.title);
            return Err(Error::invalid(uri, expected, &benchmark.name));
        }
        if let Some(prefix) = &file.videos {
            let begins = |video: &BenchmarkVideo| video.name.starts_with(prefix.as_str());
            benchmark.videos.retain(begins);
            if benchmark.videos.is_empty() {
                let expected = format!("videos whose names begin with {prefix}");
                return Err(Error::invalid(uri, expected, "none"));
            }
        }
        benchmark.name.clone_from(&file.name);
        benchmark.file = Some(file.clone());
        Ok(benchmark)
    }

    /// The scene of a video, where the benchmark's file says how its names tell it.
    pub fn scene_of<'a>(&self, video: &'a str) -> Option<&'a str> {
        self.file.as_ref().and_then(|file| file.scene_of(video))
    }

    /// How it is scored.
    pub fn protocol(&self) -> Protocol {
        let header = &self.catalog.datasets()[0].header;
        Protocol::of(header.protocol.as_deref().unwrap_or(&self.name))
    }

    /// The frames of one video.
    pub fn source(&self, video: &BenchmarkVideo) -> FrameSource {
        FrameSource::dataset(self.catalog.clone(), video.clone())
    }

    /// The grid on which the pixels of a video are scored: height, width.
    pub fn grid_of(&self, video: &BenchmarkVideo) -> [usize; 2] {
        let row = video.rows.values().next().copied().unwrap_or_default();
        let entry = self.catalog.entry(row);
        pixels::grid_of(entry.height, entry.width)
    }

    /// What is asked for and not in the video, as far as the set knows.
    pub(crate) fn absent_categories(&self, video: &BenchmarkVideo) -> Vec<String> {
        let truth = self.true_categories.get(&video.name);
        let shown: BTreeSet<&String> = truth.into_iter().flatten().collect();
        let asked = self.categories.iter();
        asked.filter(|c| !shown.contains(c)).cloned().collect()
    }

    /// Whether every video can be asked for categories that it does not show.
    pub(crate) fn check_swap_control(&self) -> Result<()> {
        let refused =
            |expected: &str, found: String| Err(Error::invalid("--swap-control", expected, found));
        if self.true_categories.is_empty() {
            let expected = "a set that knows each video's true categories";
            return refused(expected, self.name.clone());
        }
        let mut videos = self.videos.iter();
        match videos.find(|video| self.absent_categories(video).is_empty()) {
            None => Ok(()),
            Some(video) => refused(
                "a category for each video that it does not show",
                format!("{}, which shows all that are asked for", video.name),
            ),
        }
    }

    /// Whether any video has a mask that says where its anomaly is.
    pub(crate) fn has_masks(&self) -> bool {
        let mut objects = self.catalog.entries().iter().flat_map(|row| &row.objects);
        objects.any(|object| object.anomalous == Some(true))
    }
}
