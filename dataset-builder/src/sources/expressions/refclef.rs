//! refCLEF: sentences on the regions of SAIAPR TC-12, whose pictures lie in numbered folders.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::Purpose;
use lavida_store::Result;

use super::refer::{ReferImages, ReferSet, instances_file};
use crate::sources::{Source, SourceArgs};

/// Where refCLEF lies.
#[derive(Args, Clone, Debug)]
pub struct RefclefArgs {
    /// Folder holding refclef/ and images/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which references: train, val, test, testA, testB, testC
    #[arg(long, default_value = "train")]
    pub split: String,
    /// By whom the set was split
    #[arg(long, default_value = "unc")]
    pub split_by: String,
}

impl SourceArgs for RefclefArgs {
    const NAME: &'static str = "refclef";
    const HELP: &'static str = "refCLEF: pictures with sentences that refer to their objects";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let set = ReferSet {
            source: Self::NAME,
            refs: self.root.join(format!("refclef/refs({}).p", self.split_by)),
            instances: instances_file(&self.root, "refclef"),
            images: self.root.join("images/saiapr_tc-12"),
            split: &self.split,
        };
        Ok(Box::new(ReferImages::open(set, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        dir.join("refclef/refs(unc).p").is_file().then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
            split_by: "unc".to_owned(),
        })
    }
}
