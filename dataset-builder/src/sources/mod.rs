//! Source datasets: each file reads one published layout and yields rows.
//!
//! A source is opened once (annotation files are read, folders listed), then loaded unit by unit, in parallel and in any
//! order. A unit is an image or a video: what can be read without its neighbours.

pub mod ade20k;
pub mod cityscapes;
mod class_map;
pub mod coco;
pub mod coco_panoptic;
pub mod davis;
pub mod mapillary;
pub mod mevis;
pub mod ref_videos;
pub mod shanghaitech;
pub mod ucsd_ped;
pub mod youtube_vos;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lavida_data::clip::{Clip, ObjectTrack};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

pub use ade20k::{Ade20k, Ade20kArgs, Ade20kSplit};
pub use cityscapes::{Cityscapes, CityscapesArgs};
pub use coco::{Coco, CocoArgs};
pub use coco_panoptic::{CocoPanoptic, CocoPanopticArgs};
pub use davis::{Davis, DavisArgs};
pub use mapillary::{Mapillary, MapillaryArgs};
pub use mevis::{Mevis, MevisArgs};
pub use ref_videos::{RefVideos, RefVideosArgs};
pub use shanghaitech::{Shanghaitech, ShanghaitechArgs};
pub use ucsd_ped::{UcsdPed, UcsdPedArgs};
pub use youtube_vos::{YoutubeVos, YoutubeVosArgs};

use crate::pictures::ImageFile;
use crate::skip::Skip;
use crate::video::Naming;

/// Most categories a prompt names, for sources that do not ask for fewer. Reference: `n_anomalies`.
pub const MAX_CATEGORIES: usize = 30;

/// Names of the sources whose datasets are for training. A mixing weight may name any of them.
pub const TRAINING_SOURCES: [&str; 10] = [
    "ade20k",
    "cityscapes",
    "coco",
    "coco-panoptic",
    "davis",
    "mapillary",
    "mevis",
    "ref-davis",
    "ref-youtube-vos",
    "youtube-vos",
];

/// The rows of one image or video, and what was left out of it.
#[derive(Clone, Debug, Default)]
pub struct SourceUnit {
    /// Rows in order.
    pub clips: Vec<Clip>,
    /// What was left out, in the order in which it was met.
    pub skips: Vec<Skip>,
}

impl SourceUnit {
    /// A unit that yields nothing, for one reason.
    pub fn skipped(skip: Skip) -> Self {
        Self {
            clips: Vec::new(),
            skips: vec![skip],
        }
    }
}

/// An opened source dataset.
pub trait Source: Send + Sync {
    /// What the manifest says about the dataset as a whole.
    fn header(&self) -> DatasetHeader;

    /// Images or videos.
    fn n_units(&self) -> usize;

    /// Changes when the annotations or the list of images or videos do: a resumed build must be of the same input.
    fn input_digest(&self) -> String;

    /// What was found to be unusable while opening.
    fn planned_skips(&self) -> &[Skip];

    /// Reads one unit. Blocks on files; called from several threads.
    ///
    /// # Errors
    ///
    /// Only what stops the whole build; a bad annotation is a [`Skip`] of the unit.
    fn load(&self, unit: usize) -> Result<SourceUnit>;
}

/// Which source dataset, and where it lies.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    /// [`Coco`]
    Coco(CocoArgs),
    /// [`CocoPanoptic`]
    CocoPanoptic(CocoPanopticArgs),
    /// [`Ade20k`]
    Ade20k(Ade20kArgs),
    /// [`Cityscapes`]
    Cityscapes(CityscapesArgs),
    /// [`Mapillary`]
    Mapillary(MapillaryArgs),
    /// [`Davis`]
    Davis(DavisArgs),
    /// [`YoutubeVos`]
    YoutubeVos(YoutubeVosArgs),
    /// [`Mevis`]
    Mevis(MevisArgs),
    /// [`RefVideos`], one or two objects a draw
    RefYoutubeVos(RefVideosArgs),
    /// [`RefVideos`], one object a draw
    RefDavis(RefVideosArgs),
    /// [`UcsdPed`]
    UcsdPed(UcsdPedArgs),
    /// [`Shanghaitech`]
    Shanghaitech(ShanghaitechArgs),
}

impl SourceSpec {
    /// The source's name on the command line, and its dataset's name unless it is renamed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Coco(_) => "coco",
            Self::CocoPanoptic(_) => "coco-panoptic",
            Self::Cityscapes(_) => "cityscapes",
            Self::Mapillary(_) => "mapillary",
            Self::RefYoutubeVos(_) => "ref-youtube-vos",
            Self::RefDavis(_) => "ref-davis",
            Self::Shanghaitech(_) => "shanghaitech",
            Self::Ade20k(_) => "ade20k",
            Self::Davis(_) => "davis",
            Self::YoutubeVos(_) => "youtube-vos",
            Self::Mevis(_) => "mevis",
            Self::UcsdPed(_) => "ucsd-ped",
        }
    }

    /// Reads annotation files and lists folders.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the layout is not the source's, [`lavida_store::Error::Corrupt`] when an
    /// annotation file is damaged.
    pub fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(match self {
            Self::Coco(args) => Box::new(Coco::open(args, dataset)?),
            Self::CocoPanoptic(args) => Box::new(CocoPanoptic::open(args, dataset)?),
            Self::Cityscapes(args) => Box::new(Cityscapes::open(args, dataset)?),
            Self::Mapillary(args) => Box::new(Mapillary::open(args, dataset)?),
            Self::RefYoutubeVos(args) => {
                let positives = Positives::OneOrTwo;
                Box::new(RefVideos::open(args, dataset, positives, self.name())?)
            }
            Self::RefDavis(args) => {
                Box::new(RefVideos::open(args, dataset, Positives::One, self.name())?)
            }
            Self::Shanghaitech(args) => Box::new(Shanghaitech::open(args, dataset)?),
            Self::Ade20k(args) => Box::new(Ade20k::open(args, dataset)?),
            Self::Davis(args) => Box::new(Davis::open(args, dataset)?),
            Self::YoutubeVos(args) => Box::new(YoutubeVos::open(args, dataset)?),
            Self::Mevis(args) => Box::new(Mevis::open(args, dataset)?),
            Self::UcsdPed(args) => Box::new(UcsdPed::open(args, dataset)?),
        })
    }
}

/// The header of a training dataset.
fn training_header(
    naming: &Naming,
    category_source: CategorySource,
    positives: Positives,
    settings: serde_json::Value,
) -> DatasetHeader {
    DatasetHeader {
        dataset: naming.dataset.clone(),
        split: naming.split.clone(),
        purpose: Purpose::Training,
        category_source,
        max_categories: MAX_CATEGORIES,
        positives,
        eval_categories: None,
        true_categories: BTreeMap::new(),
        settings,
    }
}

/// The header of an evaluation dataset whose prompt names `categories`.
fn evaluation_header(naming: &Naming, categories: &[String], source: &str) -> DatasetHeader {
    DatasetHeader {
        dataset: naming.dataset.clone(),
        split: naming.split.clone(),
        purpose: Purpose::Evaluation,
        category_source: CategorySource::Vocabulary(categories.to_vec()),
        max_categories: categories.len(),
        positives: Positives::All,
        eval_categories: Some(categories.to_vec()),
        true_categories: BTreeMap::new(),
        settings: serde_json::json!({ "source": source }),
    }
}

/// The categories to ask for: those of the command line, else of the dataset's own file, else the reference's.
///
/// # Errors
///
/// [`Error::Invalid`] for an empty list.
fn category_list(
    asked: Option<&str>,
    of_dataset: Option<Vec<String>>,
    reference: &[&str],
) -> Result<Vec<String>> {
    let names: Vec<String> = match (asked, of_dataset) {
        (Some(list), _) => list.split(',').map(str::to_owned).collect(),
        (None, Some(names)) => names,
        (None, None) => reference.iter().map(|name| (*name).to_owned()).collect(),
    };
    let names: Vec<String> = names
        .iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        let expected = "at least one category to ask for";
        return Err(Error::invalid("categories", expected, "an empty list"));
    }
    Ok(names)
}

/// One image with its objects as a row.
fn image_clip(
    naming: &Naming,
    video: &str,
    picture: ImageFile,
    objects: Vec<ObjectTrack>,
    present: BTreeSet<String>,
) -> Clip {
    Clip {
        id: format!("{}/{video}/0", naming.split),
        dataset: naming.dataset.clone(),
        video: video.to_owned(),
        is_video: false,
        first_frame: 0,
        fps: None,
        width: picture.width,
        height: picture.height,
        frames: vec![picture.frame],
        objects,
        present_categories: present.into_iter().collect(),
        frame_labels: None,
    }
}

/// `ROOT/SPLIT` where that is a folder, else `ROOT`, so that the split's own folder may be given.
fn split_dir(root: &Path, split: &str) -> PathBuf {
    let dir = root.join(split);
    if dir.is_dir() { dir } else { root.to_owned() }
}

/// Whether a category's name can stand in a prompt; a blank one is treated as none.
fn is_name(name: &str) -> bool {
    !name.trim().is_empty()
}
