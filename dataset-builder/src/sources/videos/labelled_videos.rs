//! Any folder of videos with a table of labels (training): what each shows, and where in it.
//!
//! The table is CSV with a header: `video,category[,start,end]`, a line a category that a video shows, in the frames from start to
//! end (from 0, both included) or in all. A table says nothing of pixels, so the mask of a category is the whole frame. A video
//! is a file or a folder of frames.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::evaluation::{Intervals, collected, other_size, read_frames, videos_below};
use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::names::is_name;
use crate::read::regions::whole_frame;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::read::table::LabelTable;
use crate::read::video::{SourceFrame, Video};
use crate::read::windows::WINDOW;
use crate::skip::{Reason, Skip};
use crate::sources::benchmarks::benchmark_videos::video_name;
use crate::sources::{Source, SourceArgs};

const FORM: &str = "a table `video,category[,start,end]`, frames from 0";
const LAYOUT: &str = "a folder of video files or of folders of frames";

/// Where the videos lie, and their labels.
#[derive(Args, Clone, Debug)]
pub struct LabelledVideosArgs {
    /// Folder of the videos: files, or folders of frames
    #[arg(long, value_name = "DIR")]
    pub videos: PathBuf,
    /// CSV table `video,category[,start,end]`: what a video shows in these frames (from 0, both ends included) or in all
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// Name of this part of the dataset, used in row ids
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for LabelledVideosArgs {
    const NAME: &'static str = "labelled-videos";
    const HELP: &'static str = "Any videos with a table of what they show";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(LabelledVideos::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let (videos, labels) = (dir.join("videos"), dir.join("labels.csv"));
        let is_set = videos.is_dir() && labels.is_file() && {
            LabelTable::read(
                &labels,
                &["video", "category"],
                FORM,
                &mut InputDigest::default(),
            )
            .is_ok()
        };
        is_set.then(|| Self {
            videos,
            labels,
            split: "train".to_owned(),
        })
    }
}

/// In which frames a category is shown; `None` for all.
type Shown = BTreeMap<String, Option<Intervals>>;

struct LabelledVideos {
    naming: Naming,
    videos: Vec<(String, PathBuf, Shown)>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl LabelledVideos {
    /// Lists the videos and reads the table.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no video or the table has other columns or odd numbers, [`Error::Corrupt`] for a cut table.
    fn open(args: &LabelledVideosArgs, dataset: &str) -> Result<Self> {
        files::require_dir(&args.videos, LAYOUT)?;
        let paths = videos_below(&args.videos)?;
        if paths.is_empty() {
            return Err(files::layout_error(&args.videos, LAYOUT));
        }
        let mut digest = InputDigest::default();
        paths.keys().for_each(|name| digest.add(name));
        let table = LabelTable::read(&args.labels, &["video", "category"], FORM, &mut digest)?;
        let mut shown_by: BTreeMap<String, Shown> = BTreeMap::new();
        for row in table.rows() {
            let missing =
                |column: &str| Error::corrupt(table.name(row, column), FORM, "nothing there");
            let name = table.cell(row, "video").ok_or_else(|| missing("video"))?;
            let category = table
                .cell(row, "category")
                .filter(|name| is_name(name))
                .ok_or_else(|| missing("category"))?;
            let entry = shown_by
                .entry(video_name(name))
                .or_default()
                .entry(category.to_owned());
            match (table.number(row, "start")?, table.number(row, "end")?) {
                (None, None) => {
                    entry.insert_entry(None);
                }
                (Some(start), Some(end)) if start <= end => {
                    if let Some(intervals) = entry.or_insert_with(|| Some(Intervals::default())) {
                        intervals.0.push((start, end));
                    }
                }
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
        }
        let mut planned_skips = Vec::new();
        let mut videos = Vec::new();
        for (name, path) in paths {
            match shown_by.remove(&name) {
                Some(shown) => videos.push((name, path, shown)),
                None => planned_skips.push(Skip::new(
                    Reason::NoObject,
                    path.display(),
                    format!("a line of {}", args.labels.display()),
                    "none",
                )),
            }
        }
        for name in shown_by.keys() {
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
        Ok(Self {
            naming: Naming::new(dataset, &args.split),
            videos,
            planned_skips,
            digest,
        })
    }

    /// One row of frames that follow each other.
    fn row(&self, video: Video, shown: &Shown, skips: Vec<Skip>) -> SourceUnit {
        let (width, height) = (video.width, video.height);
        let holds = |intervals: &Option<Intervals>, frame: &SourceFrame| {
            intervals
                .as_ref()
                .is_none_or(|intervals| intervals.hold(frame.index as usize))
        };
        let tracks = shown.iter().map(|(category, intervals)| ObjectTrack {
            id: category.clone(),
            category: Some(category.clone()),
            descriptions: vec![category.clone()],
            masks: video
                .frames
                .iter()
                .map(|frame| holds(intervals, frame).then(|| whole_frame(width, height)))
                .collect(),
            anomalous: None,
        });
        let tracks: Vec<ObjectTrack> = tracks.collect();
        let mut unit = SourceUnit {
            clips: Vec::new(),
            skips,
        };
        unit.clips = cut_rows(
            &self.naming,
            Purpose::Training,
            video,
            &tracks,
            None,
            &mut unit.skips,
        );
        unit
    }
}

impl Source for LabelledVideos {
    fn header(&self) -> DatasetHeader {
        let vocabulary: BTreeSet<&String> = self
            .videos
            .iter()
            .flat_map(|(_, _, shown)| shown.keys())
            .collect();
        training_header(
            &self.naming,
            CategorySource::Vocabulary(vocabulary.into_iter().cloned().collect()),
            Positives::All,
            serde_json::json!({ "source": LabelledVideosArgs::NAME }),
        )
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

    /// Windows as of all training videos: those that do not overlap, and for the frames left one more that ends with the video.
    fn stream(&self, unit: usize, take: &mut dyn FnMut(SourceUnit) -> bool) -> Result<()> {
        let (name, path, shown) = &self.videos[unit];
        let mut skips = Vec::new();
        let mut last: VecDeque<SourceFrame> = VecDeque::new();
        let (mut n_new, mut first_size, mut rate) = (0, None, None);
        let video = |frames: Vec<SourceFrame>, (width, height): (u32, u32), fps| Video {
            name: name.clone(),
            fps,
            width,
            height,
            frames,
        };
        let goes_on = read_frames(path, &mut skips, &mut |fps, frame, size, skips| {
            rate = fps;
            let first = *first_size.get_or_insert(size);
            if first != size {
                skips.push(other_size(
                    &format!("{}, frame {}", path.display(), frame.index),
                    first,
                    size,
                ));
                return true;
            }
            if last.len() == WINDOW {
                last.pop_front();
            }
            last.push_back(frame);
            n_new += 1;
            if n_new < WINDOW {
                return true;
            }
            n_new = 0;
            let frames = last.iter().cloned().collect();
            take(self.row(video(frames, first, fps), shown, std::mem::take(skips)))
        })?;
        if goes_on && let Some(size) = first_size.filter(|_| n_new > 0) {
            take(self.row(video(last.into(), size, rate), shown, skips));
        } else if goes_on && !skips.is_empty() {
            take(SourceUnit::empty(skips));
        }
        Ok(())
    }
}
