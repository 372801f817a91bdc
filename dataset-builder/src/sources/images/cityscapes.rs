//! Cityscapes: street scenes with a map of label ids each.
//!
//! Eight classes become objects, as in the reference (`CitySpaceDataset`); the other classes are recorded as present. Six
//! categories a prompt at most.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "Cityscapes: ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and \
                      ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png";

/// Label ids (not train ids) of the classes that become objects.
const OBJECTS: [(u8, &str); 8] = [
    (19, "traffic light"),
    (20, "traffic sign"),
    (22, "terrain"),
    (27, "truck"),
    (28, "bus"),
    (31, "train"),
    (32, "motorcycle"),
    (33, "bicycle"),
];

/// Label ids of the classes that are only recorded.
const SCENERY: [(u8, &str); 19] = [
    (6, "ground"),
    (7, "road"),
    (8, "sidewalk"),
    (9, "parking"),
    (10, "rail track"),
    (11, "building"),
    (12, "wall"),
    (13, "fence"),
    (14, "guard rail"),
    (15, "bridge"),
    (16, "tunnel"),
    (17, "pole"),
    (18, "pole group"),
    (21, "vegetation"),
    (23, "sky"),
    (24, "person"),
    (25, "rider"),
    (26, "car"),
    (29, "caravan"),
];

/// Most categories a prompt names. Reference: `n_anomalies`.
const MAX_CATEGORIES: usize = 6;

/// Where Cityscapes lies.
#[derive(Args, Clone, Debug)]
pub struct CityscapesArgs {
    /// Folder holding leftImg8bit/ and gtFine/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part (the labels of `test` are not published)
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for CityscapesArgs {
    const NAME: &'static str = "cityscapes";
    const HELP: &'static str = "Cityscapes: street scenes";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Cityscapes::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let split = ["train", "val"].into_iter().find(|split| {
            dir.join("leftImg8bit").join(split).is_dir() && dir.join("gtFine").join(split).is_dir()
        })?;
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
        })
    }
}

/// A Cityscapes split whose folders have been listed.
struct Cityscapes {
    naming: Naming,
    labels_dir: PathBuf,
    /// City and image file.
    images: Vec<(String, PathBuf)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl Cityscapes {
    /// Lists the images of every city.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout.
    fn open(args: &CityscapesArgs, dataset: &str) -> Result<Self> {
        let images_dir = args.root.join("leftImg8bit").join(&args.split);
        let labels_dir = args.root.join("gtFine").join(&args.split);
        files::require_dir(&images_dir, LAYOUT)?;
        if !labels_dir.is_dir() && args.root.join("gtCoarse").is_dir() {
            let found =
                "gtCoarse, the coarse annotations: gtFine_trainvaltest.zip has the fine ones";
            return Err(Error::invalid(labels_dir.display(), LAYOUT, found));
        }
        files::require_dir(&labels_dir, LAYOUT)?;
        let mut digest = InputDigest::default();
        let mut images = Vec::new();
        let mut planned_skips = Vec::new();
        for city_dir in files::list_dirs(&images_dir)? {
            let city = files::name(&city_dir);
            for path in files::list_files(&city_dir, &["png"])? {
                digest.add(files::name(&path));
                if files::stem(&path).ends_with("_leftImg8bit") {
                    images.push((city.clone(), path));
                } else {
                    planned_skips.push(Skip::new(
                        Reason::MissingMask,
                        path.display(),
                        "a name that ends in _leftImg8bit.png",
                        "another name",
                    ));
                }
            }
        }
        if images.is_empty() {
            return Err(files::layout_error(&images_dir, LAYOUT));
        }
        let labels = files::list_files_below(&labels_dir, &["png"])?;
        let end_in = |ending: &str| {
            labels
                .iter()
                .any(|path| files::stem(path).ends_with(ending))
        };
        if !end_in("_gtFine_labelIds") && end_in("_gtFine_labelTrainIds") {
            let found = "train ids (*_gtFine_labelTrainIds.png), which number other classes: the zip holds label ids too";
            return Err(Error::invalid(labels_dir.display(), LAYOUT, found));
        }
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            labels_dir,
            images,
            planned_skips,
            digest,
        })
    }
}

fn class_of(index: u8) -> Class<'static> {
    let name_in = |table: &'static [(u8, &'static str)]| {
        table
            .iter()
            .find(|(id, _)| *id == index)
            .map(|(_, name)| *name)
    };
    match (name_in(&OBJECTS), name_in(&SCENERY)) {
        (Some(name), _) => Class::Object(name),
        (None, Some(name)) => Class::Scenery(name),
        // 0 to 5: outside the scene or the camera's own car; 30: trailer, too rare for a name.
        (None, None) if index <= 5 || index == 30 => Class::Nothing,
        // The camera's car is -1, which eight bits hold as 255 in train ids alone.
        (None, None) if index == 255 => {
            Class::Foreign("a mark of train ids, which number other classes")
        }
        (None, None) => Class::Unknown,
    }
}

impl Source for Cityscapes {
    fn header(&self) -> DatasetHeader {
        let vocabulary = OBJECTS.map(|(_, name)| name.to_owned()).to_vec();
        DatasetHeader {
            max_categories: MAX_CATEGORIES,
            ..training_header(
                &self.naming,
                CategorySource::Vocabulary(vocabulary),
                Positives::One,
                serde_json::json!({ "source": CityscapesArgs::NAME }),
            )
        }
    }

    fn n_units(&self) -> usize {
        self.images.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (city, image) = &self.images[unit];
        let stem = files::stem(image);
        let video = stem.trim_end_matches("_leftImg8bit");
        let map = self
            .labels_dir
            .join(city)
            .join(format!("{video}_gtFine_labelIds.png"));
        Ok(class_map_unit(&self.naming, video, image, &map, class_of))
    }
}
