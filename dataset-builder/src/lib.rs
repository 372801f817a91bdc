//! Source datasets to pseudo-anomaly shards.
//!
//! A source dataset (COCO, ADE20K, DAVIS, …) is read in its published layout; every image, or window of eight frames of a
//! video, becomes a row: encoded frames as they came, one run-length mask per object and frame, every text that names the
//! object. What cannot be used is left out and counted by reason. The rows go to Parquet shards; the dataset exists when
//! its manifest does. Nothing about anomalies is decided here: the exposure sampler draws them at load time.
//!
//! [`build::build`] is the whole of it; [`cli::main`] is the binary `lavida-dataset`; [`synth`] renders a small world in the
//! sources' own layouts.

pub mod build;
mod card;
pub mod cli;
#[path = "../../crates/lavida/src/command_line.rs"]
mod command_line;
pub mod preview;
pub mod progress;
pub mod read;
#[path = "../../crates/lavida/src/signals.rs"]
mod signals;
pub mod skip;
pub mod sources;
pub mod stats;
pub mod synth;

pub use build::{BuildEvent, BuildProgress, BuildRequest, BuildSummary, build};
pub use sources::SourceSpec;
