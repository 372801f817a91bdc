//! refCOCOg: longer sentences, written without a game.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::Purpose;
use lavida_store::Result;

use super::refer::{ReferImages, ReferSet, coco_images, instances_file};
use crate::sources::{Source, SourceArgs};

/// Where refCOCOg lies.
#[derive(Args, Clone, Debug)]
pub struct RefcocogArgs {
    /// Folder holding refcocog/ and images/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which references: train, val, test
    #[arg(long, default_value = "train")]
    pub split: String,
    /// By whom the set was split
    #[arg(long, default_value = "umd")]
    pub split_by: String,
}

impl SourceArgs for RefcocogArgs {
    const NAME: &'static str = "refcocog";
    const HELP: &'static str = "refCOCOg: pictures with sentences that refer to their objects";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let set = ReferSet {
            source: Self::NAME,
            refs: self
                .root
                .join(format!("refcocog/refs({}).p", self.split_by)),
            instances: instances_file(&self.root, "refcocog"),
            images: coco_images(&self.root),
            split: &self.split,
        };
        Ok(Box::new(ReferImages::open(set, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        dir.join("refcocog/refs(umd).p").is_file().then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
            split_by: "umd".to_owned(),
        })
    }
}
