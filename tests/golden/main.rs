//! Every part of the model against what the PyTorch reference computes, forward and backward.
//!
//! One module per component, one folder of fixtures each: `config.json` with sizes and cases, and
//! safetensors files. The fixtures beside this file are small; `LAVIDA_GOLDEN_DIR` names a folder of the
//! same layout to run instead. Sizes and cases are read from the files, so any such folder will do.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail where it stands and say how close it came"
)]

mod clip_text;
mod compression;
mod full;
mod gradients;
mod loss;
mod metrics;
mod mllm;
mod prep;
mod projector;
mod prompt;
mod referee;
mod sam2;
mod support;
mod whole_model;
