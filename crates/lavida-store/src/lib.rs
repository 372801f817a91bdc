//! Where state lives: object-store URLs, put-if-absent commits, versioned manifests. No video, no tensors.

mod error;

pub use error::{Error, Result};
