//! COCO-Stuff: the images of COCO with one map of 182 classes each, 91 of things and 91 of stuff.
//!
//! Value v of a map is label v + 1 of the published list, whose label 0 is "unlabeled"; 255 is unlabelled. Stuff marks are taken
//! off the names (`wall-brick` is "wall brick", `desk-stuff` "desk"). The reference has a class for it that cannot run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::Result;

use crate::read::class_map::{Class, class_map_unit};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::names::without_stuff_marks;
use crate::read::pictures::IMAGE_ENDINGS;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "COCO-Stuff: ROOT/images/SPLIT/*.jpg and ROOT/annotations/SPLIT/*.png, as stuffthingmaps_trainval2017.zip \
                      unpacks (or in a folder of that name); SPLIT is train2017 or val2017";

/// Where COCO-Stuff lies.
#[derive(Args, Clone, Debug)]
pub struct CocoStuffArgs {
    /// Folder holding images/ and annotations/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part: train2017 or val2017
    #[arg(long, default_value = "train2017")]
    pub split: String,
}

impl SourceArgs for CocoStuffArgs {
    const NAME: &'static str = "coco-stuff";
    const HELP: &'static str = "COCO-Stuff: things and stuff as maps of 182 classes";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(CocoStuff::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let split = ["train2017", "val2017"].into_iter().find(|split| {
            dir.join("images").join(split).is_dir() && maps_dir(dir, split).is_dir()
        })?;
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
        })
    }
}

fn maps_dir(root: &Path, split: &str) -> PathBuf {
    let nested = root
        .join("annotations/stuffthingmaps_trainval2017")
        .join(split);
    if nested.is_dir() {
        nested
    } else {
        root.join("annotations").join(split)
    }
}

/// A COCO-Stuff split whose folders have been listed.
struct CocoStuff {
    naming: Naming,
    /// By value of a map.
    names: Vec<String>,
    images: Vec<PathBuf>,
    maps_dir: PathBuf,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl CocoStuff {
    /// Lists images and maps.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout.
    fn open(args: &CocoStuffArgs, dataset: &str) -> Result<Self> {
        let images_dir = args.root.join("images").join(&args.split);
        let maps_dir = maps_dir(&args.root, &args.split);
        files::require_dir(&images_dir, LAYOUT)?;
        files::require_dir(&maps_dir, LAYOUT)?;
        let images = files::list_files(&images_dir, &IMAGE_ENDINGS)?;
        let mut digest = InputDigest::default();
        images.iter().for_each(|path| digest.add(files::name(path)));
        let stems: BTreeSet<String> = images.iter().map(|path| files::stem(path)).collect();
        let maps = files::list_files(&maps_dir, &["png"])?;
        if images.is_empty() || maps.is_empty() {
            let empty = if images.is_empty() {
                &images_dir
            } else {
                &maps_dir
            };
            return Err(files::layout_error(empty, LAYOUT));
        }
        let alone = maps
            .iter()
            .filter(|path| !stems.contains(&files::stem(path)));
        let planned_skips = alone.map(|path| {
            Skip::new(
                Reason::MaskWithoutFrame,
                path.display(),
                "an image of this name",
                "none",
            )
        });
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            names: LABELS
                .iter()
                .map(|name| without_stuff_marks(name))
                .collect(),
            planned_skips: planned_skips.collect(),
            images,
            maps_dir,
            digest,
        })
    }

    fn class_of(&self, value: u8) -> Class<'_> {
        match self.names.get(usize::from(value)) {
            Some(name) => Class::Object(name),
            None if value == 255 => Class::Nothing,
            None => Class::Unknown,
        }
    }
}

impl Source for CocoStuff {
    fn header(&self) -> DatasetHeader {
        let vocabulary: BTreeSet<String> = self.names.iter().cloned().collect();
        training_header(
            &self.naming,
            CategorySource::Vocabulary(vocabulary.into_iter().collect()),
            Positives::One,
            serde_json::json!({ "source": CocoStuffArgs::NAME }),
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
        let map = self.maps_dir.join(format!("{video}.png"));
        Ok(class_map_unit(&self.naming, &video, image, &map, |value| {
            self.class_of(value)
        }))
    }
}

/// Labels 1 to 182 of the published list. Eleven things (street sign, hat, …) are in no map.
#[rustfmt::skip]
const LABELS: [&str; 182] = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird",
    "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat",
    "backpack", "umbrella", "shoe", "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork", "knife", "spoon",
    "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window",
    "desk", "toilet", "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush", "hair brush", "banner", "blanket",
    "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard",
    "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other",
    "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit",
    "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light",
    "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper",
    "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing",
    "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf",
    "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable",
    "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
];
