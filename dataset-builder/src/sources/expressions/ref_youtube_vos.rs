//! Ref-YouTube-VOS: palette masks and expressions that each name one object.
//!
//! An object carries all expressions that name it; objects without one are left out (the reference crashes on them).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::Result;
use serde::Deserialize;

use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::lenient::Id;
use crate::read::palette::load_palette_video;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "referring videos: ROOT/SPLIT/JPEGImages/VIDEO/*.jpg, ROOT/SPLIT/Annotations/VIDEO/*.png and \
                      ROOT/meta_expressions/SPLIT/meta_expressions.json";

/// Where Ref-YouTube-VOS lies.
#[derive(Args, Clone, Debug)]
pub struct RefYoutubeVosArgs {
    /// Folder holding the split's folder and meta_expressions/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for RefYoutubeVosArgs {
    const NAME: &'static str = "ref-youtube-vos";
    const HELP: &'static str = "Ref-YouTube-VOS: videos with referring expressions";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let naming = Naming::new(dataset, &self.split);
        let videos = RefVideos::open(&self.root, naming, Positives::OneOrTwo, Self::NAME)?;
        Ok(Box::new(videos))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        // A converted Ref-DAVIS has the same files; its videos are DAVIS's.
        let is_davis =
            dir.join("train/JPEGImages/bear").is_dir() || dir.join("JPEGImages/bear").is_dir();
        let has_texts = dir
            .join("meta_expressions/train/meta_expressions.json")
            .is_file();
        (has_texts && !is_davis).then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct ExpressionsFile {
    videos: BTreeMap<String, ExpressionsOfVideo>,
}

#[derive(Deserialize)]
struct ExpressionsOfVideo {
    expressions: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Expression {
    exp: String,
    obj_id: Id,
}

/// Texts by object id, of each video.
pub(super) type Texts = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// A set of videos with palette masks, its texts read.
pub(super) struct RefVideos {
    /// Names of its rows.
    pub naming: Naming,
    /// How the reference exposes the set.
    pub positives: Positives,
    /// Its name on the command line.
    pub source: &'static str,
    /// Folder of the videos' folders of frames.
    pub frames_dir: PathBuf,
    /// Folder of the videos' folders of masks.
    pub masks_dir: PathBuf,
    /// Its videos and what is said of them.
    pub videos: Vec<(String, BTreeMap<String, Vec<String>>)>,
    /// What was left out of the texts.
    pub planned_skips: Vec<Skip>,
    /// Of its files of texts.
    pub digest: InputDigest,
}

impl RefVideos {
    /// Reads the expressions; `positives` is how the reference exposes this set, `source` its name on the command line.
    ///
    /// # Errors
    ///
    /// As [`SourceArgs::open`].
    pub(super) fn open(
        root: &Path,
        naming: Naming,
        positives: Positives,
        source: &'static str,
    ) -> Result<Self> {
        let split = &naming.split;
        let dir = files::split_dir(root, split);
        files::require_dir(&dir.join("JPEGImages"), LAYOUT)?;
        files::require_dir(&dir.join("Annotations"), LAYOUT)?;
        let path = root
            .join("meta_expressions")
            .join(split)
            .join("meta_expressions.json");
        let mut digest = InputDigest::default();
        let file: ExpressionsFile = files::read_json(
            &path,
            "`{\"videos\": {video: {\"expressions\": {id: {\"exp\", \"obj_id\"}}}}}`",
            &mut digest,
        )?;
        let mut texts = Texts::new();
        let mut planned_skips = Vec::new();
        for (video, of_video) in file.videos {
            let objects = texts.entry(video.clone()).or_default();
            for (id, value) in of_video.expressions {
                let parsed = Expression::deserialize(&value).ok();
                match parsed.filter(|expression| !expression.exp.trim().is_empty()) {
                    Some(expression) => {
                        add_text(objects, expression.obj_id.to_string(), &expression.exp)
                    }
                    None => planned_skips.push(Skip::new(
                        Reason::MissingDescription,
                        format!("{}: video {video}, expression {id}", path.display()),
                        "`exp`, a text, and `obj_id`",
                        value,
                    )),
                }
            }
        }
        Ok(Self {
            naming,
            positives,
            source,
            frames_dir: dir.join("JPEGImages"),
            masks_dir: dir.join("Annotations"),
            videos: texts.into_iter().collect(),
            planned_skips,
            digest,
        })
    }
}

/// Adds a text to those of an object, once.
pub(super) fn add_text(objects: &mut BTreeMap<String, Vec<String>>, object: String, text: &str) {
    let texts = objects.entry(object).or_default();
    let text = text.trim();
    if !texts.iter().any(|known| known == text) {
        texts.push(text.to_owned());
    }
}

impl Source for RefVideos {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Descriptions,
            self.positives,
            serde_json::json!({ "source": self.source }),
        )
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (name, descriptions) = &self.videos[unit];
        let mut skips = Vec::new();
        let frames_dir = self.frames_dir.join(name);
        let masks_dir = self.masks_dir.join(name);
        let Some(palette) = load_palette_video(name, &frames_dir, &masks_dir, &mut skips)? else {
            return Ok(SourceUnit::empty(skips));
        };
        let mut tracks = Vec::new();
        for (index, masks) in palette.masks {
            let id = index.to_string();
            match descriptions.get(&id) {
                Some(descriptions) => tracks.push(ObjectTrack {
                    id,
                    category: None,
                    descriptions: descriptions.clone(),
                    masks,
                    anomalous: None,
                }),
                None if index == 255 => {} // void
                None => skips.push(Skip::new(
                    Reason::MissingDescription,
                    format!("{}: object {id}", masks_dir.display()),
                    "an expression that names it",
                    "none",
                )),
            }
        }
        let clips = cut_rows(
            &self.naming,
            Purpose::Training,
            palette.video,
            &tracks,
            None,
            &mut skips,
        );
        Ok(SourceUnit { clips, skips })
    }
}
