//! `lavida score`: anybody's scores and a truth in, the figures under every published convention out.

mod table;

use std::path::PathBuf;

use clap::Args;
use lavida_data::{Error, Result};
use lavida_score::{
    benchmark::Benchmark,
    referee::{
        CONVENTIONS, Convention, RefereeOptions, RefereeReport,
        pairing::{Pairing, PairingOptions, pair},
        referee,
        regions::{Corners, DetectedRegion, RegionFigures, TrackedRegion, region_figures, rows},
        truth::{self, PixelFigures, PixelTruth},
        values::{FrameValues, Role, files, name_of, video_name},
    },
};
use serde::Serialize;

use crate::{
    arguments::at_least,
    output::{print_json, print_text, write_file},
};

/// Smoothing beyond this many frames is a slip: half an hour of video.
const WIDEST_SIGMA_FRAMES: f64 = 50_000.0;

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Files or folders of frame scores: JSON, CSV, .npy, or one number a line; one file a video, or one for all
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub scores: Vec<PathBuf>,
    /// A built evaluation set, or files of labels (0 or 1 a frame) in the forms of --scores
    #[arg(long, value_name = "FILE|URI", num_args = 1.., required = true)]
    pub truth: Vec<String>,
    /// Frames that each score stands for
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least(1))]
    pub repeat: usize,
    /// Leave out videos of the truth without scores, and say which, instead of refusing
    #[arg(long)]
    pub skip_missing: bool,
    /// Standard deviations of Gaussian smoothing to show, in frames, separated by commas
    #[arg(long, value_name = "LIST", default_value = "0,5,15", value_delimiter = ',', value_parser = sigma)]
    pub smoothing: Vec<f64>,
    /// Score from which on a frame is called anomalous, for F1 at a fixed threshold
    #[arg(
        long,
        value_name = "SCORE",
        default_value_t = 0.5,
        allow_negative_numbers = true
    )]
    pub threshold: f64,
    /// Resamples of the bootstrap over videos that gives the intervals; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Maps of pixel scores, .npy files [frames, height, width], one a video
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub pixel_scores: Vec<PathBuf>,
    /// Masks for --pixel-scores, .npy files of the same shape; those of a built --truth by default
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "pixel_scores")]
    pub pixel_truth: Vec<PathBuf>,
    /// Detected boxes for RBDC and TBDC, one file a video, lines of `frame, x_min, y_min, x_max, y_max, score`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub detections: Vec<PathBuf>,
    /// Tracks for --detections, lines of `track, frame, x_min, y_min, x_max, y_max`; those of a built --truth by default
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "detections")]
    pub tracks: Vec<PathBuf>,
    /// Also write the JSON document to this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON document on standard output instead of the table
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    report: RefereeReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixels: Option<PixelFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<RegionFigures>,
    notes: Vec<String>,
    conventions: &'static [Convention],
}

pub async fn run(args: ScoreArgs) -> anyhow::Result<()> {
    if !args.threshold.is_finite() {
        return Err(Error::invalid("--threshold", "a finite score", args.threshold).into());
    }
    let built = match &args.truth[..] {
        [uri] => truth::built(uri).await?,
        _ => None,
    };
    let labels = match &built {
        Some(benchmark) => truth::frame_labels(benchmark).await?,
        None => {
            let paths: Vec<PathBuf> = args.truth.iter().map(PathBuf::from).collect();
            FrameValues::read(&paths, Role::Labels)?
        }
    };
    let scores = FrameValues::read(&args.scores, Role::Scores)?;
    let pairing = PairingOptions {
        repeat: args.repeat,
        skips_missing: args.skip_missing,
    };
    let Pairing { videos, notes } = pair(scores, labels, pairing)?;
    let options = RefereeOptions {
        smoothing_sigma_frames: args.smoothing.clone(),
        threshold: args.threshold,
        n_resamples: args.resamples,
        seed: args.seed,
    };
    let report = tokio::task::block_in_place(|| referee(&videos, &options));
    let document = Document {
        pixels: pixels(&args, built.as_ref()).await?,
        regions: regions(&args, built.as_ref(), report.frames).await?,
        report,
        notes,
        conventions: &CONVENTIONS,
    };
    if let Some(out) = &args.out {
        write_file(out, &serde_json::to_vec_pretty(&document)?)?;
    }
    if args.json {
        print_json(&document)
    } else {
        print_text(&table::of(&document))
    }
}

fn sigma(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(sigma) if (0.0..=WIDEST_SIGMA_FRAMES).contains(&sigma) => Ok(sigma),
        _ => Err(format!(
            "expected a number of frames from 0 to {WIDEST_SIGMA_FRAMES}"
        )),
    }
}

async fn pixels(args: &ScoreArgs, built: Option<&Benchmark>) -> Result<Option<PixelFigures>> {
    if args.pixel_scores.is_empty() {
        return Ok(None);
    }
    let truth = match built {
        _ if !args.pixel_truth.is_empty() => PixelTruth::Files(&args.pixel_truth),
        Some(benchmark) => PixelTruth::Built(benchmark),
        None => {
            let expected = "--pixel-truth, or a built set as --truth";
            return Err(Error::invalid("--pixel-scores", expected, "neither"));
        }
    };
    Ok(Some(truth::pixel_figures(&args.pixel_scores, truth).await?))
}

async fn regions(
    args: &ScoreArgs,
    built: Option<&Benchmark>,
    n_frames: usize,
) -> Result<Option<RegionFigures>> {
    if args.detections.is_empty() {
        return Ok(None);
    }
    let truth = match built {
        _ if !args.tracks.is_empty() => tracks(&args.tracks)?,
        Some(benchmark) => {
            let mut regions = truth::tracked_regions(benchmark).await?;
            for region in &mut regions {
                region.video = video_name(&region.video).to_owned();
            }
            regions
        }
        None => {
            let expected = "--tracks, or a built set as --truth";
            return Err(Error::invalid("--detections", expected, "neither"));
        }
    };
    let columns = "frame, x_min, y_min, x_max, y_max, score";
    let mut detections = Vec::new();
    for path in files(&args.detections)? {
        let text = read(&path)?;
        for [frame, left, top, right, bottom, score] in
            rows(&path.display().to_string(), &text, columns)?
        {
            detections.push(DetectedRegion {
                video: name_of(&path),
                frame: frame as u64,
                corners: corners(&path, [left, top, right, bottom])?,
                score,
            });
        }
    }
    region_figures(&truth, detections, n_frames).map(Some)
}

fn tracks(paths: &[PathBuf]) -> Result<Vec<TrackedRegion>> {
    let columns = "track, frame, x_min, y_min, x_max, y_max";
    let mut regions = Vec::new();
    for path in files(paths)? {
        let text = read(&path)?;
        for [track, frame, left, top, right, bottom] in
            rows(&path.display().to_string(), &text, columns)?
        {
            regions.push(TrackedRegion {
                video: name_of(&path),
                track: track.to_string(),
                frame: frame as u64,
                corners: corners(&path, [left, top, right, bottom])?,
            });
        }
    }
    Ok(regions)
}

fn corners(path: &std::path::Path, corners: Corners) -> Result<Corners> {
    let [left, top, right, bottom] = corners;
    if right >= left && bottom >= top {
        return Ok(corners);
    }
    let expected = "boxes as x_min, y_min, x_max, y_max";
    Err(Error::invalid(
        path.display(),
        expected,
        format!("{corners:?}"),
    ))
}

/// Scores of days of video, a number a line.
const MAX_TEXT_BYTES: u64 = 1 << 30;

fn read(path: &std::path::Path) -> Result<String> {
    lavida_files::read_text(path, MAX_TEXT_BYTES)
        .map_err(|error| Error::unusable(path.display(), "a text file", error))
}
