//! ADE20K in full, the release of 2021: 3,688 classes, every object on its own.
//!
//! Of an image `NAME.jpg` there are `NAME.json` (names of the objects) and `NAME_seg.png`, whose colours say class and object:
//! class ⌊R / 10⌋ · 256 + G, 0 for none, and B one number an object. Parts of objects lie in other files and are not read, nor
//! is the index pickle. A name is its first synonym. Scenery as of `ade20k` is recorded as present and is no object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use lavida_data::clip::{EncodedFrame, ObjectTrack};
use lavida_data::frame::decode_rgb;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};
use rayon::prelude::*;
use serde::Deserialize;

use super::ade20k::BACKGROUND;
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::lenient::latin1_text;
use crate::read::names::is_name;
use crate::read::pictures::{found, load_picture_of};
use crate::read::regions::masks_by_label;
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "ADE20K_2021_17_01: ROOT/images/ADE/SPLIT/SCENE/…/NAME.jpg with NAME.json and NAME_seg.png beside it";

/// Where ADE20K's full release lies.
#[derive(Args, Clone, Debug)]
pub struct Ade20kFullArgs {
    /// Folder holding images/ADE/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part: training or validation
    #[arg(long, default_value = "training")]
    pub split: String,
}

impl SourceArgs for Ade20kFullArgs {
    const NAME: &'static str = "ade20k-full";
    const HELP: &'static str = "ADE20K in full (2021): 3,688 classes, every object on its own";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Ade20kFull::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let splits = ["training", "validation"];
        let split = splits
            .into_iter()
            .find(|split| dir.join("images/ADE").join(split).is_dir())?;
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct AnnotationFile {
    annotation: Annotation,
}

#[derive(Deserialize)]
struct Annotation {
    object: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    name: String,
    name_ndx: u32,
    #[serde(default)]
    parts: Parts,
}

#[derive(Default, Deserialize)]
struct Parts {
    #[serde(default)]
    part_level: serde_json::Value,
}

const FORM: &str =
    "`{\"annotation\": {\"object\": [{\"name\", \"name_ndx\", \"parts\": {\"part_level\"}}]}}`";

/// Names of the classes of one image, by class number.
type Names = BTreeMap<u32, String>;

struct Ade20kFull {
    naming: Naming,
    /// Images whose names could be read, with these.
    images: Vec<(PathBuf, Names)>,
    vocabulary: BTreeSet<String>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl Ade20kFull {
    /// Lists the images and reads what the objects of each are called.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have the layout, [`Error::Corrupt`] for a cut JSON file.
    fn open(args: &Ade20kFullArgs, dataset: &str) -> Result<Self> {
        let dir = args.root.join("images/ADE").join(&args.split);
        files::require_dir(&dir, LAYOUT)?;
        let images = files::list_files_below(&dir, &["jpg", "jpeg"])?;
        if images.is_empty() {
            return Err(files::layout_error(&dir, LAYOUT));
        }
        let read: Vec<Result<(Option<Names>, InputDigest)>> =
            images.par_iter().map(|image| read_names(image)).collect();
        let mut digest = InputDigest::default();
        let mut planned_skips = Vec::new();
        let mut named = Vec::new();
        for (image, read) in images.into_iter().zip(read) {
            let (names, of_file) = read?;
            digest.add(files::name(&image));
            digest.add(of_file.hex());
            match names {
                Some(names) => named.push((image, names)),
                None => planned_skips.push(Skip::new(
                    Reason::MissingMask,
                    image.with_extension("json").display(),
                    "the names of the objects",
                    "no such file",
                )),
            }
        }
        let names = named.iter().flat_map(|(_, names)| names.values());
        let vocabulary: BTreeSet<String> = names
            .filter(|name| !BACKGROUND.contains(&name.as_str()))
            .cloned()
            .collect();
        if vocabulary.is_empty() {
            return Err(Error::invalid(
                dir.display(),
                LAYOUT,
                "images of which no file names an object",
            ));
        }
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            images: named,
            vocabulary,
            planned_skips,
            digest,
        })
    }
}

/// The names of an image's objects; `None` without a file of them. Some of the files are in Latin-1.
fn read_names(image: &Path) -> Result<(Option<Names>, InputDigest)> {
    let path = image.with_extension("json");
    let mut digest = InputDigest::default();
    if !lavida_files::is_there(&path) {
        return Ok((None, digest));
    }
    let bytes = files::read_annotations(&path)
        .map_err(|error| Error::invalid(path.display(), FORM, error))?;
    digest.add(&bytes);
    let file: AnnotationFile = files::parse_json(latin1_text(&bytes).as_bytes(), &path, FORM)?;
    let is_object = |object: &Object| {
        let level = &object.parts.part_level;
        level.is_null() || level.as_f64() == Some(0.0) || level.as_str() == Some("0")
    };
    let objects = file.annotation.object.into_iter().filter(is_object);
    let named = objects.filter_map(|object| {
        let first = object
            .name
            .split(',')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        is_name(&first).then_some((object.name_ndx, first))
    });
    Ok((Some(named.collect()), digest))
}

impl Source for Ade20kFull {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Vocabulary(self.vocabulary.iter().cloned().collect()),
            Positives::One,
            serde_json::json!({ "source": Ade20kFullArgs::NAME, "background": BACKGROUND }),
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
        let (image, names) = &self.images[unit];
        let stem = files::stem(image);
        let seg = image.with_file_name(format!("{stem}_seg.png"));
        let unreadable = |error: &dyn std::fmt::Display| {
            SourceUnit::skipped(Skip::new(
                Reason::UnreadableMask,
                seg.display(),
                "a colour PNG of classes and objects",
                error,
            ))
        };
        let bytes = match files::read(&seg) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(SourceUnit::skipped(Skip::new(
                    Reason::MissingMask,
                    seg.display(),
                    "a mask file",
                    "none",
                )));
            }
            Err(error) => return Ok(unreadable(&error)),
        };
        let rgb = match decode_rgb(&EncodedFrame {
            path: files::name(&seg),
            bytes,
        }) {
            Ok(rgb) => rgb,
            Err(error) => return Ok(unreadable(&found(error))),
        };
        let mut unit = SourceUnit::default();
        let picture = match load_picture_of(image, Some((rgb.width, rgb.height)), &mut unit.skips) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        if let Err(skip) = crate::read::pictures::check_size(
            &seg,
            (rgb.width, rgb.height),
            (picture.width, picture.height),
        ) {
            return Ok(SourceUnit::skipped(skip));
        }
        let label = |px: &[u8]| (u32::from(px[0] / 10) * 256 + u32::from(px[1]), px[2]);
        let labels: Vec<(u32, u8)> = rgb.pixels.chunks_exact(3).map(label).collect();
        let mut present = BTreeSet::new();
        let mut objects = Vec::new();
        for ((class, number), mask) in masks_by_label(&labels, rgb.width, rgb.height) {
            if class == 0 {
                continue;
            }
            let Some(name) = names.get(&class) else {
                let what = format!("{}: class {class}", seg.display());
                unit.skips.push(Skip::new(
                    Reason::UnknownCategory,
                    what,
                    "a class that its JSON names",
                    "none",
                ));
                continue;
            };
            present.insert(name.clone());
            if !BACKGROUND.contains(&name.as_str()) {
                objects.push(ObjectTrack {
                    id: format!("{class}-{number}"),
                    category: Some(name.clone()),
                    descriptions: vec![name.clone()],
                    masks: vec![Some(mask)],
                    anomalous: None,
                });
            }
        }
        if objects.is_empty() {
            let found = present.into_iter().collect::<Vec<_>>().join(", ");
            let expected = "a class that is not background";
            unit.skips.push(Skip::new(
                Reason::BackgroundOnly,
                image.display(),
                expected,
                found,
            ));
        } else {
            unit.clips
                .push(image_clip(&self.naming, &stem, picture, objects, present));
        }
        Ok(unit)
    }
}
