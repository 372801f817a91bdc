//! MeViS: videos with referring expressions; an expression may name several objects, an object has many expressions.
//!
//! Every expression is kept (the reference keeps the first eight of a video). An object carries all expressions that name
//! it, so the objects of an expression are those that carry its text. A `null` run length means: absent in this frame.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::Result;
use serde::Deserialize;

use crate::read::coco_masks::{RunLengths, run_lengths_mask};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::lenient::Maybe;
use crate::read::pictures::IMAGE_ENDINGS;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::read::video::{Video, load_video};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "MeViS: ROOT/SPLIT/JPEGImages/VIDEO/*.jpg, ROOT/SPLIT/meta_expressions.json and ROOT/SPLIT/mask_dict.json";

/// Where MeViS lies.
#[derive(Args, Clone, Debug)]
pub struct MevisArgs {
    /// Folder holding the split's folder, or that folder itself
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part (`train`, `valid_u`; the masks of `valid` are not published)
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for MevisArgs {
    const NAME: &'static str = "mevis";
    const HELP: &'static str = "MeViS: videos with referring expressions";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Mevis::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let split = ["train", "valid_u", ""]
            .into_iter()
            .find(|split| dir.join(split).join("mask_dict.json").is_file())?;
        let split = if split.is_empty() { "train" } else { split };
        Some(Self {
            root: dir.to_owned(),
            split: split.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct ExpressionsFile {
    videos: BTreeMap<String, ExpressionsOfVideo>,
}

#[derive(Deserialize)]
struct ExpressionsOfVideo {
    frames: Vec<String>,
    #[serde(default)]
    expressions: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Expression {
    exp: String,
    anno_id: Vec<serde_json::Value>,
}

/// A MeViS split whose JSON files have been read.
struct Mevis {
    naming: Naming,
    dir: PathBuf,
    videos: Vec<(String, ExpressionsOfVideo)>,
    /// One entry a frame, by annotation id.
    masks: HashMap<String, Vec<Option<Maybe<RunLengths>>>>,
    digest: InputDigest,
}

impl Mevis {
    /// Reads both JSON files.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout, [`lavida_store::Error::Corrupt`] for cut JSON.
    fn open(args: &MevisArgs, dataset: &str) -> Result<Self> {
        let dir = files::split_dir(&args.root, &args.split);
        files::require_dir(&dir.join("JPEGImages"), LAYOUT)?;
        let mut digest = InputDigest::default();
        let expressions: ExpressionsFile = files::read_json(
            &dir.join("meta_expressions.json"),
            "`{\"videos\": {video: {\"frames\": […], \"expressions\": {id: {\"exp\", \"anno_id\"}}}}}`",
            &mut digest,
        )?;
        let masks = files::read_json(
            &dir.join("mask_dict.json"),
            "`{annotation id: [run lengths or null, one a frame]}`",
            &mut digest,
        )?;
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            dir,
            videos: expressions.videos.into_iter().collect(),
            masks,
            digest,
        })
    }

    /// Texts by annotation id, in the order in which the file names the objects.
    fn descriptions(
        &self,
        video: &str,
        expressions: &ExpressionsOfVideo,
        skips: &mut Vec<Skip>,
    ) -> Vec<(String, Vec<String>)> {
        let mut objects: Vec<(String, Vec<String>)> = Vec::new();
        for (expression_id, value) in &expressions.expressions {
            let what = format!(
                "{}: video {video}, expression {expression_id}",
                self.dir.join("meta_expressions.json").display()
            );
            let expression: Expression = match serde_json::from_value(value.clone()) {
                Ok(expression) => expression,
                Err(error) => {
                    skips.push(Skip::new(
                        Reason::MissingDescription,
                        what,
                        "`exp` and a list `anno_id`",
                        error,
                    ));
                    continue;
                }
            };
            let text = expression.exp.trim();
            if text.is_empty() || expression.anno_id.is_empty() {
                let found = format!("`{text}` for {} objects", expression.anno_id.len());
                skips.push(Skip::new(
                    Reason::MissingDescription,
                    what,
                    "a text that names an object",
                    found,
                ));
                continue;
            }
            for anno_id in &expression.anno_id {
                let anno_id = anno_id
                    .as_str()
                    .map_or_else(|| anno_id.to_string(), str::to_owned);
                let entry = match objects.iter().position(|(id, _)| *id == anno_id) {
                    Some(entry) => &mut objects[entry].1,
                    None => {
                        objects.push((anno_id, Vec::new()));
                        &mut objects.last_mut().expect("pushed the line before").1
                    }
                };
                if !entry.iter().any(|known| known == text) {
                    entry.push(text.to_owned());
                }
            }
        }
        objects
    }

    /// The masks of one annotation at the frames of `video`, or why it cannot be used.
    fn track_masks(
        &self,
        anno_id: &str,
        n_frames: usize,
        video: &Video,
    ) -> Result<Vec<Option<RleMask>>, Skip> {
        let what = format!(
            "{}: annotation {anno_id}",
            self.dir.join("mask_dict.json").display()
        );
        let expected = format!("{n_frames} masks for the frames of video {}", video.name);
        let Some(masks) = self.masks.get(anno_id) else {
            return Err(Skip::new(
                Reason::MissingMask,
                what,
                expected,
                "no such annotation",
            ));
        };
        if masks.len() != n_frames {
            return Err(Skip::new(
                Reason::MaskCountMismatch,
                what,
                expected,
                masks.len(),
            ));
        }
        let mut track = Vec::with_capacity(video.frames.len());
        for frame in &video.frames {
            let mask = match &masks[frame.index as usize] {
                Some(Maybe::Not(value)) => {
                    let what = format!("{what}, frame {}", frame.stem);
                    let found: String = value.to_string().chars().take(60).collect();
                    return Err(Skip::new(
                        Reason::RleInvalid,
                        what,
                        "`size` and `counts`, or null",
                        found,
                    ));
                }
                Some(Maybe::Is(rle)) => {
                    let what = format!("{what}, frame {}", frame.stem);
                    match run_lengths_mask(rle, &what, video.width, video.height) {
                        Ok(mask) => Some(mask),
                        Err(skip) if skip.reason == Reason::EmptyMask => None, // absent, written as all background
                        Err(skip) => return Err(skip),
                    }
                }
                None => None,
            };
            track.push(mask);
        }
        Ok(track)
    }
}

impl Source for Mevis {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Descriptions,
            Positives::One,
            serde_json::json!({ "source": MevisArgs::NAME }),
        )
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (name, expressions) = &self.videos[unit];
        let mut skips = Vec::new();
        let dir = self.dir.join("JPEGImages").join(name);
        let frame_files = (0u32..).zip(&expressions.frames).map(|(index, stem)| {
            let endings = IMAGE_ENDINGS
                .iter()
                .map(|ending| dir.join(format!("{stem}.{ending}")));
            let path = endings.clone().find(|path| lavida_files::is_there(path));
            (
                index,
                path.unwrap_or_else(|| dir.join(format!("{stem}.jpg"))),
            )
        });
        let Some(video) = load_video(name, None, frame_files, &mut skips) else {
            skips.push(Skip::new(
                Reason::IncompleteVideo,
                format!("video {name}"),
                format!("frames in {}", dir.display()),
                files::describe(&dir),
            ));
            return Ok(SourceUnit::empty(skips));
        };
        let mut tracks = Vec::new();
        for (anno_id, descriptions) in self.descriptions(name, expressions, &mut skips) {
            match self.track_masks(&anno_id, expressions.frames.len(), &video) {
                Ok(masks) => tracks.push(ObjectTrack {
                    id: anno_id,
                    category: None,
                    descriptions,
                    masks,
                    anomalous: None,
                }),
                Err(skip) => skips.push(skip),
            }
        }
        let clips = cut_rows(
            &self.naming,
            Purpose::Training,
            video,
            &tracks,
            None,
            &mut skips,
        );
        Ok(SourceUnit { clips, skips })
    }
}
