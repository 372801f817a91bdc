//! refCOCO: sentences from a game, in which where a thing stands could be said.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::Purpose;
use lavida_store::Result;

use super::refer::{ReferImages, ReferSet, coco_images, instances_file};
use crate::sources::{Source, SourceArgs};

/// Where refCOCO lies.
#[derive(Args, Clone, Debug)]
pub struct RefcocoArgs {
    /// Folder holding refcoco/ and images/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which references: train, val, testA, testB
    #[arg(long, default_value = "train")]
    pub split: String,
    /// By whom the set was split
    #[arg(long, default_value = "unc")]
    pub split_by: String,
}

impl SourceArgs for RefcocoArgs {
    const NAME: &'static str = "refcoco";
    const HELP: &'static str = "refCOCO: pictures with sentences that refer to their objects";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let set = ReferSet {
            source: Self::NAME,
            refs: self.root.join(format!("refcoco/refs({}).p", self.split_by)),
            instances: instances_file(&self.root, "refcoco"),
            images: coco_images(&self.root),
            split: &self.split,
        };
        Ok(Box::new(ReferImages::open(set, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        dir.join("refcoco/refs(unc).p").is_file().then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
            split_by: "unc".to_owned(),
        })
    }
}
