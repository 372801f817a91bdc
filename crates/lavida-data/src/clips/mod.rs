//! What a clip is: frames, objects with their masks, and which of its frames are looked at together.

pub mod clip;
pub mod frame;
pub mod mask;
pub mod windows;
