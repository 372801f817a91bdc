//! What both programs show and say alike, so that whoever knows one knows the other: progress of long work, the log,
//! `--version`, the end of `--help`, numbers.
//!
//! Everything a person watches goes to standard error, through [`screen`]. Standard output is for results, and is the
//! commands' own.

pub mod help;
pub mod log;
pub mod progress;
pub mod screen;
pub mod units;
pub mod version;
