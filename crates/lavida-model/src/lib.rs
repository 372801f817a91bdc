//! The model: Qwen2-VL, CLIP text, SAM2 and the multi-scale semantic projector as Burn modules.

pub mod config;
pub mod attention;
pub mod clip_text;
mod initial;
pub mod qwen2_vl;
pub mod sam2;
pub mod norm;
pub mod two_way;
pub mod draw;
pub mod error;
pub mod lavida;
pub mod linear;
pub mod policy;
pub mod projector;
pub mod weights;

pub use error::{Error, Result};
pub use lavida_kernels::compression;
