//! ADE20K scene parsing: one image and one map of 150 class indices each.
//!
//! Twenty classes are background (wall, sky, road, …): never an object, never named as a distractor, but always recorded as
//! present. Every other class of an image is one object: all its pixels together. Index 0 is unlabelled.
//! Reference: `ADE20KDataset`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lavida_data::clip::{Clip, ObjectTrack};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives};
use lavida_store::{Error, Result};

use super::{Source, Unit, training_header};
use crate::files::{self, InputDigest};
use crate::pictures::{IMAGE_ENDINGS, load_index_map, load_picture, masks_by_index};
use crate::skip::{Reason, Skip};
use crate::video::Naming;

const LAYOUT: &str = "ADEChallengeData2016: ROOT/images/SPLIT/*.jpg, ROOT/annotations/SPLIT/*.png and ROOT/objectInfo150.txt";

/// Classes that are scenery. Reference: `BACKGROUND`.
const BACKGROUND: [&str; 20] = [
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "grass", "sidewalk", "earth",
    "mountain", "field", "sea", "sand", "path", "runway", "river", "hill", "land", "lake",
];

/// Which part of ADE20K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ade20kSplit {
    /// 20,210 images
    Training,
    /// 2,000 images
    Validation,
}

/// Where ADE20K lies.
#[derive(Args, Clone, Debug)]
pub struct Ade20kArgs {
    /// Folder holding images/, annotations/ and objectInfo150.txt
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, value_enum, default_value = "training")]
    pub split: Ade20kSplit,
}

/// An ADE20K split whose folders have been listed.
pub struct Ade20k {
    naming: Naming,
    /// Name of index `i + 1`.
    names: Vec<String>,
    images: Vec<PathBuf>,
    annotations_dir: PathBuf,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl Ade20k {
    /// Reads the class names and lists the images.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have ADE20K's layout or the name table cannot be read.
    pub fn open(args: &Ade20kArgs, dataset: &str) -> Result<Self> {
        let split = match args.split {
            Ade20kSplit::Training => "training",
            Ade20kSplit::Validation => "validation",
        };
        let images_dir = args.root.join("images").join(split);
        let annotations_dir = args.root.join("annotations").join(split);
        files::require_dir(&images_dir, LAYOUT)?;
        files::require_dir(&annotations_dir, LAYOUT)?;
        let images = files::list_files(&images_dir, &IMAGE_ENDINGS)?;
        let mut digest = InputDigest::default();
        images.iter().for_each(|path| digest.add(files::name(path)));
        let stems: BTreeSet<String> = images.iter().map(|path| files::stem(path)).collect();
        let planned_skips = files::list_files(&annotations_dir, &["png"])?
            .iter()
            .filter(|path| !stems.contains(&files::stem(path)))
            .map(|path| {
                Skip::new(
                    Reason::MaskWithoutFrame,
                    path.display(),
                    "an image of this name",
                    "none",
                )
            })
            .collect();
        Ok(Self {
            naming: Naming {
                dataset: dataset.to_owned(),
                split: split.to_owned(),
            },
            names: read_names(&args.root.join("objectInfo150.txt"), &mut digest)?,
            images,
            annotations_dir,
            planned_skips,
            digest,
        })
    }
}

/// The first name of every class: `1<tab>0.1576<tab>11664<tab>1172<tab>wall`, later names after commas.
///
/// Later names are not used: a name that only ever occurs as the true category would give the answer away.
fn read_names(path: &Path, digest: &mut InputDigest) -> Result<Vec<String>> {
    const FORM: &str = "a table `Idx Ratio Train Val Name` of ADE20K's classes";
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::invalid(
            path.display(),
            FORM,
            format!("{} ({error})", files::describe(path)),
        )
    })?;
    digest.add(&text);
    let mut names = Vec::new();
    for (row, line) in text
        .lines()
        .enumerate()
        .skip(1)
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let columns: Vec<&str> = line.split('\t').collect();
        let index = columns
            .first()
            .and_then(|index| index.trim().parse::<usize>().ok());
        let name = columns
            .get(4)
            .and_then(|names| names.split(',').next())
            .map(str::trim);
        match (index, name) {
            (Some(index), Some(name)) if index == names.len() + 1 && !name.is_empty() => {
                names.push(name.to_owned())
            }
            _ => {
                return Err(Error::invalid(
                    format!("{}: line {}", path.display(), row + 1),
                    format!("class {} and its name, separated by tabs", names.len() + 1),
                    format!("`{line}`"),
                ));
            }
        }
    }
    if names.is_empty() {
        return Err(Error::invalid(path.display(), FORM, "no class"));
    }
    Ok(names)
}

impl Source for Ade20k {
    fn header(&self) -> DatasetHeader {
        let vocabulary: BTreeSet<&String> = self
            .names
            .iter()
            .filter(|name| !BACKGROUND.contains(&name.as_str()))
            .collect();
        training_header(
            &self.naming,
            CategorySource::Vocabulary(vocabulary.into_iter().cloned().collect()),
            Positives::One,
            serde_json::json!({ "source": "ade20k", "background": BACKGROUND }),
        )
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

    fn load(&self, unit: usize) -> Result<Unit> {
        let path = &self.images[unit];
        let stem = files::stem(path);
        let picture = match load_picture(path) {
            Ok(picture) => picture,
            Err(skip) => return Ok(Unit::skipped(skip)),
        };
        let map_path = self.annotations_dir.join(format!("{stem}.png"));
        let map = match load_index_map(&map_path, picture.width, picture.height) {
            Ok(map) => map,
            Err(skip) => return Ok(Unit::skipped(skip)),
        };
        let mut skips = Vec::new();
        let mut present = BTreeSet::new();
        let mut objects: Vec<ObjectTrack> = Vec::new();
        for (index, mask) in masks_by_index(&map) {
            if index == 0 {
                continue; // unlabelled
            }
            let Some(name) = self.names.get(usize::from(index) - 1) else {
                skips.push(Skip::new(
                    Reason::UnknownCategory,
                    map_path.display(),
                    format!("class indices 0 to {}", self.names.len()),
                    index,
                ));
                continue;
            };
            present.insert(name.clone());
            if !BACKGROUND.contains(&name.as_str()) {
                objects.push(ObjectTrack {
                    id: index.to_string(),
                    category: Some(name.clone()),
                    descriptions: vec![name.clone()],
                    masks: vec![Some(mask)],
                    anomalous: None,
                });
            }
        }
        if objects.is_empty() {
            let present: Vec<String> = present.into_iter().collect();
            skips.push(Skip::new(
                Reason::BackgroundOnly,
                path.display(),
                "a class that is not background",
                if present.is_empty() {
                    "no class".to_owned()
                } else {
                    present.join(", ")
                },
            ));
            return Ok(Unit {
                clips: vec![],
                skips,
            });
        }
        let clip = Clip {
            id: format!("{}/{stem}/0", self.naming.split),
            dataset: self.naming.dataset.clone(),
            video: stem,
            is_video: false,
            first_frame: 0,
            fps: None,
            width: picture.width,
            height: picture.height,
            frames: vec![picture.frame],
            objects,
            present_categories: present.into_iter().collect(),
            frame_labels: None,
        };
        Ok(Unit {
            clips: vec![clip],
            skips,
        })
    }
}
