//! YouTube-VOS: frames, one palette PNG a frame, and `meta.json` naming the category of every object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::meta_json::read_categories;
use crate::read::names::{is_name, readable};
use crate::read::palette::load_palette_video;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "YouTube-VOS: ROOT/SPLIT/JPEGImages/VIDEO/*.jpg, ROOT/SPLIT/Annotations/VIDEO/*.png and ROOT/SPLIT/meta.json";

/// Pixels that belong to nothing in particular, unless `meta.json` has such an object.
const VOID: u8 = 255;

/// Where YouTube-VOS lies.
#[derive(Args, Clone, Debug)]
pub struct YoutubeVosArgs {
    /// Folder holding the split's folder, or that folder itself
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for YoutubeVosArgs {
    const NAME: &'static str = "youtube-vos";
    const HELP: &'static str = "YouTube-VOS";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(YoutubeVos::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let split = ["train", "valid", ""].into_iter().find(|split| {
            let has = |name: &str| dir.join(split).join(name).exists();
            has("JPEGImages")
                && has("Annotations")
                && has("meta.json")
                && !dir.join("meta_expressions").is_dir()
        })?;
        let split = if split.is_empty() { "train" } else { split };
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
        })
    }
}

/// A YouTube-VOS split whose `meta.json` has been read.
struct YoutubeVos {
    naming: Naming,
    dir: PathBuf,
    videos: Vec<(String, BTreeMap<String, Option<String>>)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl YoutubeVos {
    /// Reads `meta.json`; its videos are the videos of the split.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout, [`lavida_store::Error::Corrupt`] for a cut `meta.json`.
    fn open(args: &YoutubeVosArgs, dataset: &str) -> Result<Self> {
        let dir = files::split_dir(&args.root, &args.split);
        files::require_dir(&dir.join("JPEGImages"), LAYOUT)?;
        let vis = ["instances.json", "train.json", "meta.json"].map(|name| dir.join(name));
        if !dir.join("Annotations").is_dir() && vis.iter().any(|file| file.is_file()) {
            let found = format!(
                "{}: masks inside of a JSON file are YouTube-VIS, which is another format",
                files::describe(&dir)
            );
            return Err(Error::invalid(
                dir.join("Annotations").display(),
                LAYOUT,
                found,
            ));
        }
        files::require_dir(&dir.join("Annotations"), LAYOUT)?;
        let mut digest = InputDigest::default();
        let categories = read_categories(&dir.join("meta.json"), &mut digest)?;
        let planned_skips = files::list_dirs(&dir.join("JPEGImages"))?
            .iter()
            .filter(|video| !categories.contains_key(&files::name(video)))
            .map(|video| {
                Skip::new(
                    Reason::IncompleteVideo,
                    video.display(),
                    "an entry in meta.json",
                    "none",
                )
            })
            .collect();
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            dir,
            videos: categories.into_iter().collect(),
            planned_skips,
            digest,
        })
    }
}

impl Source for YoutubeVos {
    fn header(&self) -> DatasetHeader {
        let names = self
            .videos
            .iter()
            .flat_map(|(_, objects)| objects.values().flatten());
        let names = names.filter(|name| is_name(name));
        let vocabulary: BTreeSet<String> = names.map(|name| readable(name)).collect();
        training_header(
            &self.naming,
            CategorySource::Vocabulary(vocabulary.into_iter().collect()),
            Positives::All,
            serde_json::json!({ "source": YoutubeVosArgs::NAME }),
        )
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (name, categories) = &self.videos[unit];
        let mut skips = Vec::new();
        let frames_dir = self.dir.join("JPEGImages").join(name);
        let masks_dir = self.dir.join("Annotations").join(name);
        let Some(palette) = load_palette_video(name, &frames_dir, &masks_dir, &mut skips)? else {
            return Ok(SourceUnit::empty(skips));
        };
        let mut tracks: Vec<ObjectTrack> = Vec::new();
        for (index, masks) in palette.masks {
            let id = index.to_string();
            if index == VOID && !categories.contains_key(&id) {
                continue;
            }
            let category = categories.get(&id).and_then(Option::as_ref);
            let category = category.filter(|name| is_name(name));
            let Some(category) = category.map(|name| readable(name)) else {
                skips.push(Skip::new(
                    Reason::UnknownCategory,
                    format!("{}: object {id}", masks_dir.display()),
                    format!(
                        "one of the objects that meta.json names ({})",
                        join(categories.keys())
                    ),
                    id,
                ));
                continue;
            };
            tracks.push(ObjectTrack {
                id,
                descriptions: vec![category.clone()],
                category: Some(category),
                masks,
                anomalous: None,
            });
        }
        let clips = cut_rows(
            &self.naming,
            Purpose::Training,
            palette.video,
            &tracks,
            None,
            &mut skips,
        );
        Ok(SourceUnit { clips, skips })
    }
}

fn join<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
