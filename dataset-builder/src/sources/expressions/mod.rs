//! Pictures and videos with expressions that refer to their objects.

pub mod grefcoco;
pub mod mevis;
pub mod ref_davis;
pub mod ref_youtube_vos;
pub mod refclef;
pub mod refcoco;
pub mod refcoco_plus;
pub mod refcocog;
mod refer;
