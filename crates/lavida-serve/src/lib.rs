//! A trained model as a service.
//!
//! ```text
//!  upload ─► Spool ─► decoding thread ─► Window ─► BatchQueue (actor) ─► device thread
//!    (still arriving)                                                       │
//!  answer ◄─ NDJSON line a frame, or one JSON ◄─ FrameScore ◄───────────────┘
//! ```
//!
//! Two doors to the same queue: `POST /v1/score` takes a video as it is and answers while it arrives; `/v2` is the Open Inference
//! Protocol (<https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>), with its binary
//! tensors, so that clients written for Triton or KServe work unchanged.
//!
//! Every window is a forward pass of its own unless [`settings::Batching`] says otherwise, so a served score has the bits of
//! `lavida eval` and `lavida predict`, whatever else is being scored.

pub mod settings;

mod admission;
mod api;
mod auth;
mod connections;
mod device;
mod infer;
mod metrics;
mod models;
mod page;
mod problem;
mod queue;
mod score;
mod scoring;
mod spool;
mod tensors;
mod tls;
mod upload;

pub use connections::{Service, serve};
pub use models::Models;
