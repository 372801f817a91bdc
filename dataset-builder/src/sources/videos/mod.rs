//! Videos whose objects have a mask in every annotated frame: a row is a window of one video.

pub mod davis;
pub mod labelled_videos;
pub mod youtube_vos;
