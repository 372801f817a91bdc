//! What the model said of a frame and of a video, beside what is true of them.
//!
//! Shapes: `S` side of the model's masks in px.

/// What the model says of one frame of a video.
#[derive(Clone, Copy, Debug)]
pub struct ScoredFrame<'a> {
    /// Number of the frame.
    pub frame: usize,
    /// ŷ^f
    pub object_logit: f32,
    /// `[S, S]` ŷ^p, row by row.
    pub mask_logits: &'a [f32],
    /// `S`
    pub side: usize,
}

/// One scored video.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredVideo {
    /// Its name in the benchmark.
    pub video: String,
    /// ŷ^f by frame.
    pub object_logits: Vec<f32>,
    /// y^f by frame.
    pub frame_labels: Vec<bool>,
    /// ŷ^f of the same frames with the video's true categories swapped for absent ones.
    pub swapped_object_logits: Option<Vec<f32>>,
    /// Its pixels; `None` where only its frames are labelled.
    pub pixels: Option<ScoredPixels>,
}

/// The pixels of a video, frame after frame on one grid, each vector as long as the others.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPixels {
    /// Pixels of a frame.
    pub n_pixels: usize,
    /// Whether a mask says where an anomaly is; without one the video is normal throughout.
    pub has_masks: bool,
    /// ŷ^p
    pub mask_logits: Vec<f32>,
    /// y^p
    pub labels: Vec<bool>,
    /// Where other annotated objects are; `None` where the video has none.
    pub other_objects: Option<Vec<bool>>,
}

impl ScoredVideo {
    /// Drops the frames that no window scored, which windows with dropped tails leave.
    pub(crate) fn keep(&mut self, is_scored: &[bool]) {
        if is_scored.iter().all(|is_scored| *is_scored) {
            return;
        }
        keep(&mut self.object_logits, is_scored, 1);
        keep(&mut self.frame_labels, is_scored, 1);
        if let Some(swapped) = &mut self.swapped_object_logits {
            keep(swapped, is_scored, 1);
        }
        if let Some(pixels) = &mut self.pixels {
            keep(&mut pixels.mask_logits, is_scored, pixels.n_pixels);
            keep(&mut pixels.labels, is_scored, pixels.n_pixels);
            if let Some(others) = &mut pixels.other_objects {
                keep(others, is_scored, pixels.n_pixels);
            }
        }
    }
}

/// Keeps the values of the frames that are scored, `n_per_frame` of each.
fn keep<T: Copy>(values: &mut Vec<T>, is_scored: &[bool], n_per_frame: usize) {
    let frames = values.chunks_exact(n_per_frame).zip(is_scored);
    *values = frames
        .filter(|(_, is_scored)| **is_scored)
        .flat_map(|(values, _)| values.to_vec())
        .collect();
}

impl ScoredPixels {
    /// Mask logits of the pixels of annotated objects, and whether each is the anomaly's; `None` without other objects.
    pub(crate) fn on_objects(&self) -> Option<(Vec<f32>, Vec<bool>)> {
        let others = self.other_objects.as_ref()?;
        let pixels = self.mask_logits.iter().zip(&self.labels).zip(others);
        let on_objects = pixels.filter(|((_, label), other)| **label || **other);
        Some(
            on_objects
                .map(|((logit, label), _)| (*logit, *label))
                .unzip(),
        )
    }
}
