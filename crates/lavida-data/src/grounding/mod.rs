//! The grounding stage, a stand-in for pretrained towers that the paper does not have (ADR 4): names that the projector's
//! attention should find in a clip, and samples that say where they are true.

mod names;
mod sample;

pub use names::GroundingDraw;
