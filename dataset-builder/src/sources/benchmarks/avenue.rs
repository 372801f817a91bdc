//! CUHK Avenue (evaluation): one camera, a MATLAB file of masks for each test video.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::Result;

use crate::read::evaluation::{EvaluationVideo, FrameTruth, collected, videos_below};
use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
use crate::read::matlab::Cells;
use crate::read::names::category_list;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "Avenue: ROOT/testing_videos/NN.avi (or a folder NN of frames, or NN.mp4) and \
                      ROOT/ground_truth_demo/testing_label_mask/N_label.mat";

/// Kinds of its anomalies as its paper lists them; the reference has no Avenue.
const CATEGORIES: [&str; 5] = [
    "running",
    "throwing objects",
    "loitering",
    "walking in the wrong direction",
    "dancing",
];

/// Where Avenue lies.
#[derive(Args, Clone, Debug)]
pub struct AvenueArgs {
    /// Folder holding testing_videos/ and ground_truth_demo/ (they are published in two zips)
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: running, throwing objects, loitering, walking in the wrong
    /// direction, dancing]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for AvenueArgs {
    const NAME: &'static str = "avenue";
    const HELP: &'static str = "CUHK Avenue, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Avenue::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let is_set = masks_dir(dir).is_dir() && videos_dir(dir).is_dir();
        is_set.then(|| Self {
            root: dir.to_owned(),
            categories: None,
        })
    }
}

fn videos_dir(root: &Path) -> PathBuf {
    files::split_dir(root, "Avenue Dataset").join("testing_videos")
}

fn masks_dir(root: &Path) -> PathBuf {
    let places = [
        root.join("ground_truth_demo/testing_label_mask"),
        root.join("Avenue Dataset/ground_truth_demo/testing_label_mask"),
    ];
    places
        .iter()
        .find(|dir| dir.is_dir())
        .unwrap_or(&places[0])
        .clone()
}

struct Avenue {
    naming: Naming,
    categories: Vec<String>,
    /// Name, video and file of masks.
    videos: Vec<(String, PathBuf, PathBuf)>,
    digest: InputDigest,
}

impl Avenue {
    /// Lists the test videos.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when the folder does not have the layout.
    fn open(args: &AvenueArgs, dataset: &str) -> Result<Self> {
        let (videos_dir, masks_dir) = (videos_dir(&args.root), masks_dir(&args.root));
        files::require_dir(&videos_dir, LAYOUT)?;
        files::require_dir(&masks_dir, LAYOUT)?;
        let mut digest = InputDigest::default();
        let mut videos = Vec::new();
        for (name, path) in videos_below(&videos_dir)? {
            digest.add(&name);
            let masks = masks_dir.join(format!("{}_label.mat", name.trim_start_matches('0')));
            videos.push((name, path, masks));
        }
        if videos.is_empty() {
            return Err(files::layout_error(&videos_dir, LAYOUT));
        }
        videos.sort_by_key(|(name, ..)| files::natural_key(name));
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories: category_list(args.categories.as_deref(), None, &CATEGORIES)?,
            videos,
            digest,
        })
    }
}

impl Source for Avenue {
    fn header(&self) -> DatasetHeader {
        evaluation_header(
            &self.naming,
            &self.categories,
            AvenueArgs::NAME,
            ScoringRules {
                protocol: "avenue",
                interval: 1,
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
        collected(|take| self.stream(unit, take))
    }

    fn stream(&self, unit: usize, take: &mut dyn FnMut(SourceUnit) -> bool) -> Result<()> {
        let (name, path, masks) = &self.videos[unit];
        let unusable = |found: String| {
            Skip::new(
                Reason::IncompleteVideo,
                masks.display(),
                "a MATLAB file with a cell array of masks, one a frame",
                found,
            )
        };
        let mut cells = match Cells::open(masks) {
            Ok(cells) => cells,
            Err(found) => {
                take(SourceUnit::skipped(unusable(found)));
                return Ok(());
            }
        };
        let n_cells = cells.n_cells();
        // Masks come in order, and a frame that cannot be read has one too.
        let (mut next, mut n_frames, mut damage) = (0usize, 0usize, None);
        let video = EvaluationVideo {
            naming: &self.naming,
            name,
            path,
            categories: &[],
        };
        let mut truth = |frame: usize, (width, height): (u32, u32)| {
            n_frames = frame + 1;
            let missing = |found: String| {
                Skip::new(
                    Reason::MissingMask,
                    format!("{}: frame {frame}", masks.display()),
                    format!("a mask of {width}×{height} px"),
                    found,
                )
            };
            loop {
                match cells.next() {
                    Some(Ok(_)) if next < frame => next += 1,
                    Some(Ok(cell)) if (cell.width, cell.height) == (width, height) => {
                        next += 1;
                        let shows = cell.values.iter().any(|value| *value != 0);
                        let anomaly =
                            shows.then(|| RleMask::from_raster(&cell.values, height, width));
                        return Ok(FrameTruth {
                            label: shows,
                            anomaly,
                            ..FrameTruth::default()
                        });
                    }
                    Some(Ok(cell)) => {
                        next += 1;
                        return Err(missing(format!("{}×{} px", cell.width, cell.height)));
                    }
                    Some(Err(found)) => {
                        damage = Some(found.clone());
                        return Err(missing(found));
                    }
                    None => {
                        return Err(missing(
                            damage.clone().unwrap_or_else(|| format!("{n_cells} masks")),
                        ));
                    }
                }
            }
        };
        video.stream(&mut truth, take)?;
        if n_frames > 0 && n_frames < n_cells {
            let found = format!("{n_frames} frames");
            let skip = Skip::new(
                Reason::MaskWithoutFrame,
                path.display(),
                format!("{n_cells} frames, as many as masks"),
                found,
            );
            take(SourceUnit::skipped(skip));
        }
        Ok(())
    }
}
