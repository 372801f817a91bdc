//! gRefCOCO: sentences that refer to one object, to several, or to none.
//!
//! A sentence stands with each object it names. One that names nothing in its picture is no object's and is left out.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::Purpose;
use lavida_store::Result;

use super::refer::{ReferImages, ReferSet, coco_images, instances_file};
use crate::sources::{Source, SourceArgs};

/// Where gRefCOCO lies.
#[derive(Args, Clone, Debug)]
pub struct GrefcocoArgs {
    /// Folder holding grefcoco/ and images/, and annotations/instances_train2014.json unless grefcoco/ has its masks
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which references: train, val, testA, testB
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for GrefcocoArgs {
    const NAME: &'static str = "grefcoco";
    const HELP: &'static str =
        "gRefCOCO: pictures with sentences that refer to one object, several or none";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let set = ReferSet {
            source: Self::NAME,
            refs: refs(&self.root),
            instances: instances_file(&self.root, "grefcoco"),
            images: coco_images(&self.root),
            split: &self.split,
        };
        Ok(Box::new(ReferImages::open(set, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        refs(dir).is_file().then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
        })
    }
}

/// The file of references: JSON as it is published, or a pickle.
fn refs(root: &Path) -> PathBuf {
    let json = root.join("grefcoco/grefs(unc).json");
    let pickle = root.join("grefcoco/grefs(unc).p");
    if !lavida_files::is_there(&json) && lavida_files::is_there(&pickle) {
        pickle
    } else {
        json
    }
}
