//! The commands, one file each.

pub mod bench;
pub mod check;
pub mod cluster;
pub mod demo;
pub mod devices;
pub mod eval;
pub mod export;
pub mod import;
pub mod inspect;
pub mod predict;
pub mod score;
pub mod settings;
pub mod train;
