//! What is known of a video before it is decoded, and what is said where it cannot be read.

use std::path::Path;

use crate::Error;

/// Frames a second of a directory of pictures, which does not say: used for their times only.
pub const ASSUMED_FPS: f64 = 25.0;

/// What is known before the first frame is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoInfo {
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// Mean frames a second; `None` for a directory of pictures.
    pub fps: Option<f64>,
    /// Samples that the mp4 declares, or pictures in the directory.
    pub n_frames_expected: usize,
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        Error::invalid(
            path.display(),
            "an mp4 file or a directory of frames",
            "nothing there",
        )
    } else {
        Error::unreadable(path.display(), error)
    }
}
