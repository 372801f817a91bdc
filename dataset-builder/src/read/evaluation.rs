//! Videos of a benchmark, read a window at a time: a file or a folder of frames, and the truth of each frame.
//!
//! Every frame is in one row, rows are segments of eight. Frames of a folder stay as they are; those of a video file are
//! decoded and stored as JPEGs of high quality, since a row holds pictures. Memory holds one window.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lavida_data::clip::{EncodedFrame, ObjectTrack};
use lavida_data::frame::RgbFrame;
use lavida_data::manifest::Purpose;
use lavida_data::mask::RleMask;
use lavida_data::video::VideoReader;
use lavida_store::Result;

use crate::read::pictures::{IMAGE_ENDINGS, found, load_picture};
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::read::video::{SourceFrame, Video};
use crate::read::windows::WINDOW;
use crate::read::{files, orientation};
use crate::skip::{Reason, Skip};

/// Endings of video files; which of them can be decoded the reader says.
pub const VIDEO_ENDINGS: [&str; 8] = ["mp4", "avi", "mov", "mkv", "m4v", "mpg", "mpeg", "webm"];

/// What is true of one frame.
#[derive(Clone, Debug, Default)]
pub struct FrameTruth {
    /// Whether something of it is anomalous.
    pub label: bool,
    /// Where, if the benchmark says.
    pub anomaly: Option<RleMask>,
    /// What else is marked and harmless, by number.
    pub others: BTreeMap<u32, RleMask>,
}

/// Which frames of a video are anomalous: ranges of frame numbers from 0, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(pub Vec<(u32, u32)>);

impl Intervals {
    /// Whether a frame is in one.
    pub fn hold(&self, frame: usize) -> bool {
        let frame = u32::try_from(frame).unwrap_or(u32::MAX);
        self.0
            .iter()
            .any(|(begin, end)| (*begin..=*end).contains(&frame))
    }

    /// The last frame of all.
    pub fn last(&self) -> Option<u32> {
        self.0.iter().map(|(_, end)| *end).max()
    }
}

/// A video of a benchmark.
pub struct EvaluationVideo<'a> {
    /// Names of its rows.
    pub naming: &'a Naming,
    /// Unique inside of the benchmark.
    pub name: &'a str,
    /// A video file or a folder of frames.
    pub path: &'a Path,
    /// What its anomalies are; empty where nobody says.
    pub categories: &'a [String],
}

/// Every file or folder of frames below `dir` that may be a video, by name without ending; a folder goes before a file of its
/// name. Folders without a picture are looked into.
///
/// # Errors
///
/// [`lavida_store::Error::Invalid`] when a folder cannot be listed.
pub fn videos_below(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut videos: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in files::list_files(dir, &VIDEO_ENDINGS)? {
        videos.entry(files::stem(&path)).or_insert(path);
    }
    for folder in files::list_dirs(dir)? {
        if files::list_files(&folder, &IMAGE_ENDINGS)?.is_empty() {
            for (name, path) in videos_below(&folder)? {
                videos.entry(name).or_insert(path);
            }
        } else {
            videos.insert(files::name(&folder), folder);
        }
    }
    Ok(videos)
}

impl EvaluationVideo<'_> {
    /// [`Self::stream`] where intervals are all that is known of the frames: those in one are anomalous.
    ///
    /// # Errors
    ///
    /// As [`Self::stream`].
    pub fn stream_labelled(
        &self,
        intervals: &Intervals,
        take: &mut dyn FnMut(SourceUnit) -> bool,
    ) -> Result<()> {
        self.stream(
            &mut |frame, _| {
                Ok(FrameTruth {
                    label: intervals.hold(frame),
                    ..FrameTruth::default()
                })
            },
            take,
        )
    }

    /// Reads it to its end or until `take` has enough. `truth` is asked once for each frame that can be read, in order, with its
    /// number and its size in px; what it cannot say of a frame leaves that frame out.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] when a folder cannot be listed.
    pub fn stream(
        &self,
        truth: &mut dyn FnMut(usize, (u32, u32)) -> Result<FrameTruth, Skip>,
        take: &mut dyn FnMut(SourceUnit) -> bool,
    ) -> Result<()> {
        let mut rows = Rows {
            video: self,
            window: Vec::new(),
            size: None,
            fps: None,
        };
        let mut skips = Vec::new();
        let goes_on = read_frames(self.path, &mut skips, &mut |fps, frame, size, skips| {
            rows.fps = fps;
            let first = *rows.size.get_or_insert(size);
            if first != size {
                skips.push(other_size(
                    &format!("{}, frame {}", self.path.display(), frame.index),
                    first,
                    size,
                ));
                return true;
            }
            match truth(frame.index as usize, size) {
                Ok(truth) => rows.push(frame, truth, skips, take),
                Err(skip) => {
                    skips.push(skip);
                    true
                }
            }
        })?;
        if goes_on {
            rows.flush(&mut skips, take);
        }
        Ok(())
    }
}

/// That a frame is of another size than the first of its video (width, height in px).
pub fn other_size(what: &str, first: (u32, u32), size: (u32, u32)) -> Skip {
    let expected = format!(
        "{}×{} px like the first frame of its video",
        first.0, first.1
    );
    Skip::new(
        Reason::ImageSizeMismatch,
        what,
        expected,
        format!("{}×{} px", size.0, size.1),
    )
}

/// A frame on its way: frames a second where known, the frame, its size in px, what was left out.
pub type EachFrame<'a> =
    dyn FnMut(Option<f32>, SourceFrame, (u32, u32), &mut Vec<Skip>) -> bool + 'a;

/// Every frame of a video file or a folder, in order, as long as `each` wants more; whether it still does. What cannot be read is
/// in `skips`.
///
/// # Errors
///
/// [`lavida_store::Error::Invalid`] when a folder cannot be listed.
pub fn read_frames(path: &Path, skips: &mut Vec<Skip>, each: &mut EachFrame<'_>) -> Result<bool> {
    if path.is_dir() {
        read_folder(path, skips, each)
    } else {
        Ok(read_file(path, skips, each))
    }
}

fn read_folder(folder: &Path, skips: &mut Vec<Skip>, each: &mut EachFrame<'_>) -> Result<bool> {
    for (index, path) in (0u32..).zip(files::list_files(folder, &IMAGE_ENDINGS)?) {
        match load_picture(&path, skips) {
            Ok(picture) => {
                let size = (picture.width, picture.height);
                let frame = SourceFrame {
                    index,
                    stem: files::stem(&path),
                    frame: picture.frame,
                };
                if !each(None, frame, size, skips) {
                    return Ok(false);
                }
            }
            Err(skip) => skips.push(skip),
        }
    }
    Ok(true)
}

fn read_file(path: &Path, skips: &mut Vec<Skip>, each: &mut EachFrame<'_>) -> bool {
    let unreadable = |error| {
        let expected = "a video that can be decoded (`ffmpeg -i FILE FOLDER/%06d.jpg` makes a folder of frames, which is read in its \
                        place)";
        Skip::new(
            Reason::IncompleteVideo,
            path.display(),
            expected,
            found(error),
        )
    };
    let reader = match VideoReader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            skips.push(unreadable(error));
            return true;
        }
    };
    let fps = reader.info().fps.map(|fps| fps as f32);
    for frame in reader {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                skips.push(unreadable(error));
                return true;
            }
        };
        let size = (frame.image.width, frame.image.height);
        let index = u32::try_from(frame.index).unwrap_or(u32::MAX);
        match encoded(&frame.image, index, path) {
            Ok(encoded) => {
                let frame = SourceFrame {
                    index,
                    stem: format!("{index:06}"),
                    frame: encoded,
                };
                if !each(fps, frame, size, skips) {
                    return false;
                }
            }
            Err(skip) => skips.push(skip),
        }
    }
    true
}

/// A decoded frame as a picture of a row.
fn encoded(image: &RgbFrame, index: u32, video: &Path) -> Result<EncodedFrame, Skip> {
    match orientation::encode(image) {
        Ok(bytes) => Ok(EncodedFrame {
            path: format!("{index:06}.jpg"),
            bytes: Bytes::from(bytes),
        }),
        Err(error) => {
            let what = format!("{}, frame {index}", video.display());
            Err(Skip::new(
                Reason::UnreadableImage,
                what,
                "a frame that fits a JPEG",
                found(error),
            ))
        }
    }
}

/// The window that is being filled.
struct Rows<'a> {
    video: &'a EvaluationVideo<'a>,
    window: Vec<(SourceFrame, FrameTruth)>,
    size: Option<(u32, u32)>,
    fps: Option<f32>,
}

impl Rows<'_> {
    /// Whether more is wanted.
    fn push(
        &mut self,
        frame: SourceFrame,
        truth: FrameTruth,
        skips: &mut Vec<Skip>,
        take: &mut dyn FnMut(SourceUnit) -> bool,
    ) -> bool {
        self.window.push((frame, truth));
        self.window.len() < WINDOW || self.flush(skips, take)
    }

    fn flush(&mut self, skips: &mut Vec<Skip>, take: &mut dyn FnMut(SourceUnit) -> bool) -> bool {
        let mut skips = std::mem::take(skips);
        let (frames, truth): (Vec<SourceFrame>, Vec<FrameTruth>) =
            std::mem::take(&mut self.window).into_iter().unzip();
        let (Some((width, height)), false) = (self.size, frames.is_empty()) else {
            return skips.is_empty() || take(SourceUnit::empty(skips));
        };
        let labels: Vec<bool> = truth.iter().map(|truth| truth.label).collect();
        let names = self.video.categories;
        let mut tracks = Vec::new();
        if truth.iter().any(|truth| truth.anomaly.is_some()) {
            tracks.push(ObjectTrack {
                id: "anomaly".to_owned(),
                category: (names.len() == 1).then(|| names[0].clone()),
                descriptions: if names.is_empty() {
                    vec!["anomaly".to_owned()]
                } else {
                    names.to_vec()
                },
                masks: truth.iter().map(|truth| truth.anomaly.clone()).collect(),
                anomalous: Some(true),
            });
        }
        let numbers: std::collections::BTreeSet<u32> = truth
            .iter()
            .flat_map(|truth| truth.others.keys().copied())
            .collect();
        tracks.extend(numbers.into_iter().map(|number| {
            ObjectTrack {
                id: format!("object-{number}"),
                category: None,
                descriptions: vec!["other object".to_owned()],
                masks: truth
                    .iter()
                    .map(|truth| truth.others.get(&number).cloned())
                    .collect(),
                anomalous: Some(false),
            }
        }));
        let video = Video {
            name: self.video.name.to_owned(),
            fps: self.fps,
            width,
            height,
            frames,
        };
        let clips = cut_rows(
            self.video.naming,
            Purpose::Evaluation,
            video,
            &tracks,
            Some(&labels),
            &mut skips,
        );
        take(SourceUnit { clips, skips })
    }
}

/// All pieces of a unit as one, for who can hold them.
///
/// # Errors
///
/// As `stream`.
pub fn collected(
    stream: impl FnOnce(&mut dyn FnMut(SourceUnit) -> bool) -> Result<()>,
) -> Result<SourceUnit> {
    let mut unit = SourceUnit::default();
    stream(&mut |piece| {
        unit.clips.extend(piece.clips);
        unit.skips.extend(piece.skips);
        true
    })?;
    Ok(unit)
}
