//! The model: Qwen2-VL, CLIP text, SAM2 and the multi-scale semantic projector as Burn modules.

pub mod attention;
pub mod clip_text;
pub mod compression;
pub mod config;
pub mod draw;
pub mod error;
mod initial;
pub mod lavida;
pub mod linear;
pub mod norm;
pub mod policy;
pub mod precision;
pub mod projector;
pub mod qwen2_vl;
pub mod recompute;
pub mod sam2;
pub mod two_way;
pub mod weights;

pub use error::{Error, Result};
pub use lavida_kernels::watch;
