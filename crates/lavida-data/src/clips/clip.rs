//! The unit of sampling: a clip with its segmented objects, as one row of a shard holds it.
//!
//! Frames stay encoded (JPEG, PNG, TIFF bytes as they came); masks stay run-length encoded. What a
//! clip is *anomalous for* is not stored: the exposure sampler draws that at load time.
//!
//! Shapes: `T` frames of a clip, `H W` frame px.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

pub use crate::clips::frame::EncodedFrame;
use crate::clips::frame::probe_size;
use crate::clips::mask::RleMask;
use crate::{Error, Result};

/// Arrow's binary columns count bytes in 31 bits, and a clip is never split.
const MAX_CLIP_BYTES: usize = 1 << 30;

/// What clips may be used for. Labels of a benchmark never reach training (invariant 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Pseudo-anomalies are drawn from its objects; it holds no anomaly label.
    Training,
    /// It holds a benchmark's frame labels and is only scored.
    Evaluation,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Training => "training",
            Self::Evaluation => "evaluation",
        })
    }
}

/// One segmented object of a clip. `Masks` is what is held of its pixels: all ([`ObjectTrack`]) or nothing ([`ObjectMeta`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectOf<Masks> {
    /// The source dataset's own id, unique inside the clip.
    pub id: String,
    /// Class name, for datasets with a vocabulary.
    pub category: Option<String>,
    /// Every text that names this object (class name or referring expressions), at least one.
    pub descriptions: Vec<String>,
    /// Pixels of the object.
    pub masks: Masks,
    /// Evaluation only: whether the benchmark calls this object an anomaly. `None` in training data.
    pub anomalous: Option<bool>,
}

/// An object with its masks, one entry for each of the `T` frames; `None` where it is absent.
pub type ObjectTrack = ObjectOf<Vec<Option<RleMask>>>;

/// An object without its pixels.
pub type ObjectMeta = ObjectOf<()>;

/// An image (`T` = 1) or a run of consecutive frames of one video. `Frames` and `Masks` are what is held of its pixels: all
/// ([`Clip`]) or nothing ([`ClipMeta`]).
#[derive(Clone, Debug, PartialEq)]
pub struct ClipOf<Frames, Masks> {
    /// Unique inside its dataset and stable between builds, for example `train/0043/8`.
    pub id: String,
    /// Name of the source dataset.
    pub dataset: String,
    /// Video (or image) the frames come from.
    pub video: String,
    /// True for video sources: prompts say `video`, SAM2 adds its no-memory embedding.
    pub is_video: bool,
    /// Index in the video of the first frame held here.
    pub first_frame: u32,
    /// Frame rate of the source, when it says one.
    pub fps: Option<f32>,
    /// Frame width in px.
    pub width: u32,
    /// Frame height in px.
    pub height: u32,
    /// The `T` frames in display order.
    pub frames: Frames,
    /// Objects with at least one non-empty mask in the clip.
    pub objects: Vec<ObjectOf<Masks>>,
    /// Every category seen in these frames, annotated as an object or not (class datasets).
    pub present_categories: Vec<String>,
    /// Evaluation only: true where the benchmark calls the frame anomalous. `None` in training data.
    pub frame_labels: Option<Vec<bool>>,
}

/// A clip with its frames and masks.
pub type Clip = ClipOf<Vec<EncodedFrame>, Vec<Option<RleMask>>>;

/// A clip without its pixels: the metadata columns of one row.
pub type ClipMeta = ClipOf<FrameCount, ()>;

/// How many frames a clip has (`T`), where they are not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCount(pub u32);

impl ClipMeta {
    /// The part of `clip` that is not pixels.
    pub fn of(clip: &Clip) -> Self {
        Self {
            id: clip.id.clone(),
            dataset: clip.dataset.clone(),
            video: clip.video.clone(),
            is_video: clip.is_video,
            first_frame: clip.first_frame,
            fps: clip.fps,
            width: clip.width,
            height: clip.height,
            frames: FrameCount(clip.frames.len() as u32),
            objects: clip.objects.iter().map(ObjectMeta::of).collect(),
            present_categories: clip.present_categories.clone(),
            frame_labels: clip.frame_labels.clone(),
        }
    }

    /// `T`
    pub fn n_frames(&self) -> u32 {
        self.frames.0
    }

    /// The clip with its pixels: a mask or none for each frame of each object.
    pub(crate) fn with_pixels(
        self,
        frames: Vec<EncodedFrame>,
        tracks: Vec<Vec<Option<RleMask>>>,
    ) -> Clip {
        let objects = self.objects.into_iter().zip(tracks);
        Clip {
            id: self.id,
            dataset: self.dataset,
            video: self.video,
            is_video: self.is_video,
            first_frame: self.first_frame,
            fps: self.fps,
            width: self.width,
            height: self.height,
            frames,
            objects: objects
                .map(|(object, masks)| object.with_masks(masks))
                .collect(),
            present_categories: self.present_categories,
            frame_labels: self.frame_labels,
        }
    }
}

impl ObjectMeta {
    /// The part of `object` that is not pixels.
    pub fn of(object: &ObjectTrack) -> Self {
        Self {
            id: object.id.clone(),
            category: object.category.clone(),
            descriptions: object.descriptions.clone(),
            masks: (),
            anomalous: object.anomalous,
        }
    }

    fn with_masks(self, masks: Vec<Option<RleMask>>) -> ObjectTrack {
        ObjectTrack {
            id: self.id,
            category: self.category,
            descriptions: self.descriptions,
            masks,
            anomalous: self.anomalous,
        }
    }
}

impl Clip {
    /// Checks what every reader of a clip relies on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the clip and the frame or object: no frame, a frame of another
    /// size than the clip, a mask of another size than its frame, a track that does not cover every
    /// frame or holds no pixel, an object without a description, an id or a frame name used twice,
    /// labels that do not fit `purpose`. [`Error::Corrupt`] for a frame without an image header.
    pub fn validate(&self, purpose: Purpose) -> Result<()> {
        self.check_frames()?;
        let mut ids = HashSet::new();
        for object in &self.objects {
            if !ids.insert(&object.id) {
                return Err(self.refused("object ids used once", format!("{} twice", object.id)));
            }
            self.check_object(object)?;
        }
        let labelled = self.frame_labels.is_some();
        let judged = self.objects.iter().any(|object| object.anomalous.is_some());
        match purpose {
            Purpose::Training if labelled || judged => Err(self.refused(
                "no anomaly label, as training data may not know them",
                "the labels of a benchmark",
            )),
            Purpose::Evaluation if !labelled => {
                Err(self.refused("a label for every frame", "none"))
            }
            _ => Ok(()),
        }
    }

    fn check_frames(&self) -> Result<()> {
        let n_bytes: usize = self.frames.iter().map(|frame| frame.bytes.len()).sum();
        if self.frames.is_empty() || n_bytes > MAX_CLIP_BYTES {
            return Err(self.refused(
                format!("at least one frame and at most {MAX_CLIP_BYTES} bytes of them"),
                format!("{} frames of {n_bytes} bytes", self.frames.len()),
            ));
        }
        if !self.is_video && self.frames.len() != 1 {
            let found = format!("{} frames of an image", self.frames.len());
            return Err(self.refused("one frame of an image", found));
        }
        if let Some(labels) = &self.frame_labels
            && labels.len() != self.frames.len()
        {
            return Err(self.refused(format!("{} frame labels", self.frames.len()), labels.len()));
        }
        let mut paths = HashSet::new();
        for frame in &self.frames {
            if !paths.insert(&frame.path) {
                return Err(self.refused("frame names used once", format!("{} twice", frame.path)));
            }
            let (width, height) = probe_size(frame)?;
            if (width, height) != (self.width, self.height) {
                return Err(self.refused(
                    format!("frames of {} x {} px", self.width, self.height),
                    format!("{} of {width} x {height} px", frame.path),
                ));
            }
        }
        Ok(())
    }

    fn check_object(&self, object: &ObjectTrack) -> Result<()> {
        let refused = |expected: String, found: String| {
            Err(self.refused(expected, format!("object {}: {found}", object.id)))
        };
        if object.descriptions.is_empty()
            || object
                .descriptions
                .iter()
                .any(|text| text.trim().is_empty())
        {
            return refused(
                "a text that names each object".into(),
                "none, or an empty one".into(),
            );
        }
        if object.masks.len() != self.frames.len() {
            return refused(
                format!("a mask or none for each of {} frames", self.frames.len()),
                format!("{} entries", object.masks.len()),
            );
        }
        for (frame, mask) in self.frames.iter().zip(&object.masks) {
            if let Some(mask) = mask
                && (mask.width, mask.height) != (self.width, self.height)
            {
                return refused(
                    format!(
                        "masks of {} x {} px as their frames",
                        self.width, self.height
                    ),
                    format!("{} x {} px in {}", mask.width, mask.height, frame.path),
                );
            }
        }
        if object.masks.iter().flatten().all(RleMask::is_empty) {
            return refused("objects with a pixel".into(), "none in any frame".into());
        }
        Ok(())
    }

    fn refused(&self, expected: impl ToString, found: impl ToString) -> Error {
        Error::invalid(
            format!("clip {}/{}", self.dataset, self.id),
            expected,
            found,
        )
    }
}
