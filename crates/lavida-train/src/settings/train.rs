//! `[train]`: the loop, and what of the model trains.

use std::collections::BTreeMap;

use lavida_checkpoint::contents::Stage;
use lavida_data::{Error, Result};
use lavida_model::{
    policy::{TrainPolicies, TrainPolicy},
    precision::Precision,
    recompute::Recompute,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::losses::LossWeights;

/// How a part of the model trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// No gradient.
    Frozen,
    /// Low-rank adapters on `q_proj` and `v_proj`, the rest frozen.
    Lora,
    /// Every weight.
    Full,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// What is being learned.
    #[serde(default)]
    pub stage: Stage,
    /// Optimizer updates in all.
    #[schemars(range(min = 1, max = 1_000_000_000_000i64), extend("unit" = "steps"))]
    pub steps: u64,
    /// Clips per update, over all workers.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "clips"))]
    pub global_batch: usize,
    /// Clips per forward pass; `global_batch` is reached by accumulation. More is faster and needs more memory.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "clips"))]
    pub microbatch: usize,
    /// Microbatches of a step computed at once, each on a thread of its own; 0: one for each core on a CPU, one on a GPU.
    /// Nothing but time and memory depends on it: activations are held once for each.
    #[schemars(range(min = 0, max = 4_096), extend("unit" = "microbatches"))]
    #[serde(default)]
    pub side_by_side: usize,
    /// What backward computes again instead of keeping it: nothing, or blocks (the language model's layers, the
    /// Q-Former, SAM2's mask decoder). Not a bit of the result depends on it. `blocks` keeps of each block only what
    /// goes in, and costs one more forward of these blocks: a fifth of a step's time where everything trains, two
    /// fifths with LoRA (docs/benchmarks.md).
    #[serde(default)]
    pub recompute: Recompute,
    /// Number format of the weights that forward reads: `f32`, or `bf16`, which halves weights and activations and
    /// rounds to three digits; what trains is kept in f32 beside it, so a run that trains everything saves little. Made
    /// for GPUs; a CPU emulates it and takes a fifth longer.
    #[serde(default)]
    pub precision: Precision,
    /// Whose weights the run starts from (URI of a run, of one checkpoint or of an export); from random weights without.
    #[serde(default)]
    pub initial: Option<String>,
    /// Masks of frames whose object score is not positive are set to -1024 in training too, as the reference does.
    #[serde(default)]
    pub gate_masks_in_training: bool,
    /// Policy by module prefix; the longest prefix wins, `full` where none matches.
    #[serde(default)]
    pub policy: BTreeMap<String, Policy>,
    /// Rank of the LoRA adapters.
    #[schemars(range(min = 1, max = 131_072), extend("unit" = "channels"))]
    #[serde(default = "default_lora_rank")]
    pub lora_rank: usize,
    /// LoRA's α; adapters are scaled by α / rank.
    #[schemars(range(max = 1e6), extend("exclusiveMinimum" = 0.0, "unit" = "ratio"))]
    #[serde(default = "default_lora_alpha")]
    pub lora_alpha: f64,
    /// Weights of the loss terms.
    #[serde(default)]
    pub losses: LossWeights,
}

fn default_lora_rank() -> usize {
    8
}
fn default_lora_alpha() -> f64 {
    16.0
}

impl TrainSettings {
    /// Checks that microbatches make up a step, and that adapters are no wider than what they adapt.
    pub(super) fn check(&self, hidden_size: usize) -> Result<()> {
        if !self.global_batch.is_multiple_of(self.microbatch) {
            let expected = format!("a multiple of train.microbatch = {}", self.microbatch);
            let found = self.global_batch;
            return Err(Error::invalid("train.global_batch", expected, found));
        }
        let adapts = self.policy.values().any(|policy| *policy == Policy::Lora);
        if adapts && self.lora_rank > hidden_size {
            let expected = format!("at most model.language.hidden_size = {hidden_size}");
            return Err(Error::invalid("train.lora_rank", expected, self.lora_rank));
        }
        Ok(())
    }
}

impl Settings {
    /// The train policies of the settings.
    pub fn policies(&self) -> TrainPolicies {
        let lora = TrainPolicy::Lora {
            rank: self.train.lora_rank,
            alpha: self.train.lora_alpha,
        };
        // A tied head is the embedding, and trains as that does.
        let is_tied = self.model.language.tie_word_embeddings;
        let named = self.train.policy.iter();
        let named = named.filter(|(prefix, _)| !(is_tied && *prefix == "lm_head"));
        TrainPolicies::new(named.map(|(prefix, policy)| {
            let policy = match policy {
                Policy::Frozen => TrainPolicy::Frozen,
                Policy::Full => TrainPolicy::Full,
                Policy::Lora => lora,
            };
            (prefix.clone(), policy)
        }))
    }
}
