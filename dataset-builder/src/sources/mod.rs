//! Source datasets: each file reads one published layout and yields rows.
//!
//! A source is one file. It holds the source's arguments on the command line ([`SourceArgs`]: its name, its line of help, how
//! it is opened) and what is read of it ([`Source`]). The list in this file is the only other place that names it: which
//! sources there are, the commands of `lavida-dataset build` and the tests of all sources follow from that.
//!
//! A source is opened once (annotation files are read, folders listed), then loaded unit by unit, in parallel and in any
//! order. A unit is an image or a video: what can be read without its neighbours.

pub mod benchmarks;
pub mod expressions;
pub mod images;
pub mod videos;

use clap::Subcommand;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_store::Result;

pub use self::images::ade20k::Ade20kSplit;
pub use crate::read::rows::SourceUnit;
use crate::skip::Skip;

/// What the command line says of a source, and how the source is opened. Its own arguments implement it.
pub trait SourceArgs: clap::Args {
    /// The source's name on the command line, and its dataset's unless it is renamed.
    const NAME: &'static str;
    /// What `build --help` says of it.
    const HELP: &'static str;
    /// What its shards are for.
    const PURPOSE: Purpose;

    /// Reads annotation files and lists folders; rows will carry `dataset` as the name of their dataset.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the layout is not the source's, [`lavida_store::Error::Corrupt`] when an
    /// annotation file is damaged.
    fn open(&self, dataset: &str) -> Result<Box<dyn Source>>;
}

/// An opened source dataset.
pub trait Source: Send + Sync {
    /// What the manifest says about the dataset as a whole.
    fn header(&self) -> DatasetHeader;

    /// Images or videos.
    fn n_units(&self) -> usize;

    /// Changes when the annotations or the list of images or videos do: a resumed build must be of the same input.
    fn input_digest(&self) -> String;

    /// What was found to be unusable while opening.
    fn planned_skips(&self) -> &[Skip] {
        &[]
    }

    /// Reads one unit. Blocks on files; called from several threads.
    ///
    /// # Errors
    ///
    /// Only what stops the whole build; a bad annotation is a [`Skip`] of the unit.
    fn load(&self, unit: usize) -> Result<SourceUnit>;
}

macro_rules! sources {
    ($($source:ident($kind:ident::$file:ident::$args:ident)),* $(,)?) => {
        $(pub use self::$kind::$file::$args;)*

        /// Which source dataset, and where it lies: a subcommand of `lavida-dataset build`.
        #[derive(Clone, Debug, Subcommand)]
        #[allow(missing_docs, reason = "a variant says what its arguments' HELP says")]
        pub enum SourceSpec {
            $(#[command(name = $args::NAME, about = $args::HELP)] $source($args),)*
        }

        impl SourceSpec {
            /// Every source's name and what its shards are for, in the order of `build --help`.
            pub const ALL: &'static [(&'static str, Purpose)] = &[$(($args::NAME, $args::PURPOSE)),*];

            /// As [`SourceArgs::NAME`].
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$source(_) => $args::NAME,)*
                }
            }

            /// As [`SourceArgs::open`].
            ///
            /// # Errors
            ///
            /// As [`SourceArgs::open`].
            pub fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
                match self {
                    $(Self::$source(args) => args.open(dataset),)*
                }
            }
        }
    };
}

// Every source, in the order of `build --help`.
sources! {
    Coco(images::coco::CocoArgs),
    CocoPanoptic(images::coco_panoptic::CocoPanopticArgs),
    Ade20k(images::ade20k::Ade20kArgs),
    Cityscapes(images::cityscapes::CityscapesArgs),
    Mapillary(images::mapillary::MapillaryArgs),
    Davis(videos::davis::DavisArgs),
    YoutubeVos(videos::youtube_vos::YoutubeVosArgs),
    Mevis(expressions::mevis::MevisArgs),
    RefYoutubeVos(expressions::ref_youtube_vos::RefYoutubeVosArgs),
    RefDavis(expressions::ref_davis::RefDavisArgs),
    UcsdPed(benchmarks::ucsd_ped::UcsdPedArgs),
    Shanghaitech(benchmarks::shanghaitech::ShanghaitechArgs),
}

/// Names of the sources whose shards are for `purpose`, from a to z. A mixing weight may name any for training.
pub fn names(purpose: Purpose) -> Vec<&'static str> {
    let mut names: Vec<&str> = SourceSpec::ALL
        .iter()
        .filter(|(_, of_source)| *of_source == purpose)
        .map(|(name, _)| *name)
        .collect();
    names.sort_unstable();
    names
}
