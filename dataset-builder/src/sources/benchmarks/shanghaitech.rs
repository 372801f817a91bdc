//! ShanghaiTech Campus (evaluation): test frames and one NumPy array of pixel masks a video.
//!
//! Masks are read frame by frame from the array file: a video's array may be half a gigabyte. Where mask and frame counts
//! differ, the frames without a mask are left out.

use std::path::PathBuf;

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::Result;

use crate::read::files::{self, InputDigest};
use crate::read::header::evaluation_header;
use crate::read::names::category_list;
use crate::read::npy::MaskArray;
use crate::read::pictures::IMAGE_ENDINGS;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::read::video::load_video;
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str =
    "ShanghaiTech: ROOT/testing/frames/VIDEO/*.jpg and ROOT/testing/test_pixel_mask/VIDEO.npy";

/// The categories the reference asks for.
const CATEGORIES: [&str; 18] = [
    "bicycle",
    "fight",
    "throw",
    "pick",
    "hand truck",
    "run",
    "skate",
    "falling",
    "jumping",
    "motorcycle",
    "tricycle",
    "cart",
    "waving stick",
    "hurdle",
    "vehicle",
    "play",
    "baby carriage",
    "truck",
];

/// Where ShanghaiTech lies.
#[derive(Args, Clone, Debug)]
pub struct ShanghaitechArgs {
    /// Folder holding testing/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: the reference's 18]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for ShanghaitechArgs {
    const NAME: &'static str = "shanghaitech";
    const HELP: &'static str = "ShanghaiTech Campus, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Shanghaitech::open(self, dataset)?))
    }
}

/// The test videos of ShanghaiTech.
struct Shanghaitech {
    naming: Naming,
    categories: Vec<String>,
    masks_dir: PathBuf,
    videos: Vec<PathBuf>,
    digest: InputDigest,
}

impl Shanghaitech {
    /// Lists the test videos.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout or no category is left.
    fn open(args: &ShanghaitechArgs, dataset: &str) -> Result<Self> {
        let frames_dir = args.root.join("testing/frames");
        let masks_dir = args.root.join("testing/test_pixel_mask");
        files::require_dir(&frames_dir, LAYOUT)?;
        files::require_dir(&masks_dir, LAYOUT)?;
        let videos = files::list_dirs(&frames_dir)?;
        if videos.is_empty() {
            return Err(files::layout_error(&frames_dir, LAYOUT));
        }
        let mut digest = InputDigest::default();
        videos
            .iter()
            .for_each(|video| digest.add(files::name(video)));
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories: category_list(args.categories.as_deref(), None, &CATEGORIES)?,
            masks_dir,
            videos,
            digest,
        })
    }
}

impl Source for Shanghaitech {
    fn header(&self) -> DatasetHeader {
        evaluation_header(&self.naming, &self.categories, ShanghaitechArgs::NAME)
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let frames_dir = &self.videos[unit];
        let name = files::name(frames_dir);
        let mut skips = Vec::new();
        let masks_path = self.masks_dir.join(format!("{name}.npy"));
        let mut masks = match MaskArray::open(&masks_path) {
            Ok(masks) => masks,
            Err(found) => {
                return Ok(SourceUnit::skipped(Skip::new(
                    Reason::IncompleteVideo,
                    masks_path.display(),
                    "a NumPy array [frames, height, width] of bytes or booleans",
                    found,
                )));
            }
        };
        let frame_files = files::list_files(frames_dir, &IMAGE_ENDINGS)?;
        let Some(mut video) = load_video(&name, None, (0u32..).zip(frame_files), &mut skips) else {
            return Ok(SourceUnit::empty(skips));
        };
        let mut truth: Vec<Option<RleMask>> = Vec::new();
        let (width, height) = (video.width, video.height);
        video.frames.retain(|frame| {
            let what = format!("{}: frame {}", masks_path.display(), frame.index);
            let raster = match masks.frame(frame.index as usize, height, width) {
                Ok(raster) => raster,
                Err(found) => {
                    let expected = format!("a mask of {width}×{height} px");
                    skips.push(Skip::new(Reason::MissingMask, what, expected, found));
                    return false;
                }
            };
            let shows = raster.iter().any(|px| *px != 0);
            truth.push(shows.then(|| RleMask::from_raster(&raster, height, width)));
            true
        });
        if video.frames.is_empty() {
            return Ok(SourceUnit::empty(skips));
        }
        let labels: Vec<bool> = truth.iter().map(Option::is_some).collect();
        let tracks = [ObjectTrack {
            id: "anomaly".to_owned(),
            category: None,
            descriptions: vec!["anomaly".to_owned()],
            masks: truth,
            anomalous: Some(true),
        }];
        let naming = &self.naming;
        let purpose = Purpose::Evaluation;
        let clips = cut_rows(naming, purpose, video, &tracks, Some(&labels), &mut skips);
        Ok(SourceUnit { clips, skips })
    }
}
