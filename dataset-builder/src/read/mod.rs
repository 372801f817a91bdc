//! What reads one kind of file or folder, shared by the sources: pictures, masks, arrays, folders of frames.

pub(crate) mod class_map;
pub(crate) mod coco_masks;
pub(crate) mod files;
pub mod npy;
pub(crate) mod palette;
pub(crate) mod pictures;
pub(crate) mod video;
pub(crate) mod windows;
