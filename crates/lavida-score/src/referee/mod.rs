//! The referee: anybody's frame scores held against labels under every convention that papers use, side by side.
//!
//! Papers differ by whole points for how a score is computed and not for what the model says: frames of all videos ranked
//! together or video by video, two artificial points added or not, each video stretched to [0, 1] by its own least and greatest
//! score or not, scores smoothed over time or not. All of these are computed here from the same scores, each under a name of its
//! own ([`CONVENTIONS`]) with who uses it, and each with an interval from a bootstrap over videos.
//!
//! ```text
//!  files ─► values ─► pairing ─► PairedVideo ─► ranking · bootstrap ─► RefereeReport
//! ```
//!
//! Point values are exact. Figures of pixels are in [`pixel_ranking`](crate::pixel_ranking), those of regions in [`regions`].

mod bootstrap;
pub mod conventions;
pub mod pairing;
pub mod ranking;
pub mod regions;
mod report;
pub mod truth;
pub mod values;

pub use conventions::{CONVENTIONS, Convention};
pub use pairing::PairedVideo;
pub use report::{Estimate, FrameFigures, RefereeReport, RefereeVideo, Variant, referee};

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct RefereeOptions {
    /// Standard deviations of the Gaussian filters, in frames; 0 is none.
    pub smoothing_sigma_frames: Vec<f64>,
    /// A frame is called anomalous from this score on, for F1 at a fixed threshold.
    pub threshold: f64,
    /// Resamples of the bootstrap; 0 for no intervals.
    pub n_resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for RefereeOptions {
    fn default() -> Self {
        Self {
            smoothing_sigma_frames: vec![0.0, 5.0, 15.0],
            threshold: 0.5,
            n_resamples: 1000,
            seed: 0,
        }
    }
}
