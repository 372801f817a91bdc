//! Anomaly Exposure: segmented objects become pseudo-anomalies (LAVIDA, arXiv 2602.19248).
//! Paper: section 3.3, Eq. 1 and 2. Reference: `select_anomalies`.

use crate::mask::RleMask;

/// One draw for one clip: what the prompt names and what is true of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposure {
    /// `[K]` categories in prompt order: the true pseudo-anomalies shuffled among distractors.
    pub categories: Vec<String>,
    /// `[K]` true where the category names an object of the clip.
    pub is_true: Vec<bool>,
    /// Whether the clip is shown as anomalous (Eq. 2, probability `anomaly_ratio`).
    pub is_anomaly: bool,
    /// `[T]` the OR of the chosen objects' masks, `None` where empty. All `None` for a normal draw.
    pub pixel_masks: Vec<Option<RleMask>>,
    /// `[T]` y^f: `frame_labels[t] = any(pixel_masks[t])`.
    pub frame_labels: Vec<bool>,
    /// Index into the user templates.
    pub user_template: usize,
    /// Index into the answer templates.
    pub answer_template: usize,
}
