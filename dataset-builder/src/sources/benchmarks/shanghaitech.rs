//! ShanghaiTech Campus (evaluation): test frames and one NumPy array of pixel masks a video.
//!
//! Masks are read frame by frame from the array file: a video's array may be half a gigabyte. A frame's place in the array is
//! the number in its name, so a missing frame does not shift the labels of the rest; frames without a mask are left out.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::Result;

use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
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

    fn found_in(dir: &Path) -> Option<Self> {
        let is_set =
            dir.join("testing/frames").is_dir() && dir.join("testing/test_pixel_mask").is_dir();
        is_set.then(|| Self {
            root: dir.to_owned(),
            categories: None,
        })
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

/// Which mask is each frame's: by the numbers of the names, from 0 or, where the last is the number of masks, from 1. Other names
/// are paired in order when there are as many as masks. `None` where nothing says.
fn frame_indices(frames: &[PathBuf], n_masks: u32) -> Option<Vec<u32>> {
    let number = |path: &PathBuf| {
        let stem = files::stem(path);
        let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        stem[stem.len() - digits..].parse::<u32>().ok()
    };
    let numbers: Option<Vec<u32>> = frames.iter().map(number).collect();
    let numbers = numbers.filter(|numbers| numbers.windows(2).all(|pair| pair[0] < pair[1]));
    match numbers.as_deref() {
        Some([first, .., last]) if *first >= 1 && *last == n_masks => {
            numbers.map(|numbers| numbers.iter().map(|n| n - 1).collect())
        }
        Some([.., last]) if *last < n_masks || numbers.as_ref()?.first() == Some(&0) => numbers,
        _ if frames.len() as u64 == u64::from(n_masks) => Some((0..n_masks).collect()),
        _ => None,
    }
}

impl Source for Shanghaitech {
    fn header(&self) -> DatasetHeader {
        evaluation_header(
            &self.naming,
            &self.categories,
            ShanghaitechArgs::NAME,
            ScoringRules {
                protocol: "shanghaitech",
                interval: 2,
            },
        )
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
        let n_masks = masks.n_frames();
        let Some(indices) = frame_indices(&frame_files, n_masks) else {
            return Ok(SourceUnit::skipped(Skip::new(
                Reason::IncompleteVideo,
                frames_dir.display(),
                format!("frames whose numbers say which of the {n_masks} masks is theirs"),
                format!("{} frames under other names", frame_files.len()),
            )));
        };
        for index in (0..n_masks).filter(|index| !indices.contains(index)) {
            skips.push(Skip::new(
                Reason::MaskWithoutFrame,
                format!("{}: frame {index}", masks_path.display()),
                format!("a frame of this number in {}", frames_dir.display()),
                "none",
            ));
        }
        let frames = indices.into_iter().zip(frame_files);
        let Some(mut video) = load_video(&name, None, frames, &mut skips) else {
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
