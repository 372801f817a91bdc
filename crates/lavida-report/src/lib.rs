//! Pictures: overlays, plots, contact sheets and HTML pages.
//!
//! Plain values in (RGB bytes, bool masks, f32 series), bytes or text out; no tensors, no files, no clock. The same input gives the
//! same bytes on every machine.

pub mod canvas;
pub mod drawing;
pub mod html;
pub mod overlay;
pub mod plot;
mod raster;
pub mod sheet;
mod svg;
pub mod text;
