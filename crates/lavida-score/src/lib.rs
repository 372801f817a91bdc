//! Scores: what the model says of the frames and pixels of a video, and how well that agrees with a benchmark's labels.
//!
//! ```text
//!  run · checkpoint · export ─► ScoringModel ─► ScoredFrame ─► ScoredVideo ─► EvaluationReport
//!                     windows of a FrameSource ─┘                └─ labels, by the benchmark's Protocol
//! ```
//!
//! Scores that others made are held against labels under every published convention by the [`referee`].
//!
//! Frames carry the model's own names from end to end: `object_logits` (ŷ^f) and `mask_logits` (ŷ^p). Nothing here shows
//! anything: whoever waits is told by a closure.

pub mod benchmark;
pub mod evaluation;
pub mod exported;
pub mod frames;
pub mod labels;
pub mod metrics;
pub mod model;
pub mod pixel_ranking;
pub mod pixels;
pub mod protocols;
pub mod referee;
pub mod report;
pub mod scored;
pub mod scorer;
pub mod smoothing;
pub mod windows;
