//! Videos with expressions that refer to their objects.

pub mod mevis;
pub mod ref_videos;
