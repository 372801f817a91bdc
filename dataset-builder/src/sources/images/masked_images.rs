//! Any pictures beside mask files of the same names.
//!
//! A mask says one of three things: that its white is one category (`--category`, or a folder of masks named by it), or by the
//! numbers of its pixels which category each belongs to (`--names`, a line a number). `a.jpg` and `a.png` are a pair, and so are
//! `a.jpg` and `a_mask.png`. A picture without a mask is not "empty": nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::names::is_name;
use crate::read::pictures::{IMAGE_ENDINGS, load_binary_mask, load_picture};
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "pictures beside masks: IMAGES/NAME.jpg, and MASKS/NAME.png (with --category or --names) or \
                      MASKS/CATEGORY/NAME.png";

/// What masks end in that are not called like their picture.
const MARKS: [&str; 4] = ["_mask", "-mask", "_gt", "_label"];

/// Where pictures and masks lie.
#[derive(Args, Clone, Debug)]
pub struct MaskedImagesArgs {
    /// Folder of the pictures
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Folder of the masks, or of one folder of masks a category
    #[arg(long, value_name = "DIR")]
    pub masks: PathBuf,
    /// What the white of every mask is
    #[arg(long, value_name = "NAME", conflicts_with = "names")]
    pub category: Option<String>,
    /// What the numbers of the masks are: a line `NUMBER NAME` each, or NAME alone, counted from 1; 0 and 255 are nothing
    #[arg(long, value_name = "FILE")]
    pub names: Option<PathBuf>,
    /// Name of this part of the dataset, used in row ids
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for MaskedImagesArgs {
    const NAME: &'static str = "masked-images";
    const HELP: &'static str = "Any pictures beside mask files of the same names";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(MaskedImages::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let (images, masks) = (dir.join("images"), dir.join("masks"));
        let names = ["names.txt", "classes.txt"]
            .map(|name| dir.join(name))
            .into_iter()
            .find(|file| file.is_file());
        let by_category = files::list_dirs(&masks).is_ok_and(|folders| !folders.is_empty());
        // With a folder a category the list only repeats their names.
        let names = names.filter(|_| !by_category);
        let is_set = images.is_dir() && masks.is_dir() && (names.is_some() || by_category);
        is_set.then(|| Self {
            images,
            masks,
            category: None,
            names,
            split: "train".to_owned(),
        })
    }
}

/// Where the masks of a picture are, and what they say.
enum Masks {
    /// One map of numbers.
    Map(PathBuf),
    /// Black and white, by category.
    White(BTreeMap<String, PathBuf>),
}

struct MaskedImages {
    naming: Naming,
    names: BTreeMap<u8, String>,
    vocabulary: BTreeSet<String>,
    rows: Vec<(PathBuf, Masks)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl MaskedImages {
    /// Pairs pictures and masks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a folder is missing or nothing says what the masks are.
    fn open(args: &MaskedImagesArgs, dataset: &str) -> Result<Self> {
        files::require_dir(&args.images, LAYOUT)?;
        files::require_dir(&args.masks, LAYOUT)?;
        let mut digest = InputDigest::default();
        let mut images = files::list_files(&args.images, &IMAGE_ENDINGS)?;
        if args.images == args.masks {
            images.retain(|path| MARKS.iter().all(|mark| !files::stem(path).ends_with(mark)));
        }
        images.iter().for_each(|path| digest.add(files::name(path)));
        let names = match &args.names {
            Some(path) => read_names(path, &mut digest)?,
            None => BTreeMap::new(),
        };
        let mut masks_of: BTreeMap<String, Masks> = BTreeMap::new();
        let mut vocabulary = BTreeSet::new();
        if args.names.is_some() {
            vocabulary.extend(names.values().cloned());
            masks_of.extend(
                masks_in(&args.masks)?
                    .into_iter()
                    .map(|(name, path)| (name, Masks::Map(path))),
            );
        } else {
            let folders = match &args.category {
                Some(category) => vec![(category.trim().to_owned(), args.masks.clone())],
                None => files::list_dirs(&args.masks)?
                    .into_iter()
                    .map(|dir| (readable(&dir), dir))
                    .collect(),
            };
            for (category, folder) in folders
                .into_iter()
                .filter(|(category, _)| is_name(category))
            {
                vocabulary.insert(category.clone());
                for (name, path) in masks_in(&folder)? {
                    let masks = masks_of
                        .entry(name)
                        .or_insert_with(|| Masks::White(BTreeMap::new()));
                    if let Masks::White(masks) = masks {
                        masks.insert(category.clone(), path);
                    }
                }
            }
        }
        if vocabulary.is_empty() {
            let found = format!(
                "{}: give --category, --names, or a folder of masks a category",
                files::describe(&args.masks)
            );
            return Err(Error::invalid(args.masks.display(), LAYOUT, found));
        }
        digest.add(format!("{vocabulary:?}"));
        let mut planned_skips = Vec::new();
        let mut rows = Vec::new();
        for image in images {
            match masks_of.remove(&files::stem(&image)) {
                Some(masks) => rows.push((image, masks)),
                None => planned_skips.push(Skip::new(
                    Reason::MissingMask,
                    image.display(),
                    format!(
                        "{}.png, or a mask of another ending, in {}",
                        files::stem(&image),
                        args.masks.display()
                    ),
                    "none",
                )),
            }
        }
        for name in masks_of.keys() {
            let expected = format!("a picture in {}", args.images.display());
            planned_skips.push(Skip::new(
                Reason::MaskWithoutFrame,
                format!("mask {name}"),
                expected,
                "none",
            ));
        }
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            names,
            vocabulary,
            rows,
            planned_skips,
            digest,
        })
    }
}

fn readable(dir: &Path) -> String {
    crate::read::names::readable(&files::name(dir))
}

/// Mask files by the name of their picture.
fn masks_in(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut masks = BTreeMap::new();
    for path in files::list_files(dir, &IMAGE_ENDINGS)? {
        let stem = files::stem(&path);
        let bare = MARKS
            .iter()
            .find_map(|mark| stem.strip_suffix(mark))
            .unwrap_or(&stem);
        masks.insert(bare.to_owned(), path);
    }
    Ok(masks)
}

fn read_names(path: &Path, digest: &mut InputDigest) -> Result<BTreeMap<u8, String>> {
    const FORM: &str = "lines `NUMBER NAME`, or NAME alone, counted from 1";
    let text = files::read_text(path, FORM, digest)?;
    let mut names = BTreeMap::new();
    for (row, line) in text.lines().enumerate().filter(|(_, line)| is_name(line)) {
        let numbered = line
            .trim()
            .split_once([' ', '\t', ':', ','])
            .and_then(|(number, name)| {
                let name = name.trim_start_matches([':', ',']).trim();
                Some((number.parse::<u16>().ok()?, name.to_owned()))
            });
        let (number, name) = numbered.unwrap_or_else(|| {
            (
                u16::try_from(row + 1).unwrap_or(u16::MAX),
                line.trim().to_owned(),
            )
        });
        match u8::try_from(number) {
            Ok(0) => {}
            Ok(number) if is_name(&name) && !names.contains_key(&number) => {
                names.insert(number, name);
            }
            _ => {
                let what = format!("{}: line {}", path.display(), row + 1);
                return Err(Error::invalid(
                    what,
                    "a number up to 255 that no other line has, and a name",
                    format!("`{line}`"),
                ));
            }
        }
    }
    Ok(names)
}

impl Source for MaskedImages {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Vocabulary(self.vocabulary.iter().cloned().collect()),
            Positives::One,
            serde_json::json!({ "source": MaskedImagesArgs::NAME }),
        )
    }

    fn n_units(&self) -> usize {
        self.rows.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (image, masks) = &self.rows[unit];
        let video = files::stem(image);
        let masks = match masks {
            Masks::Map(map) => {
                let class_of = |number: u8| match self.names.get(&number) {
                    Some(name) => Class::Object(name),
                    None if number == 0 || number == 255 => Class::Nothing,
                    None => Class::Unknown,
                };
                return Ok(class_map_unit(&self.naming, &video, image, map, class_of));
            }
            Masks::White(masks) => masks,
        };
        let mut unit = SourceUnit::default();
        let picture = match load_picture(image, &mut unit.skips) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        let mut present = BTreeSet::new();
        let mut objects = Vec::new();
        for (category, path) in masks {
            match load_binary_mask(path, picture.width, picture.height) {
                Ok(Some(mask)) => {
                    present.insert(category.clone());
                    objects.push(ObjectTrack {
                        id: category.clone(),
                        category: Some(category.clone()),
                        descriptions: vec![category.clone()],
                        masks: vec![Some(mask)],
                        anomalous: None,
                    });
                }
                Ok(None) => {}
                Err(skip) => {
                    // The category may be there: it is never a distractor of this picture.
                    present.insert(category.clone());
                    unit.skips.push(skip);
                }
            }
        }
        if objects.is_empty() {
            unit.skips.push(Skip::new(
                Reason::NoObject,
                image.display(),
                "a white pixel in a mask",
                "none",
            ));
        } else {
            unit.clips
                .push(image_clip(&self.naming, &video, picture, objects, present));
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_or_counted() {
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        let names = |text: &str| {
            std::fs::write(file.path(), text).expect("write");
            read_names(file.path(), &mut InputDigest::default())
        };
        let expected = BTreeMap::from([(1, "crack".to_owned()), (2, "deep hole".to_owned())]);
        for text in [
            "crack\ndeep hole\n",
            "0 background\n1 crack\n2 deep hole",
            "1: crack\n2: deep hole",
            "1,crack\n2,deep hole",
        ] {
            let found = names(text).expect("names");
            if text.starts_with("crack") {
                assert_eq!(found, expected);
            } else {
                assert_eq!(found, expected, "{text}");
            }
        }
        assert!(names("1 a\n1 b").is_err());
    }
}
