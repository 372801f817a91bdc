//! Ref-DAVIS, in the layout of Ref-YouTube-VOS that its users convert it to.

use std::path::PathBuf;

use clap::Args;
use lavida_data::manifest::{Positives, Purpose};
use lavida_store::Result;

use super::ref_youtube_vos::RefVideos;
use crate::read::rows::Naming;
use crate::sources::{Source, SourceArgs};

/// Where Ref-DAVIS lies.
#[derive(Args, Clone, Debug)]
pub struct RefDavisArgs {
    /// Folder holding the split's folder and meta_expressions/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for RefDavisArgs {
    const NAME: &'static str = "ref-davis";
    const HELP: &'static str = "Ref-DAVIS, in the layout of Ref-YouTube-VOS";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let naming = Naming::new(dataset, &self.split);
        let videos = RefVideos::open(&self.root, naming, Positives::One, Self::NAME)?;
        Ok(Box::new(videos))
    }
}
