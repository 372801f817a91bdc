//! Pixel masks as COCO run-length encoding.

/// A mask of `height × width` px in COCO's compressed run-length encoding (column-major runs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RleMask {
    /// px
    pub height: u32,
    /// px
    pub width: u32,
    /// COCO's compressed `counts` string.
    pub counts: String,
}
