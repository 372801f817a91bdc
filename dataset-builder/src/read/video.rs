//! The frame files of one video, read in order.

use std::path::PathBuf;

use lavida_data::clip::EncodedFrame;

use crate::read::files;
use crate::read::pictures::load_picture;
use crate::skip::{Reason, Skip};

/// A frame that decodes, with its place in the video.
#[derive(Clone, Debug)]
pub struct SourceFrame {
    /// Index in the video as the source lists it, counting frames that were left out.
    pub index: u32,
    /// File name without its ending: what masks are paired by.
    pub stem: String,
    /// The file's bytes.
    pub frame: EncodedFrame,
}

/// The readable frames of one video, all of one size.
#[derive(Clone, Debug)]
pub struct Video {
    /// Unique inside the dataset.
    pub name: String,
    /// Frame rate, when the source says one.
    pub fps: Option<f32>,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// In display order.
    pub frames: Vec<SourceFrame>,
}

/// Reads the frames of a video; the first readable one sets the size.
///
/// Unreadable frames and frames of another size are left out and recorded. `None` when no frame is left.
pub fn load_video(
    name: &str,
    fps: Option<f32>,
    frame_files: impl IntoIterator<Item = (u32, PathBuf)>,
    skips: &mut Vec<Skip>,
) -> Option<Video> {
    let mut video: Option<Video> = None;
    for (index, path) in frame_files {
        let picture = match load_picture(&path, skips) {
            Ok(picture) => picture,
            Err(skip) => {
                skips.push(skip);
                continue;
            }
        };
        let video = video.get_or_insert_with(|| Video {
            name: name.to_owned(),
            fps,
            width: picture.width,
            height: picture.height,
            frames: Vec::new(),
        });
        if (picture.width, picture.height) == (video.width, video.height) {
            video.frames.push(SourceFrame {
                index,
                stem: files::stem(&path),
                frame: picture.frame,
            });
        } else {
            skips.push(Skip::new(
                Reason::ImageSizeMismatch,
                path.display(),
                format!(
                    "{}×{} px like the first frame of its video",
                    video.width, video.height
                ),
                format!("{}×{} px", picture.width, picture.height),
            ));
        }
    }
    video
}
