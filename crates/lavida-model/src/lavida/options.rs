//! What may differ from one forward pass of a model to the next.

use crate::compression::Compression;

/// How a forward pass is made. Nothing of it is part of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardOptions {
    /// What of the clips the language model reads.
    pub compression: Compression,
    /// What is given out of the masks.
    pub masks: MaskOutput,
}

/// Which masks a forward pass gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOutput {
    /// All candidates, for the losses.
    Candidates {
        /// Masks of frames whose object score is not positive become −1024 and get no gradient, as in the reference.
        gated: bool,
    },
    /// One mask per frame, gated by the object score: of a video the candidate of highest predicted IoU, of an image the
    /// single mask where it is stable.
    Best,
}
