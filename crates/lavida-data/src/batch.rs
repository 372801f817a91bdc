//! A batch on the host: everything one training step reads, as plain arrays, ready to be moved to a device.
//!
//! Shapes: `B` clips, `N` frames of all clips together, `S` side of the square SAM2 input in px, `P` patches of all
//! clips together, `W` text positions, `C` categories of all clips together, `L` CLIP positions.

/// A row-major array of any rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// `shape.product()` values.
    pub values: Vec<T>,
}

/// One batch. Clips may differ in frames, patches and categories; the per-clip counts say where each ends.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// `[B]` clip ids, for the sample digest and for errors.
    pub clip_ids: Vec<String>,
    /// `[B]` prompts as text, for logs and pictures.
    pub prompts: Vec<String>,
    /// `[B]` true for clips of a video source.
    pub is_video: Vec<bool>,
    /// `[B]` frames of each clip; sums to `N`.
    pub n_frames: Vec<usize>,
    /// `[N, 3, S, S]` SAM2's view: resized without keeping the aspect, ImageNet-normalised.
    pub frames: Array<f32>,
    /// `[N, S, S]` y^p resized to the SAM2 view (nearest), 0 or 1.
    pub pixel_masks: Array<u8>,
    /// `[N]` y^f, from the resized masks.
    pub frame_labels: Vec<bool>,
    /// `[P, channels · temporal_patch · patch · patch]` Qwen2-VL's view, in its patch order.
    pub patches: Array<f32>,
    /// `[B]` patch grid of each clip: temporal, height, width, before merging.
    pub grids: Vec<[usize; 3]>,
    /// `[B, W]` prompt and answer, padded on the left.
    pub input_ids: Array<i64>,
    /// `[B, W]` 1 where `input_ids` holds a token, 0 on padding.
    pub attention_mask: Array<i64>,
    /// `[B, W]` targets of the language loss, -100 outside the assistant's answer.
    pub labels: Array<i64>,
    /// `[C, L]` CLIP ids of every category, padded on the right with the end-of-text id.
    pub category_ids: Array<i64>,
    /// `[B]` categories of each clip; sums to `C`.
    pub n_categories: Vec<usize>,
    /// Grounding stage only: per clip `[T, K, g, g]` share of each cell of the projector's grid that the name covers.
    pub name_coverage: Option<Vec<Array<f32>>>,
}
