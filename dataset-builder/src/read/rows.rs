//! From pictures, videos and the objects in them to rows of a shard.

use std::collections::BTreeSet;

use lavida_data::clip::{Clip, ObjectTrack};
use lavida_data::manifest::Purpose;

use crate::read::pictures::ImageFile;
use crate::read::video::Video;
use crate::read::windows::windows;
use crate::skip::{Reason, Skip};

/// Names that every row of a build carries.
#[derive(Clone, Debug)]
pub struct Naming {
    /// Name of the source dataset, or what `--dataset-name` says.
    pub dataset: String,
    /// Part of the dataset, for example `train`.
    pub split: String,
}

impl Naming {
    /// The names of `split` of `dataset`.
    pub fn new(dataset: &str, split: &str) -> Self {
        Self {
            dataset: dataset.to_owned(),
            split: split.to_owned(),
        }
    }
}

/// The rows of one image or video, and what was left out of it.
#[derive(Clone, Debug, Default)]
pub struct SourceUnit {
    /// Rows in order.
    pub clips: Vec<Clip>,
    /// What was left out, in the order in which it was met.
    pub skips: Vec<Skip>,
}

impl SourceUnit {
    /// A unit that yields nothing, for one reason.
    pub fn skipped(skip: Skip) -> Self {
        Self::empty(vec![skip])
    }

    /// A unit that yields nothing, for the reasons given.
    pub fn empty(skips: Vec<Skip>) -> Self {
        Self {
            clips: Vec::new(),
            skips,
        }
    }
}

/// One image with its objects as a row.
pub fn image_clip(
    naming: &Naming,
    video: &str,
    picture: ImageFile,
    objects: Vec<ObjectTrack>,
    present: BTreeSet<String>,
) -> Clip {
    Clip {
        id: format!("{}/{video}/0", naming.split),
        dataset: naming.dataset.clone(),
        video: video.to_owned(),
        is_video: false,
        first_frame: 0,
        fps: None,
        width: picture.width,
        height: picture.height,
        frames: vec![picture.frame],
        objects,
        present_categories: present.into_iter().collect(),
        frame_labels: None,
    }
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
