//! COCO instances: one JSON file of images, categories and annotations, and a folder of images.
//!
//! Every annotation is an object named by its category. A crowd region (`iscrowd` 1) is no object, but its category is
//! present, so it is never named as absent. The same holds for an annotation whose mask cannot be used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};
use serde::Deserialize;

use crate::read::coco_masks::{Segmentation, segmentation_mask};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::names::is_name;
use crate::read::pictures::load_picture;
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

/// Where a COCO dataset lies.
#[derive(Args, Clone, Debug)]
pub struct CocoArgs {
    /// The instances JSON file (`images`, `annotations`, `categories`)
    #[arg(long, value_name = "FILE")]
    pub annotations: PathBuf,
    /// Folder of the images that `file_name` is relative to
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// Name of this part of the dataset, used in row ids
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for CocoArgs {
    const NAME: &'static str = "coco";
    const HELP: &'static str = "COCO instances: a JSON file and a folder of images";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Coco::open(self, dataset)?))
    }
}

const FORM: &str = "a COCO instances file with `images`, `annotations` and `categories`";

/// An id as COCO-like files write it: a number, sometimes text.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

#[derive(Deserialize)]
struct InstancesFile {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct Annotation {
    id: Option<Id>,
    image_id: Id,
    category_id: Id,
    #[serde(default)]
    segmentation: Option<Segmentation>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
}

/// A COCO dataset whose annotation file has been read.
struct Coco {
    args: CocoArgs,
    naming: Naming,
    vocabulary: Vec<String>,
    category_names: HashMap<Id, String>,
    images: Vec<(Image, Vec<Annotation>)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl Coco {
    /// Reads the annotation file and groups annotations by image.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a missing file or folder or JSON of another form, [`Error::Corrupt`] for cut JSON.
    fn open(args: &CocoArgs, dataset: &str) -> Result<Self> {
        let mut digest = InputDigest::default();
        files::require_dir(&args.images, "the folder of images (--images)")?;
        let file: InstancesFile = files::read_json(&args.annotations, FORM, &mut digest)?;
        let what = args.annotations.display();
        let mut planned_skips = Vec::new();
        let mut category_names = HashMap::new();
        for category in file.categories {
            if let Some(name) = category_names.insert(category.id.clone(), category.name.clone()) {
                return Err(Error::invalid(
                    format!("{what}: category {}", category.id),
                    "one name for an id",
                    format!("`{name}` and `{}`", category.name),
                ));
            }
        }
        let names = category_names.values().filter(|name| is_name(name));
        let vocabulary: BTreeSet<String> = names.cloned().collect();

        let mut images: Vec<(Image, Vec<Annotation>)> = Vec::new();
        let mut image_of_id: HashMap<Id, usize> = HashMap::new();
        for image in file.images {
            if image_of_id.contains_key(&image.id) {
                let row = format!("{what}: image {}", image.id);
                planned_skips.push(Skip::new(
                    Reason::DuplicateId,
                    row,
                    "an id of its own",
                    image.file_name,
                ));
                continue;
            }
            image_of_id.insert(image.id.clone(), images.len());
            images.push((image, Vec::new()));
        }
        for (row, annotation) in file.annotations.into_iter().enumerate() {
            match image_of_id.get(&annotation.image_id) {
                Some(image_idx) => images[*image_idx].1.push(annotation),
                None => planned_skips.push(Skip::new(
                    Reason::UnknownImage,
                    format!("{what}: annotation {}", annotation_name(&annotation, row)),
                    "an `image_id` that `images` lists",
                    &annotation.image_id,
                )),
            }
        }
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            args: args.clone(),
            vocabulary: vocabulary.into_iter().collect(),
            category_names,
            images,
            planned_skips,
            digest,
        })
    }

    fn image_path(&self, image: &Image) -> PathBuf {
        let path = self.args.images.join(&image.file_name);
        if path.is_file() {
            return path;
        }
        // Some files write `file_name` with the folder that `--images` already names.
        let bare = self
            .args
            .images
            .join(files::name(Path::new(&image.file_name)));
        if bare.is_file() { bare } else { path }
    }

    fn objects(
        &self,
        annotations: &[Annotation],
        (width, height): (u32, u32),
        present: &mut BTreeSet<String>,
        skips: &mut Vec<Skip>,
    ) -> Vec<ObjectTrack> {
        let mut objects: BTreeMap<String, ObjectTrack> = BTreeMap::new();
        let mut order = Vec::new();
        for (row, annotation) in annotations.iter().enumerate() {
            let id = annotation_name(annotation, row);
            let what = format!("{}: annotation {id}", self.args.annotations.display());
            let category = self.category_names.get(&annotation.category_id);
            let Some(category) = category.filter(|name| is_name(name)) else {
                skips.push(Skip::new(
                    Reason::UnknownCategory,
                    what,
                    "a `category_id` that `categories` lists with a name",
                    &annotation.category_id,
                ));
                continue;
            };
            present.insert(category.clone());
            if annotation.iscrowd != 0 {
                skips.push(Skip::new(Reason::Crowd, what, "one object", "`iscrowd` 1"));
                continue;
            }
            if objects.contains_key(&id) {
                skips.push(Skip::new(
                    Reason::DuplicateId,
                    what,
                    "an id of its own",
                    &id,
                ));
                continue;
            }
            let mask = segmentation_mask(
                annotation.segmentation.as_ref(),
                &what,
                width,
                height,
                skips,
            );
            if let Some(mask) = mask {
                order.push(id.clone());
                objects.insert(
                    id.clone(),
                    ObjectTrack {
                        id,
                        category: Some(category.clone()),
                        descriptions: vec![category.clone()],
                        masks: vec![Some(mask)],
                        anomalous: None,
                    },
                );
            }
        }
        order.iter().filter_map(|id| objects.remove(id)).collect()
    }
}

/// The annotation's own id, or its place among its image's annotations when it has none.
fn annotation_name(annotation: &Annotation, row: usize) -> String {
    match &annotation.id {
        Some(id) => id.to_string(),
        None => format!("{}-{row}", annotation.image_id),
    }
}

impl Source for Coco {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Vocabulary(self.vocabulary.clone()),
            Positives::One,
            serde_json::json!({ "source": CocoArgs::NAME, "annotations": files::name(&self.args.annotations) }),
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
        let (image, annotations) = &self.images[unit];
        let mut skips = Vec::new();
        let path = self.image_path(image);
        let picture = match load_picture(&path) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        let size = (picture.width, picture.height);
        let said = (
            image.width.unwrap_or(size.0),
            image.height.unwrap_or(size.1),
        );
        if size != said {
            return Ok(SourceUnit::skipped(Skip::new(
                Reason::ImageSizeMismatch,
                path.display(),
                format!("{}×{} px as the annotation file says", said.0, said.1),
                format!("{}×{} px", size.0, size.1),
            )));
        }
        let mut present = BTreeSet::new();
        let objects = self.objects(annotations, size, &mut present, &mut skips);
        let id = format!("{}/{}/0", self.naming.split, image.id);
        if objects.is_empty() {
            let found = format!("{} annotations, none of use", annotations.len());
            skips.push(Skip::new(
                Reason::NoObject,
                format!("{id} ({})", path.display()),
                "an object",
                found,
            ));
            return Ok(SourceUnit::empty(skips));
        }
        let video = image.id.to_string();
        let clip = image_clip(&self.naming, &video, picture, objects, present);
        Ok(SourceUnit {
            clips: vec![clip],
            skips,
        })
    }
}
