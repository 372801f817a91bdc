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
    obj_id: serde_json::Value,
}

/// A set of referring videos in this layout, its expressions read.
pub(super) struct RefVideos {
    naming: Naming,
    positives: Positives,
    source: &'static str,
    dir: PathBuf,
    expressions_file: PathBuf,
    videos: Vec<(String, ExpressionsOfVideo)>,
    digest: InputDigest,
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
        let expressions_file = root
            .join("meta_expressions")
            .join(split)
            .join("meta_expressions.json");
        let mut digest = InputDigest::default();
        let file: ExpressionsFile = files::read_json(
            &expressions_file,
            "`{\"videos\": {video: {\"expressions\": {id: {\"exp\", \"obj_id\"}}}}}`",
            &mut digest,
        )?;
        Ok(Self {
            naming,
            positives,
            source,
            dir,
            expressions_file,
            videos: file.videos.into_iter().collect(),
            digest,
        })
    }

    /// Texts by object id.
    fn descriptions(
        &self,
        video: &str,
        expressions: &ExpressionsOfVideo,
        skips: &mut Vec<Skip>,
    ) -> BTreeMap<String, Vec<String>> {
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, value) in &expressions.expressions {
            let parsed = serde_json::from_value::<Expression>(value.clone());
            match parsed {
                Ok(expression) if !expression.exp.trim().is_empty() => {
                    let object = expression.obj_id.as_str().map(str::to_owned);
                    let object = object.unwrap_or_else(|| expression.obj_id.to_string());
                    let texts = texts.entry(object).or_default();
                    let text = expression.exp.trim();
                    if !texts.iter().any(|known| known == text) {
                        texts.push(text.to_owned());
                    }
                }
                _ => skips.push(Skip::new(
                    Reason::MissingDescription,
                    format!(
                        "{}: video {video}, expression {id}",
                        self.expressions_file.display()
                    ),
                    "`exp`, a text, and `obj_id`",
                    value,
                )),
            }
        }
        texts
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

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let (name, expressions) = &self.videos[unit];
        let mut skips = Vec::new();
        let mut descriptions = self.descriptions(name, expressions, &mut skips);
        let frames_dir = self.dir.join("JPEGImages").join(name);
        let masks_dir = self.dir.join("Annotations").join(name);
        let Some(palette) = load_palette_video(name, &frames_dir, &masks_dir, &mut skips)? else {
            return Ok(SourceUnit::empty(skips));
        };
        let mut tracks = Vec::new();
        for (index, masks) in palette.masks {
            let id = index.to_string();
            match descriptions.remove(&id) {
                Some(descriptions) => tracks.push(ObjectTrack {
                    id,
                    category: None,
                    descriptions,
                    masks,
                    anomalous: None,
                }),
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
