//! COCO instances: one JSON file of images, categories and annotations, and a folder of images.
//!
//! Every annotation is an object named by its category. A crowd region (`iscrowd` 1) is no object, but its category is
//! present, so it is never named as absent. The same holds for an annotation whose mask cannot be used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::coco_file::{Annotation, CocoFile};
use crate::read::coco_masks::{Segmentation, segmentation_mask};
use crate::read::files::{self, InputDigest};
use crate::read::finder::Finder;
use crate::read::header::training_header;
use crate::read::lenient::{Coordinate, Id, Maybe};
use crate::read::pictures::load_picture_of;
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
    /// Take boxes (`bbox`) as masks where there is no segmentation
    #[arg(long)]
    pub boxes: bool,
    /// Take crowd regions (`iscrowd` 1) as objects, as tools need it that mark brush strokes so
    #[arg(long)]
    pub crowds: bool,
}

impl SourceArgs for CocoArgs {
    const NAME: &'static str = "coco";
    const HELP: &'static str = "COCO instances: a JSON file and a folder of images";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Coco::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let annotations = dir.join("annotations");
        ["train", "val"].into_iter().find_map(|split| {
            let file = annotations.join(format!("instances_{split}2017.json"));
            let images =
                [format!("{split}2017"), format!("images/{split}2017")].map(|name| dir.join(name));
            let images = images.into_iter().find(|images| images.is_dir());
            let of_coco = images
                .filter(|_| file.is_file())
                .map(|images| (file, images));
            // Roboflow's and others' exports: the file lies among the pictures.
            let exported = ["_annotations.coco.json", "annotations.json"]
                .map(|name| dir.join(split).join(name));
            let exported = exported
                .into_iter()
                .find(|file| file.is_file())
                .map(|file| (file, dir.join(split)));
            of_coco.or(exported).map(|(annotations, images)| Self {
                annotations,
                images,
                split: split.to_owned(),
                boxes: false,
                crowds: false,
            })
        })
    }
}

const FORM: &str = "a COCO instances file with `images`, `annotations` and `categories`";

/// Above this share crowd regions are a tool's way to write brush strokes and not crowds; COCO has 1.2 %.
const CROWDS_OF_COCO: f64 = 0.05;

/// A COCO dataset whose annotation file has been read.
struct Coco {
    args: CocoArgs,
    naming: Naming,
    file: CocoFile,
    finder: Finder,
    notices: Vec<String>,
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
        let file = CocoFile::read(&args.annotations, FORM, &mut digest)?;
        let what = args.annotations.display();
        let annotations = || file.images.iter().flat_map(|(_, annotations)| annotations);
        if annotations().next().is_some()
            && annotations().all(|annotation| annotation.category_id.is_none())
        {
            let captions = annotations().any(|annotation| annotation.caption.is_some());
            let found = if captions {
                "captions, which name no category and no region: take instances_….json"
            } else {
                "annotations without a `category_id`"
            };
            return Err(Error::invalid(&what, FORM, found));
        }
        let is_masked = |annotation: &Annotation| {
            annotation
                .segmentation
                .as_ref()
                .is_some_and(Segmentation::is_given)
        };
        let n_boxes = annotations()
            .filter(|annotation| annotation.bbox.is_some())
            .count();
        if !args.boxes && n_boxes > 0 && !annotations().any(is_masked) {
            let found = format!(
                "{n_boxes} boxes (`bbox`) and no segmentation; with --boxes each box is a mask"
            );
            return Err(Error::invalid(&what, "annotations with masks", found));
        }
        let mut notices = Vec::new();
        if annotations().next().is_none() {
            notices.push(
                "the file holds images and not one annotation, as that of a test set does"
                    .to_owned(),
            );
        }
        let (n_crowds, n_all) = (
            annotations()
                .filter(|annotation| annotation.iscrowd)
                .count(),
            annotations().count(),
        );
        if !args.crowds && n_crowds as f64 > CROWDS_OF_COCO * n_all as f64 && n_crowds > 0 {
            notices.push(format!(
                "{n_crowds} of {n_all} annotations are crowd regions (`iscrowd` 1), which are no objects; some tools mark brush \
                 strokes so: with --crowds they are objects"
            ));
        }
        let finder = Finder::new(
            &args.images,
            file.images.iter().map(|(image, _)| image.name()),
        );
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            args: args.clone(),
            file,
            finder,
            notices,
            digest,
        })
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
            let id = annotation.name(row);
            let what = format!("{}: annotation {id}", self.args.annotations.display());
            let category = annotation
                .category_id
                .as_ref()
                .and_then(|id| self.file.category_names.get(id));
            let Some(category) = category.and_then(Option::as_ref) else {
                skips.push(Skip::new(
                    Reason::UnknownCategory,
                    what,
                    "a `category_id` that `categories` lists with a name",
                    annotation
                        .category_id
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), Id::to_string),
                ));
                continue;
            };
            present.insert(category.clone());
            if annotation.iscrowd && !self.args.crowds {
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
            let boxed = annotation.bbox.as_ref().filter(|_| self.args.boxes);
            let mask = match (&annotation.segmentation, boxed) {
                (segmentation, Some(Maybe::Is(bbox)))
                    if !segmentation.as_ref().is_some_and(Segmentation::is_given) =>
                {
                    segmentation_mask(Some(&of_box(*bbox)), &what, width, height, skips)
                }
                (segmentation, _) => {
                    segmentation_mask(segmentation.as_ref(), &what, width, height, skips)
                }
            };
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

/// The outline of a box `[x, y, width, height]` in px.
fn of_box([x, y, width, height]: [f64; 4]) -> Segmentation {
    let corners = [x, y, x + width, y, x + width, y + height, x, y + height];
    Segmentation::Polygons(vec![corners.map(Coordinate).to_vec()])
}

impl Source for Coco {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Vocabulary(self.file.vocabulary.iter().cloned().collect()),
            Positives::One,
            serde_json::json!({ "source": CocoArgs::NAME, "annotations": files::name(&self.args.annotations) }),
        )
    }

    fn n_units(&self) -> usize {
        self.file.images.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.file.skips
    }

    fn notices(&self) -> &[String] {
        &self.notices
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (image, annotations) = &self.file.images[unit];
        let mut skips = Vec::new();
        let path = self.finder.find(image.name());
        let said = image.width.zip(image.height);
        let picture = match load_picture_of(&path, said, &mut skips) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        let size = (picture.width, picture.height);
        if let Some(said) = said.filter(|said| *said != size) {
            skips.push(Skip::new(
                Reason::ImageSizeMismatch,
                path.display(),
                format!("{}×{} px as the annotation file says", said.0, said.1),
                format!("{}×{} px", size.0, size.1),
            ));
            return Ok(SourceUnit::empty(skips));
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
