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

use std::path::Path;

use clap::Subcommand;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_store::Result;

pub use self::images::ade20k::Ade20kSplit;
pub use crate::read::rows::SourceUnit;
use crate::skip::Skip;

/// What the command line says of a source, and how the source is opened. Its own arguments implement it.
pub trait SourceArgs: clap::Args + Sized {
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

    /// Its arguments for the dataset that lies in `dir`, where that has its published layout: what `build auto` asks each
    /// source. Looks at names alone.
    fn found_in(dir: &Path) -> Option<Self>;
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

    /// What people should know of the dataset as a whole before it is built.
    fn notices(&self) -> &[String] {
        &[]
    }

    /// Reads one unit in pieces, in order, as far as `take` wants more; memory holds a piece. Sources of whole video files
    /// need it, others have one piece.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    fn stream(&self, unit: usize, take: &mut dyn FnMut(SourceUnit) -> bool) -> Result<()> {
        take(self.load(unit)?);
        Ok(())
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

            /// Every source whose published layout the dataset in `dir` has.
            pub fn found_in(dir: &Path) -> Vec<Self> {
                [$($args::found_in(dir).map(Self::$source),)*].into_iter().flatten().collect()
            }
        }
    };
}

// Every source, in the order of `build --help`.
sources! {
    Coco(images::coco::CocoArgs),
    CocoPanoptic(images::coco_panoptic::CocoPanopticArgs),
    CocoStuff(images::coco_stuff::CocoStuffArgs),
    Ade20k(images::ade20k::Ade20kArgs),
    Ade20kFull(images::ade20k_full::Ade20kFullArgs),
    Cityscapes(images::cityscapes::CityscapesArgs),
    Mapillary(images::mapillary::MapillaryArgs),
    MaskedImages(images::masked_images::MaskedImagesArgs),
    Refclef(expressions::refclef::RefclefArgs),
    Refcoco(expressions::refcoco::RefcocoArgs),
    RefcocoPlus(expressions::refcoco_plus::RefcocoPlusArgs),
    Refcocog(expressions::refcocog::RefcocogArgs),
    Grefcoco(expressions::grefcoco::GrefcocoArgs),
    Davis(videos::davis::DavisArgs),
    YoutubeVos(videos::youtube_vos::YoutubeVosArgs),
    LabelledVideos(videos::labelled_videos::LabelledVideosArgs),
    Mevis(expressions::mevis::MevisArgs),
    RefYoutubeVos(expressions::ref_youtube_vos::RefYoutubeVosArgs),
    RefDavis(expressions::ref_davis::RefDavisArgs),
    Ubnormal(benchmarks::ubnormal::UbnormalArgs),
    Shanghaitech(benchmarks::shanghaitech::ShanghaitechArgs),
    UcfCrime(benchmarks::ucf_crime::UcfCrimeArgs),
    XdViolence(benchmarks::xd_violence::XdViolenceArgs),
    UcsdPed(benchmarks::ucsd_ped::UcsdPedArgs),
    Avenue(benchmarks::avenue::AvenueArgs),
    BenchmarkVideos(benchmarks::benchmark_videos::BenchmarkVideosArgs),
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
