//! Scores: what the model says of frames and pixels, and how well that agrees with a benchmark's labels.

pub mod metrics;
pub mod report;
pub mod scorer;
