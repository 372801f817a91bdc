//! Mapillary Vistas 2.0: street scenes with a map of class indices each, named by `config_v2.0.json`.
//!
//! Every class but "unlabeled" becomes an object, as in the reference (`MapillaryDataset`). Twenty categories a prompt at most.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::Result;
use serde::Deserialize;

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::rows::{Naming, SourceUnit};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "Mapillary Vistas: ROOT/SPLIT/images/*.jpg, ROOT/SPLIT/v2.0/labels/*.png and \
                      ROOT/config_v2.0.json";

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
}

impl SourceArgs for MapillaryArgs {
    const NAME: &'static str = "mapillary";
    const HELP: &'static str = "Mapillary Vistas 2.0: street scenes";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Mapillary::open(self, dataset)?))
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
        let images_dir = args.root.join(&args.split).join("images");
        let labels_dir = args.root.join(&args.split).join("v2.0/labels");
        files::require_dir(&images_dir, LAYOUT)?;
        files::require_dir(&labels_dir, LAYOUT)?;
        let mut digest = InputDigest::default();
        let config: ConfigFile = files::read_json(
            &args.root.join("config_v2.0.json"),
            "`{\"labels\": [{\"readable\": name}, …]}`",
            &mut digest,
        )?;
        let images = files::list_files(&images_dir, &["jpg", "jpeg"])?;
        images.iter().for_each(|path| digest.add(files::name(path)));
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            labels_dir,
            names: config
                .labels
                .iter()
                .map(|label| label.readable.to_lowercase())
                .collect(),
            images,
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

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let image = &self.images[unit];
        let video = files::stem(image);
        let map = self.labels_dir.join(format!("{video}.png"));
        Ok(class_map_unit(&self.naming, &video, image, &map, |index| {
            self.class_of(index)
        }))
    }
}
