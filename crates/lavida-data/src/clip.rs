//! The unit of sampling: a clip with its segmented objects, as one row of a shard holds it.
//!
//! Frames stay encoded (JPEG, PNG, TIFF bytes as they came); masks stay run-length encoded. What a
//! clip is *anomalous for* is not stored: the exposure sampler draws that at load time.
//!
//! Shapes: `T` frames of a clip, `H W` frame px.

use bytes::Bytes;

use crate::mask::RleMask;

/// One encoded frame, the Hugging Face `Image` convention `struct<bytes, path>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// File name in the source dataset, unique inside its clip; its ending names the codec.
    pub path: String,
    /// The file's bytes, unchanged.
    pub bytes: Bytes,
}

/// One segmented object over the `T` frames of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectTrack {
    /// The source dataset's own id, unique inside the clip.
    pub id: String,
    /// Class name, for datasets with a vocabulary.
    pub category: Option<String>,
    /// Every text that names this object (class name or referring expressions), at least one.
    pub descriptions: Vec<String>,
    /// Pixels of the object, one entry a frame; `None` where it is absent.
    pub masks: Vec<Option<RleMask>>,
    /// Evaluation only: whether the benchmark calls this object an anomaly. `None` in training data.
    pub anomalous: Option<bool>,
}

/// An image (`T` = 1) or a run of consecutive frames of one video.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
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
    pub frames: Vec<EncodedFrame>,
    /// Objects with at least one non-empty mask in the clip.
    pub objects: Vec<ObjectTrack>,
    /// Every category seen in these frames, annotated as an object or not (class datasets).
    pub present_categories: Vec<String>,
    /// Evaluation only: true where the benchmark calls the frame anomalous. `None` in training data.
    pub frame_labels: Option<Vec<bool>>,
}
