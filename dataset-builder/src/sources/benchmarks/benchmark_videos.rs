//! Any folder of videos with a table of their anomalies (evaluation).
//!
//! The table is CSV with a header: `video,start,end[,category]`, a line an interval of frames from 0, both ends included; a video
//! without a line is normal, and so is one whose line has no start. Or `video,frame,label`, a line a frame. A video is a file
//! or a folder of frames.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_store::{Error, Result};

use crate::read::evaluation::{EvaluationVideo, FrameTruth, Intervals, collected, videos_below};
use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
use crate::read::names::is_name;
use crate::read::rows::{Naming, SourceUnit};
use crate::read::table::LabelTable;
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const FORM: &str =
    "a table `video,start,end[,category]` of intervals, or `video,frame,label` of frames";
const LAYOUT: &str = "a folder of video files or of folders of frames";

/// Where the videos lie, and their labels.
#[derive(Args, Clone, Debug)]
pub struct BenchmarkVideosArgs {
    /// Folder of the videos: files, or folders of frames
    #[arg(long, value_name = "DIR")]
    pub videos: PathBuf,
    /// CSV table `video,start,end[,category]` (frames from 0, both ends included) or `video,frame,label`
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: those of the table]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
    /// Score every N-th frame
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub interval: u32,
}

impl SourceArgs for BenchmarkVideosArgs {
    const NAME: &'static str = "benchmark-videos";
    const HELP: &'static str = "Any videos with a table of their anomalies, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(BenchmarkVideos::open(self, dataset)?))
    }

    fn found_in(_: &Path) -> Option<Self> {
        None // a folder of videos is no layout that says what it is for
    }
}

#[derive(Default)]
struct Labels {
    intervals: Intervals,
    /// Labels of single frames, where the table has them; then a frame without one has none.
    frames: Option<BTreeMap<u32, bool>>,
    categories: BTreeSet<String>,
}

struct BenchmarkVideos {
    naming: Naming,
    categories: Vec<String>,
    interval: u32,
    videos: Vec<(String, PathBuf, Labels)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl BenchmarkVideos {
    /// Lists the videos and reads the table.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no video, the table has other columns or odd numbers, or no category is known;
    /// [`Error::Corrupt`] for a cut table.
    fn open(args: &BenchmarkVideosArgs, dataset: &str) -> Result<Self> {
        files::require_dir(&args.videos, LAYOUT)?;
        let paths = videos_below(&args.videos)?;
        if paths.is_empty() {
            return Err(files::layout_error(&args.videos, LAYOUT));
        }
        let mut digest = InputDigest::default();
        paths.keys().for_each(|name| digest.add(name));
        let mut labels = read_labels(&args.labels, &mut digest)?;
        let mut planned_skips = Vec::new();
        for name in labels.keys().filter(|name| !paths.contains_key(*name)) {
            let expected = format!(
                "{name}.mp4, or a folder {name} of frames, in {}",
                args.videos.display()
            );
            planned_skips.push(Skip::new(
                Reason::IncompleteVideo,
                format!("{}: {name}", args.labels.display()),
                expected,
                "none",
            ));
        }
        let of_table: BTreeSet<String> = labels
            .values()
            .flat_map(|labels| labels.categories.iter().cloned())
            .collect();
        let told = args
            .categories
            .as_deref()
            .map(|list| list.split(',').map(str::trim).map(str::to_owned));
        let categories: Vec<String> = match told {
            Some(told) => told.filter(|name| is_name(name)).collect(),
            None => of_table.into_iter().collect(),
        };
        if categories.is_empty() {
            let found = "none: give --categories, or a column `category`";
            return Err(Error::invalid(
                args.labels.display(),
                "at least one category to ask for",
                found,
            ));
        }
        let videos = paths.into_iter().map(|(name, path)| {
            let labels = labels.remove(&name).unwrap_or_default();
            (name, path, labels)
        });
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories,
            interval: args.interval,
            videos: videos.collect(),
            planned_skips,
            digest,
        })
    }
}

fn read_labels(path: &Path, digest: &mut InputDigest) -> Result<BTreeMap<String, Labels>> {
    let table = LabelTable::read(path, &["video"], FORM, digest)?;
    let (by_frame, by_interval) = (
        table.has("frame") && table.has("label"),
        table.has("start") && table.has("end"),
    );
    if !by_frame && !by_interval {
        return Err(Error::invalid(
            path.display(),
            FORM,
            "neither `start` and `end` nor `frame` and `label`",
        ));
    }
    let mut labels: BTreeMap<String, Labels> = BTreeMap::new();
    for row in table.rows() {
        let missing = |column: &str| Error::corrupt(table.name(row, column), FORM, "nothing there");
        let name = table.cell(row, "video").ok_or_else(|| missing("video"))?;
        let of_video = labels.entry(video_name(name)).or_default();
        let is_anomalous = if by_frame {
            let frame = table
                .number(row, "frame")?
                .ok_or_else(|| missing("frame"))?;
            let label = table
                .number(row, "label")?
                .ok_or_else(|| missing("label"))?
                != 0;
            of_video.frames.get_or_insert_default().insert(frame, label);
            label
        } else {
            match (table.number(row, "start")?, table.number(row, "end")?) {
                (Some(start), Some(end)) if start <= end => of_video.intervals.0.push((start, end)),
                (None, None) => {}
                (Some(start), Some(end)) => {
                    return Err(Error::invalid(
                        table.name(row, "end"),
                        format!("a frame from {start}"),
                        end,
                    ));
                }
                (Some(_), None) => return Err(missing("end")),
                (None, Some(_)) => return Err(missing("start")),
            }
            table.cell(row, "start").is_some()
        };
        let category = table.cell(row, "category").filter(|_| is_anomalous);
        of_video.categories.extend(category.map(str::to_owned));
    }
    Ok(labels)
}

/// A video's name as [`videos_below`] has it: without folders and the ending of a video file.
pub fn video_name(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, ending))
            if crate::read::evaluation::VIDEO_ENDINGS.contains(&ending.to_lowercase().as_str()) =>
        {
            stem.to_owned()
        }
        _ => name.to_owned(),
    }
}

impl Source for BenchmarkVideos {
    fn header(&self) -> DatasetHeader {
        let shown = self.videos.iter().filter(|(_, _, labels)| {
            let has_anomaly = !labels.intervals.0.is_empty()
                || labels.frames.iter().flatten().any(|(_, label)| *label);
            !has_anomaly || !labels.categories.is_empty()
        });
        let mut true_categories: BTreeMap<String, Vec<String>> = shown
            .map(|(name, _, labels)| (name.clone(), labels.categories.iter().cloned().collect()))
            .collect();
        // Where no video says what it shows, that the normal ones show nothing is no help.
        if true_categories.values().all(Vec::is_empty) {
            true_categories.clear();
        }
        let benchmark = ScoringRules {
            protocol: "",
            interval: self.interval,
        };
        DatasetHeader {
            true_categories,
            ..evaluation_header(
                &self.naming,
                &self.categories,
                BenchmarkVideosArgs::NAME,
                benchmark,
            )
        }
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        collected(|take| self.stream(unit, take))
    }

    fn stream(&self, unit: usize, take: &mut dyn FnMut(SourceUnit) -> bool) -> Result<()> {
        let (name, path, labels) = &self.videos[unit];
        let video = EvaluationVideo {
            naming: &self.naming,
            name,
            path,
            categories: &[],
        };
        let mut n_frames = 0;
        let mut truth = |frame: usize, _| {
            n_frames = frame + 1;
            let label = match &labels.frames {
                None => labels.intervals.hold(frame),
                Some(frames) => {
                    let label = u32::try_from(frame)
                        .ok()
                        .and_then(|frame| frames.get(&frame));
                    *label.ok_or_else(|| {
                        Skip::new(
                            Reason::MissingMask,
                            format!("{}, frame {frame}", path.display()),
                            "a label of the table",
                            "none",
                        )
                    })?
                }
            };
            Ok(FrameTruth {
                label,
                ..FrameTruth::default()
            })
        };
        video.stream(&mut truth, take)?;
        let last = labels
            .intervals
            .last()
            .filter(|last| *last as usize >= n_frames && n_frames > 0);
        if let Some(last) = last {
            let found = format!("{n_frames} frames (are the numbers from 0, and of frames?)");
            let skip = Skip::new(
                Reason::MaskWithoutFrame,
                path.display(),
                format!("frame {last}, up to which it is labelled"),
                found,
            );
            take(SourceUnit::skipped(skip));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_is_named_with_or_without_folder_and_ending() {
        for name in ["a.b", "a.b.mp4", "x/a.b.MP4", "x\\a.b.avi"] {
            assert_eq!(video_name(name), "a.b", "{name}");
        }
    }
}
