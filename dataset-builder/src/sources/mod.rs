//! Source datasets: each file reads one published layout and yields rows.
//!
//! A source is opened once (annotation files are read, folders listed), then loaded unit by unit, in parallel and in any
//! order. A unit is an image or a video: what can be read without its neighbours.

mod ade20k;
mod coco;
mod davis;
mod mevis;
mod ucsd_ped;
mod youtube_vos;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lavida_data::clip::Clip;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::Result;

pub use ade20k::{Ade20k, Ade20kArgs, Ade20kSplit};
pub use coco::{Coco, CocoArgs};
pub use davis::{Davis, DavisArgs};
pub use mevis::{Mevis, MevisArgs};
pub use ucsd_ped::{UcsdPed, UcsdPedArgs};
pub use youtube_vos::{YoutubeVos, YoutubeVosArgs};

use crate::skip::Skip;
use crate::video::Naming;

/// Most categories a prompt names, for sources that do not ask for fewer. Reference: `n_anomalies`.
pub const MAX_CATEGORIES: usize = 30;

/// The rows of one image or video, and what was left out of it.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Rows in order.
    pub clips: Vec<Clip>,
    /// What was left out, in the order in which it was met.
    pub skips: Vec<Skip>,
}

impl Unit {
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
    fn load(&self, unit: usize) -> Result<Unit>;
}

/// Which source dataset, and where it lies.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    /// [`Coco`]
    Coco(CocoArgs),
    /// [`Ade20k`]
    Ade20k(Ade20kArgs),
    /// [`Davis`]
    Davis(DavisArgs),
    /// [`YoutubeVos`]
    YoutubeVos(YoutubeVosArgs),
    /// [`Mevis`]
    Mevis(MevisArgs),
    /// [`UcsdPed`]
    UcsdPed(UcsdPedArgs),
}

impl SourceSpec {
    /// The source's name on the command line, and its dataset's name unless it is renamed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Coco(_) => "coco",
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

/// `ROOT/SPLIT` where that is a folder, else `ROOT`, so that the split's own folder may be given.
fn split_dir(root: &Path, split: &str) -> PathBuf {
    let dir = root.join(split);
    if dir.is_dir() { dir } else { root.to_owned() }
}
