//! What is drawn for a clip (exposure, names) and the batches made of it: laws, distributions, shapes.

#![allow(missing_docs)]

mod batch;
mod exposure;
mod grounding;
mod world;
