//! What a checkpoint holds: everything a run needs to go on as if it had never stopped.
//!
//! Weights carry the reference's parameter names, LoRA adapters beside the weights they adapt; the
//! moments carry the same names. Position in the data, schedule and random streams are functions of
//! [`TrainState`]'s few numbers, so nothing else is saved of them. Where the parts lie in the store
//! and how they are committed is the dataflow's business (`docs/checkpoint-format.md`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::settings::Stage;

/// Model weights, safetensors: f32; what is frozen in a run in bf16, bf16.
pub const WEIGHTS: &str = "weights.safetensors";
/// Optimizer moments, safetensors, f32: `exp_avg.NAME`, `exp_avg_sq.NAME`.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// What is handed on and never read (SAM2's memory), safetensors; only where the weights were imported.
pub const CARRIED: &str = lavida_model::weights::CARRIED;
/// The resolved settings of the run.
pub const SETTINGS: &str = "settings.toml";
/// Qwen2-VL's vocabulary, `<SEG>` included.
pub const TOKENIZER: &str = "tokenizer.json";
/// CLIP's vocabulary.
pub const CLIP_TOKENIZER: &str = "clip_tokenizer.json";

/// The numbers a run resumes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// What was being learned.
    pub stage: Stage,
    /// Optimizer updates made.
    pub step: u64,
    /// Samples consumed; the next one is this position of the sample order.
    pub position: u64,
    /// Root of every random choice.
    pub seed: u64,
    /// Identity of the training data (hash over the manifests), as hex.
    pub data: String,
    /// Workers of the last step.
    pub world_size: usize,
    /// Membership generation that wrote this.
    pub generation: u64,
}

/// State and the named parts that go with it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The numbers.
    pub state: TrainState,
    /// Part name → bytes.
    pub parts: BTreeMap<String, Bytes>,
}
