//! What reads one kind of file or folder, shared by the sources: pictures, masks, arrays, folders of frames; and what makes
//! rows of it. No source is known here.

pub(crate) mod class_map;
pub(crate) mod coco_file;
pub(crate) mod coco_masks;
pub(crate) mod evaluation;
pub(crate) mod files;
pub(crate) mod finder;
pub(crate) mod header;
pub(crate) mod lenient;
pub mod matlab;
pub(crate) mod meta_json;
pub(crate) mod names;
pub mod npy;
pub(crate) mod orientation;
pub(crate) mod palette;
pub(crate) mod pictures;
pub(crate) mod regions;
pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod video;
pub(crate) mod windows;
