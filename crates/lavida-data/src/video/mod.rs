//! Videos as a stream of frames: an mp4 with H.264, or a directory of pictures, read the same way.
//!
//! One frame is in memory at a time (plus what the decoder holds back to reorder). Frames come in display order, each with its
//! presentation time. A video that gives fewer or more frames than it declares is an error at its end, since scores are one
//! a frame and a lost one would shift the rest; a damaged one gives the frames before the fault, and then the fault.
//!
//! Turned tracks come upright, frames that an edit list hides are left out, colours are converted by the matrix and range that
//! the stream says. What is not followed is warned of: edit lists of several parts, matrices that are no turn, rare colours.

mod boxes;
mod colour;
mod frames_dir;
mod h264;
mod info;
mod sps;
#[cfg(test)]
mod test_mp4;

use std::io::{Read, Seek};
use std::path::Path;

use crate::Result;
use crate::clips::frame::RgbFrame;
use crate::video::info::unreadable;
pub use crate::video::info::{ASSUMED_FPS, VideoInfo};

/// One decoded frame.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoFrame {
    /// Number in display order, from 0.
    pub index: usize,
    /// Presentation time in seconds; the first frame's is 0.
    pub time: f64,
    /// Its pixels.
    pub image: RgbFrame,
}

/// Bytes of a video that need not be a file, such as an upload that has not arrived whole: a read may wait for them.
pub trait Media: Read + Seek + Send {}

impl<T: Read + Seek + Send> Media for T {}

/// An open video; iterating decodes it.
///
/// After an error, or after the last frame, the iterator stays empty.
pub struct VideoReader {
    info: VideoInfo,
    source: Option<Source>,
    next_index: usize,
}

enum Source {
    H264(Box<h264::H264Source>),
    Directory(frames_dir::FramesDir),
}

impl VideoReader {
    /// Opens an mp4 file with H.264 video, or a directory of JPEG, PNG, TIFF or BMP pictures in natural order of their names.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is nothing at `path`, it is no mp4, its codec is another one, or the directory has
    /// no pictures or mixes formats; [`Error::Corrupt`] when the mp4 is cut or damaged; [`Error::Unavailable`] when
    /// it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let (info, source) = if metadata.is_dir() {
            let source = frames_dir::FramesDir::open(path)?;
            (source.info(), Source::Directory(source))
        } else {
            let source = h264::H264Source::open(path)?;
            (source.info(), Source::H264(Box::new(source)))
        };
        Ok(Self {
            info,
            source: Some(source),
            next_index: 0,
        })
    }

    /// Opens an mp4 with H.264 video of `n_bytes` that is no file; `name` stands for it in messages.
    ///
    /// An mp4 whose description (`moov`) comes first is opened as soon as that is there, and each frame is decoded as soon as
    /// its bytes are.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn of_media(name: &str, media: Box<dyn Media>, n_bytes: u64) -> Result<Self> {
        let source = h264::H264Source::read(Path::new(name), media, n_bytes)?;
        Ok(Self {
            info: source.info(),
            source: Some(Source::H264(Box::new(source))),
            next_index: 0,
        })
    }

    /// Size, frame rate and declared number of frames.
    pub fn info(&self) -> VideoInfo {
        self.info
    }
}

impl Iterator for VideoReader {
    type Item = Result<VideoFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match self.source.as_mut()? {
            Source::H264(source) => source.next_frame(),
            Source::Directory(source) => source.next_frame(),
        };
        let item = next.transpose().map(|next| {
            next.map(|(time, image)| VideoFrame {
                index: self.next_index,
                time,
                image,
            })
        });
        self.next_index += 1;
        if !matches!(item, Some(Ok(_))) {
            self.source = None;
        }
        item
    }
}

impl std::fmt::Debug for VideoReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoReader")
            .field("info", &self.info)
            .field("next_index", &self.next_index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
