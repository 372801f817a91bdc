//! From the frame files of one video and the tracks of its objects to rows of a shard.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lavida_data::clip::{Clip, EncodedFrame, ObjectTrack};
use lavida_data::manifest::Purpose;

use crate::files;
use crate::pictures::load_picture;
use crate::skip::{Reason, Skip};
use crate::windows::windows;

/// Names that every row of a build carries.
#[derive(Clone, Debug)]
pub struct Naming {
    /// Name of the source dataset, or what `--dataset-name` says.
    pub dataset: String,
    /// Part of the dataset, for example `train`.
    pub split: String,
}

/// A frame that decodes, with its place in the video.
#[derive(Clone, Debug)]
pub struct SourceFrame {
    /// Index in the video as the source lists it, counting frames that were left out.
    pub index: u32,
    /// File name without its ending: what masks are paired by.
    pub stem: String,
    /// The file's bytes.
    pub frame: EncodedFrame,
}

/// The readable frames of one video, all of one size.
#[derive(Clone, Debug)]
pub struct Video {
    /// Unique inside the dataset.
    pub name: String,
    /// Frame rate, when the source says one.
    pub fps: Option<f32>,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// In display order.
    pub frames: Vec<SourceFrame>,
}

/// Reads the frames of a video; the first readable one sets the size.
///
/// Unreadable frames and frames of another size are left out and recorded. `None` when no frame is left.
pub fn load_video(
    name: &str,
    fps: Option<f32>,
    frame_files: impl IntoIterator<Item = (u32, PathBuf)>,
    skips: &mut Vec<Skip>,
) -> Option<Video> {
    let mut video: Option<Video> = None;
    for (index, path) in frame_files {
        let picture = match load_picture(&path) {
            Ok(picture) => picture,
            Err(skip) => {
                skips.push(skip);
                continue;
            }
        };
        let video = video.get_or_insert_with(|| Video {
            name: name.to_owned(),
            fps,
            width: picture.width,
            height: picture.height,
            frames: Vec::new(),
        });
        if (picture.width, picture.height) == (video.width, video.height) {
            video.frames.push(SourceFrame {
                index,
                stem: files::stem(&path),
                frame: picture.frame,
            });
        } else {
            skips.push(Skip::new(
                Reason::ImageSizeMismatch,
                path.display(),
                format!(
                    "{}×{} px like the first frame of its video",
                    video.width, video.height
                ),
                format!("{}×{} px", picture.width, picture.height),
            ));
        }
    }
    video
}

/// Cuts a video and its tracks (one mask entry per frame of `video`) into rows.
///
/// An object is in a row when it has a pixel in one of its frames. Training rows without an object are left out and
/// recorded; evaluation keeps every frame. `frame_labels` is one entry a frame, for evaluation.
pub fn cut_rows(
    naming: &Naming,
    purpose: Purpose,
    video: Video,
    tracks: &[ObjectTrack],
    frame_labels: Option<&[bool]>,
    skips: &mut Vec<Skip>,
) -> Vec<Clip> {
    let mut clips = Vec::new();
    for range in windows(video.frames.len(), purpose) {
        let first_frame = video.frames[range.start].index;
        let id = format!("{}/{}/{}", naming.split, video.name, first_frame);
        let objects: Vec<ObjectTrack> = tracks
            .iter()
            .filter(|track| track.masks[range.clone()].iter().any(Option::is_some))
            .map(|track| ObjectTrack {
                masks: track.masks[range.clone()].to_vec(),
                ..track.clone()
            })
            .collect();
        if objects.is_empty() && purpose == Purpose::Training {
            skips.push(Skip::new(
                Reason::NoObject,
                &id,
                "an object in the row",
                "none",
            ));
            continue;
        }
        let present: BTreeSet<&String> = objects
            .iter()
            .filter_map(|object| object.category.as_ref())
            .collect();
        clips.push(Clip {
            id,
            dataset: naming.dataset.clone(),
            video: video.name.clone(),
            is_video: true,
            first_frame,
            fps: video.fps,
            width: video.width,
            height: video.height,
            frames: video.frames[range.clone()]
                .iter()
                .map(|frame| frame.frame.clone())
                .collect(),
            present_categories: present.into_iter().cloned().collect(),
            objects,
            frame_labels: frame_labels.map(|labels| labels[range].to_vec()),
        });
    }
    clips
}
