//! Mapillary Vistas: street scenes with a map of class indices each.
//!
//! One zip holds the labels of versions 1.2 (66 classes) and 2.0 (124), named by `config_v1.2.json` and `config_v2.0.json`; the
//! oldest zip has one version, no folder for it and `config.json`. The newest that is there is taken unless told otherwise.
//!
//! Every class but "unlabeled" becomes an object, as in the reference (`MapillaryDataset`). Twenty categories a prompt at most.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::Result;
use serde::Deserialize;

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::pictures::IMAGE_ENDINGS;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "Mapillary Vistas: ROOT/SPLIT/images/*.jpg, ROOT/SPLIT/v2.0/labels/*.png and ROOT/config_v2.0.json; v1.2 in \
                      the place of v2.0, or in the oldest zip ROOT/SPLIT/labels and ROOT/config.json";

/// Most categories a prompt names. Reference: `n_anomalies`.
const MAX_CATEGORIES: usize = 20;

/// Where Mapillary Vistas lies.
#[derive(Args, Clone, Debug)]
pub struct MapillaryArgs {
    /// Folder holding training/, validation/ and config_v2.0.json
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, default_value = "training")]
    pub split: String,
    /// Whose labels: 2.0, 1.2, or oldest for a zip without versions [default: the newest there]
    #[arg(long, value_enum)]
    pub version: Option<MapillaryVersion>,
}

/// A version of the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MapillaryVersion {
    /// 124 classes
    #[value(name = "2.0")]
    V2,
    /// 66 classes
    #[value(name = "1.2")]
    V1_2,
    /// A zip without versions
    Oldest,
}

impl MapillaryVersion {
    const ALL: [Self; 3] = [Self::V2, Self::V1_2, Self::Oldest];

    fn labels(self, split: &Path) -> PathBuf {
        split.join(match self {
            Self::V2 => "v2.0/labels",
            Self::V1_2 => "v1.2/labels",
            Self::Oldest => "labels",
        })
    }

    fn config(self, root: &Path) -> PathBuf {
        root.join(match self {
            Self::V2 => "config_v2.0.json",
            Self::V1_2 => "config_v1.2.json",
            Self::Oldest => "config.json",
        })
    }

    /// The newest whose labels are there.
    fn found(split: &Path) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.labels(split).is_dir())
    }
}

impl SourceArgs for MapillaryArgs {
    const NAME: &'static str = "mapillary";
    const HELP: &'static str = "Mapillary Vistas: street scenes";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Mapillary::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let split = ["training", "validation"].into_iter().find(|split| {
            let version = MapillaryVersion::found(&dir.join(split));
            version.is_some_and(|version| version.config(dir).is_file())
        })?;
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
            version: None,
        })
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    labels: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    readable: String,
}

/// A Mapillary split whose folders have been listed.
struct Mapillary {
    naming: Naming,
    labels_dir: PathBuf,
    /// Name by index, lower case.
    names: Vec<String>,
    images: Vec<PathBuf>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl Mapillary {
    /// Reads the class names and lists the images.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout, [`lavida_store::Error::Corrupt`] for a cut
    /// config file.
    fn open(args: &MapillaryArgs, dataset: &str) -> Result<Self> {
        let split_dir = args.root.join(&args.split);
        let images_dir = split_dir.join("images");
        files::require_dir(&images_dir, LAYOUT)?;
        let version = args.version.or_else(|| MapillaryVersion::found(&split_dir));
        let version = version.ok_or_else(|| files::layout_error(&split_dir, LAYOUT))?;
        let labels_dir = version.labels(&split_dir);
        files::require_dir(&labels_dir, LAYOUT)?;
        let mut digest = InputDigest::default();
        let config: ConfigFile = files::read_json(
            &version.config(&args.root),
            "`{\"labels\": [{\"readable\": name}, …]}`",
            &mut digest,
        )?;
        let images = files::list_files(&images_dir, &IMAGE_ENDINGS)?;
        images.iter().for_each(|path| digest.add(files::name(path)));
        let stems: BTreeSet<String> = images.iter().map(|path| files::stem(path)).collect();
        let maps = files::list_files(&labels_dir, &["png"])?;
        let alone = maps
            .iter()
            .filter(|path| !stems.contains(&files::stem(path)));
        let planned_skips = alone.map(|path| {
            let expected = format!("an image of this name in {}", images_dir.display());
            Skip::new(Reason::MissingImage, path.display(), expected, "none")
        });
        let planned_skips = planned_skips.collect();
        if images.is_empty() {
            return Err(files::layout_error(&images_dir, LAYOUT));
        }
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            labels_dir,
            names: config
                .labels
                .iter()
                .map(|label| label.readable.to_lowercase())
                .collect(),
            images,
            planned_skips,
            digest,
        })
    }

    fn class_of(&self, index: u8) -> Class<'_> {
        match self.names.get(usize::from(index)).map(String::as_str) {
            Some("unlabeled") => Class::Nothing,
            Some(name) => Class::Object(name),
            None if index == 255 => Class::Nothing,
            None => Class::Unknown,
        }
    }
}

impl Source for Mapillary {
    fn header(&self) -> DatasetHeader {
        let vocabulary: BTreeSet<&String> = self
            .names
            .iter()
            .filter(|name| *name != "unlabeled")
            .collect();
        DatasetHeader {
            max_categories: MAX_CATEGORIES,
            ..training_header(
                &self.naming,
                CategorySource::Vocabulary(vocabulary.into_iter().cloned().collect()),
                Positives::One,
                serde_json::json!({ "source": MapillaryArgs::NAME }),
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
        let image = &self.images[unit];
        let video = files::stem(image);
        let map = self.labels_dir.join(format!("{video}.png"));
        Ok(class_map_unit(&self.naming, &video, image, &map, |index| {
            self.class_of(index)
        }))
    }
}
