//! ADE20K scene parsing: one image and one map of 150 class indices each.
//!
//! Twenty classes are background (wall, sky, road, …): never an object, never named as a distractor, but always recorded as
//! present. Every other class of an image is one object: all its pixels together. Index 0 is unlabelled.
//! Reference: `ADE20KDataset`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::pictures::IMAGE_ENDINGS;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "ADEChallengeData2016: ROOT/images/SPLIT/*.jpg, ROOT/annotations/SPLIT/*.png and ROOT/objectInfo150.txt";

/// Classes that are scenery. Reference: `BACKGROUND`.
pub(super) const BACKGROUND: [&str; 20] = [
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

impl SourceArgs for Ade20kArgs {
    const NAME: &'static str = "ade20k";
    const HELP: &'static str = "ADE20K scene parsing (ADEChallengeData2016)";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Ade20k::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        dir.join("objectInfo150.txt").is_file().then(|| Self {
            root: dir.to_owned(),
            split: if dir.join("images/training").is_dir() {
                Ade20kSplit::Training
            } else {
                Ade20kSplit::Validation
            },
        })
    }
}

/// Classes of the dataset. A table of fewer is sound where no picture has more; a map with a higher index is at fault itself.
const N_CLASSES: usize = 150;

/// An ADE20K split whose folders have been listed.
struct Ade20k {
    naming: Naming,
    /// Name of index `i + 1`.
    names: Vec<String>,
    images: Vec<PathBuf>,
    table: PathBuf,
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
    fn open(args: &Ade20kArgs, dataset: &str) -> Result<Self> {
        let split = match args.split {
            Ade20kSplit::Training => "training",
            Ade20kSplit::Validation => "validation",
        };
        let images_dir = args.root.join("images").join(split);
        let annotations_dir = args.root.join("annotations").join(split);
        files::require_dir(&images_dir, LAYOUT)?;
        files::require_dir(&annotations_dir, LAYOUT)?;
        let images = files::list_files(&images_dir, &IMAGE_ENDINGS)?;
        if images.is_empty() {
            let found = match files::list_dirs(&images_dir)?.len() {
                0 => files::describe(&images_dir),
                n => format!(
                    "{n} folders, as ADE20K's full releases have: ade20k-full reads the one of 2021"
                ),
            };
            return Err(Error::invalid(images_dir.display(), LAYOUT, found));
        }
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
        let table = args.root.join("objectInfo150.txt");
        Ok(Self {
            naming: Naming::new(dataset, split),
            names: read_names(&table, &mut digest)?,
            table,
            images,
            annotations_dir,
            planned_skips,
            digest,
        })
    }
}

impl Ade20k {
    fn class_of(&self, index: u8) -> Class<'_> {
        let Some(class_idx) = usize::from(index).checked_sub(1) else {
            return Class::Nothing; // unlabelled
        };
        match self.names.get(class_idx).map(String::as_str) {
            Some(name) if BACKGROUND.contains(&name) => Class::Scenery(name),
            Some(name) => Class::Object(name),
            None if index == 255 => Class::Foreign(
                "a mark of maps whose classes were shifted by one (0 is \"wall\" there), not of the published ones",
            ),
            None => Class::Unknown,
        }
    }
}

/// The first name of every class: `1<tab>0.1576<tab>11664<tab>1172<tab>wall`, later names after commas.
///
/// Later names are not used: a name that only ever occurs as the true category would give the answer away.
fn read_names(path: &Path, digest: &mut InputDigest) -> Result<Vec<String>> {
    const FORM: &str = "a table `Idx Ratio Train Val Name` of ADE20K's classes";
    let text = files::read_text(path, FORM, digest)?;
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
            serde_json::json!({ "source": Ade20kArgs::NAME, "background": BACKGROUND }),
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

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let image = &self.images[unit];
        let video = files::stem(image);
        let map = self.annotations_dir.join(format!("{video}.png"));
        let beyond_table = Cell::new(None);
        let unit = class_map_unit(&self.naming, &video, image, &map, |index| {
            if (self.names.len() + 1..=N_CLASSES).contains(&index.into()) {
                beyond_table.set(Some(index));
            }
            self.class_of(index)
        });
        match beyond_table.get() {
            None => Ok(unit),
            Some(index) => Err(Error::corrupt(
                self.table.display(),
                format!("a row for class {index}, which is in {}", map.display()),
                format!("{} rows: it was cut after one", self.names.len()),
            )),
        }
    }
}
