//! What is drawn for a clip (exposure, names) and the batches made of it: laws, distributions, shapes.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod batch;
mod exposure;
mod grounding;
mod world;
