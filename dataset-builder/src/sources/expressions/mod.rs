//! Videos with expressions that refer to their objects.

pub mod mevis;
pub mod ref_davis;
pub mod ref_youtube_vos;
