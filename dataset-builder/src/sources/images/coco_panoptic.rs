//! COCO panoptic: things and stuff, one colour PNG an image whose colours are segment ids.
//!
//! A segment is an object named by its category; stuff suffixes are taken off the name (`sky-other-merged` is "sky",
//! `wall-brick` "wall brick"). Crowd segments are no objects, but their category is present.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use lavida_data::clip::{EncodedFrame, ObjectTrack};
use lavida_data::frame::decode_rgb;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::{Error, Result};
use serde::Deserialize;

use crate::read::files::{self, InputDigest};
use crate::read::finder::Finder;
use crate::read::header::training_header;
use crate::read::lenient::{self, Id, Maybe};
use crate::read::names::{is_name, without_stuff_marks};
use crate::read::pictures::{ImageFile, check_size, found, load_picture};
use crate::read::regions::masks_by_label;
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

/// Where a COCO panoptic dataset lies.
#[derive(Args, Clone, Debug)]
pub struct CocoPanopticArgs {
    /// The panoptic JSON file (`images`, `annotations` with `segments_info`, `categories`); `--json FILE` says the same
    #[arg(long, value_name = "FILE")]
    pub annotations: PathBuf,
    /// Folder of the segment PNGs
    #[arg(long, value_name = "DIR")]
    pub panoptic: PathBuf,
    /// Folder of the images
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Name of this part of the dataset, used in row ids
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for CocoPanopticArgs {
    const NAME: &'static str = "coco-panoptic";
    const HELP: &'static str = "COCO panoptic: things and stuff";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(CocoPanoptic::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        ["train", "val"].into_iter().find_map(|split| {
            let annotations = dir.join(format!("annotations/panoptic_{split}2017.json"));
            let panoptic = [
                format!("annotations/panoptic_{split}2017"),
                format!("panoptic_{split}2017"),
            ];
            let images = [format!("{split}2017"), format!("images/{split}2017")];
            let folder = |names: [String; 2]| {
                names
                    .map(|name| dir.join(name))
                    .into_iter()
                    .find(|dir| dir.is_dir())
            };
            let (panoptic, images) = folder(panoptic).zip(folder(images))?;
            annotations.is_file().then(|| Self {
                annotations,
                panoptic,
                images,
                split: split.to_owned(),
            })
        })
    }
}

/// `build coco-panoptic --json FILE` is how the annotations were named first. The switch `--json` takes no value, so with one
/// it can only mean that, and scripts that say so go on.
pub(crate) fn with_annotations_named(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_none_or(|word| word != "build")
        || words.get(2).is_none_or(|word| word != "coco-panoptic")
    {
        return words;
    }
    for i in 3..words.len() {
        let Some(word) = words[i].to_str() else {
            continue;
        };
        let has_value = words
            .get(i + 1)
            .is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"));
        if word == "--json" && has_value {
            words[i] = "--annotations".into();
        } else if let Some(file) = word.strip_prefix("--json=") {
            words[i] = format!("--annotations={file}").into();
        }
    }
    words
}

const FORM: &str = "a COCO panoptic file with `images`, `annotations` and `categories`";

#[derive(Deserialize)]
struct PanopticFile {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

/// Ids may be text: Cityscapes' official file names its images `aachen_000000_000019`.
#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Id,
    file_name: String,
    #[serde(default)]
    segments_info: Vec<Maybe<Segment>>,
}

#[derive(Deserialize)]
struct Segment {
    id: u32,
    category_id: Id,
    #[serde(default, deserialize_with = "lenient::flag")]
    iscrowd: bool,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
}

/// A COCO panoptic dataset whose annotation file has been read.
struct CocoPanoptic {
    naming: Naming,
    category_names: HashMap<Id, String>,
    rows: Vec<(Image, Annotation)>,
    images: Finder,
    maps: Finder,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl CocoPanoptic {
    /// Reads the annotation file.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] for a missing file or folder or JSON of another form,
    /// [`lavida_store::Error::Corrupt`] for cut JSON.
    fn open(args: &CocoPanopticArgs, dataset: &str) -> Result<Self> {
        files::require_dir(&args.images, "the folder of images (--images)")?;
        files::require_dir(&args.panoptic, "the folder of segment PNGs (--panoptic)")?;
        let mut digest = InputDigest::default();
        let file: PanopticFile = files::read_json(&args.annotations, FORM, &mut digest)?;
        let mut planned_skips = Vec::new();
        let mut annotations: BTreeMap<Id, Annotation> = BTreeMap::new();
        for annotation in file.annotations {
            if let Some(known) = annotations.get(&annotation.image_id) {
                planned_skips.push(Skip::new(
                    Reason::DuplicateId,
                    format!(
                        "{}: annotation {}",
                        args.annotations.display(),
                        annotation.file_name
                    ),
                    "an `image_id` of its own",
                    format!("{}, which {} has", annotation.image_id, known.file_name),
                ));
                continue;
            }
            annotations.insert(annotation.image_id.clone(), annotation);
        }
        let mut rows = Vec::new();
        for image in file.images {
            match annotations.remove(&image.id) {
                Some(annotation) => rows.push((image, annotation)),
                None => planned_skips.push(Skip::new(
                    Reason::NoObject,
                    format!("{}: image {}", args.annotations.display(), image.id),
                    "an annotation of this image",
                    "none",
                )),
            }
        }
        planned_skips.extend(annotations.values().map(|annotation| {
            Skip::new(
                Reason::UnknownImage,
                format!(
                    "{}: annotation {}",
                    args.annotations.display(),
                    annotation.file_name
                ),
                "an `image_id` that `images` lists",
                &annotation.image_id,
            )
        }));
        let mut category_names: HashMap<Id, String> = HashMap::new();
        for category in file.categories {
            let name = without_stuff_marks(category.name.trim());
            let known = category_names.insert(category.id.clone(), name.clone());
            if let Some(known) = known.filter(|known| *known != name) {
                return Err(Error::invalid(
                    format!("{}: category {}", args.annotations.display(), category.id),
                    "one name for an id",
                    format!("`{known}` and `{name}`"),
                ));
            }
        }
        let images = Finder::new(
            &args.images,
            rows.iter()
                .map(|(image, _): &(Image, Annotation)| image.file_name.as_str()),
        );
        let maps = Finder::new(
            &args.panoptic,
            rows.iter()
                .map(|(_, annotation)| annotation.file_name.as_str()),
        );
        Ok(Self {
            images,
            maps,
            naming: Naming::new(dataset, &args.split),
            category_names,
            rows,
            planned_skips,
            digest,
        })
    }
}

/// One mask per segment id in the PNG.
fn segment_masks(path: &Path, picture: &ImageFile) -> Result<BTreeMap<u32, RleMask>, Skip> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Skip::new(
            Reason::UnreadableMask,
            path.display(),
            "a colour PNG of segment ids",
            error,
        )
    };
    if !lavida_files::is_there(path) {
        return Err(Skip::new(
            Reason::MissingMask,
            path.display(),
            "a mask file",
            "none",
        ));
    }
    let frame = EncodedFrame {
        path: files::name(path),
        bytes: Bytes::from(files::read(path).map_err(|error| unreadable(&error))?),
    };
    let rgb = decode_rgb(&frame).map_err(|error| unreadable(&found(error)))?;
    check_size(
        path,
        (rgb.width, rgb.height),
        (picture.width, picture.height),
    )?;
    let id_of = |px: &[u8]| u32::from(px[0]) | u32::from(px[1]) << 8 | u32::from(px[2]) << 16;
    let ids: Vec<u32> = rgb.pixels.chunks_exact(3).map(id_of).collect();
    let mut masks = masks_by_label(&ids, rgb.width, rgb.height);
    masks.remove(&0);
    Ok(masks)
}

impl Source for CocoPanoptic {
    fn header(&self) -> DatasetHeader {
        let names = self.category_names.values();
        let vocabulary: BTreeSet<&String> = names.filter(|name| is_name(name)).collect();
        training_header(
            &self.naming,
            CategorySource::Vocabulary(vocabulary.into_iter().cloned().collect()),
            Positives::One,
            serde_json::json!({ "source": CocoPanopticArgs::NAME }),
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
        let (image, annotation) = &self.rows[unit];
        let mut unit = SourceUnit::default();
        let image_path = self.images.find(&image.file_name);
        let picture = match load_picture(&image_path, &mut unit.skips) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        let path = self.maps.find(&annotation.file_name);
        let mut masks = match segment_masks(&path, &picture) {
            Ok(masks) => masks,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        let mut present = BTreeSet::new();
        let mut objects = Vec::new();
        for segment in &annotation.segments_info {
            let segment = match segment {
                Maybe::Is(segment) => segment,
                Maybe::Not(value) => {
                    let expected = "a segment with `id` and `category_id`";
                    unit.skips.push(Skip::new(
                        Reason::RowInvalid,
                        path.display(),
                        expected,
                        value,
                    ));
                    continue;
                }
            };
            let what = format!("{}: segment {}", path.display(), segment.id);
            let name = self.category_names.get(&segment.category_id);
            let Some(name) = name.filter(|name| is_name(name)) else {
                let expected = "a `category_id` that `categories` lists with a name";
                unit.skips.push(Skip::new(
                    Reason::UnknownCategory,
                    what,
                    expected,
                    &segment.category_id,
                ));
                continue;
            };
            present.insert(name.clone());
            if segment.iscrowd {
                masks.remove(&segment.id);
                unit.skips
                    .push(Skip::new(Reason::Crowd, what, "one object", "`iscrowd` 1"));
                continue;
            }
            let Some(mask) = masks.remove(&segment.id) else {
                unit.skips.push(Skip::new(
                    Reason::EmptyMask,
                    what,
                    "pixels of this id in the PNG",
                    "none",
                ));
                continue;
            };
            objects.push(ObjectTrack {
                id: segment.id.to_string(),
                category: Some(name.clone()),
                descriptions: vec![name.clone()],
                masks: vec![Some(mask)],
                anomalous: None,
            });
        }
        for id in masks.keys() {
            unit.skips.push(Skip::new(
                Reason::UnknownCategory,
                format!("{}: segment {id}", path.display()),
                "a segment that `segments_info` lists",
                "none",
            ));
        }
        if objects.is_empty() {
            let found = format!("{} segments, none of use", annotation.segments_info.len());
            unit.skips.push(Skip::new(
                Reason::NoObject,
                path.display(),
                "an object",
                found,
            ));
        } else {
            let video = image.id.to_string();
            unit.clips
                .push(image_clip(&self.naming, &video, picture, objects, present));
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{BuildCommand, Cli, Command, Wanted};
    use crate::sources::SourceSpec;

    #[test]
    fn the_panoptic_file_may_be_named_by_json_as_it_was_first() {
        let parsed = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let cli = Cli::try_parse_from(with_annotations_named(words)).expect("it parses");
            match cli.command {
                Command::Build(BuildCommand::Dataset {
                    source: Wanted::Source(SourceSpec::CocoPanoptic(panoptic)),
                    args,
                }) => (panoptic.annotations, args.reading.json),
                other => panic!("{other:?}"),
            }
        };
        let rest = "--panoptic png --images jpg --out shards";
        for (given, prints) in [
            ("--json pan.json", false),
            ("--json=pan.json", false),
            ("--annotations pan.json --json", true),
            ("--json pan.json --json", true),
        ] {
            let line = format!("lavida-dataset build coco-panoptic {given} {rest}");
            assert_eq!(parsed(&line), ("pan.json".into(), prints), "{given}");
        }
    }
}
