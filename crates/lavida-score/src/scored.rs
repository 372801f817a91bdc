//! What the model said of a frame and of a video, beside what is true of them.
//!
//! Shapes: `S` side of the model's masks in px.

/// What the model says of one frame of a video.
#[derive(Clone, Copy, Debug)]
pub struct ScoredFrame<'a> {
    /// Number of the frame.
    pub frame: usize,
    /// The frame that the model saw for it: with an interval a frame's score stands for those up to the next, too.
    pub looked_at: usize,
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
    /// Number of each frame in the video: windows with dropped tails leave some out.
    pub frames: Vec<usize>,
    /// Its pixels; `None` where only its frames are labelled, and where nobody asked to hold them.
    pub pixels: Option<ScoredPixels>,
}

/// The pixels of a video, frame after frame on one grid, for whoever shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredPixels {
    /// ŷ^p by frame.
    pub mask_logits: Vec<Vec<f32>>,
    /// y^p by frame.
    pub labels: Vec<Vec<bool>>,
}

impl ScoredVideo {
    /// Drops the frames that no window scored, which windows with dropped tails leave.
    pub(crate) fn keep(&mut self, is_scored: &[bool]) {
        if is_scored.iter().all(|is_scored| *is_scored) {
            return;
        }
        keep(&mut self.object_logits, is_scored);
        keep(&mut self.frame_labels, is_scored);
        keep(&mut self.frames, is_scored);
        if let Some(swapped) = &mut self.swapped_object_logits {
            keep(swapped, is_scored);
        }
        if let Some(pixels) = &mut self.pixels {
            keep(&mut pixels.mask_logits, is_scored);
            keep(&mut pixels.labels, is_scored);
        }
    }
}

/// Keeps the values of the frames that are scored.
fn keep<T>(values: &mut Vec<T>, is_scored: &[bool]) {
    let mut is_scored = is_scored.iter();
    values.retain(|_| is_scored.next().is_some_and(|is_scored| *is_scored));
}
