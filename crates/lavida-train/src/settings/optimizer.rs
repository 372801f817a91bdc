//! `[optimizer]`: AdamW and its schedule.

use lavida_data::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schedule::Decay;

/// `[optimizer]`: AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSettings {
    /// Peak learning rate.
    #[schemars(range(max = 10.0), extend("exclusiveMinimum" = 0.0, "unit" = "ratio"))]
    pub learning_rate: f64,
    /// Decay of the first moment.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0, "unit" = "ratio"))]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0, "unit" = "ratio"))]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(range(min = 1e-30, max = 1.0), extend("unit" = "ratio"))]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "ratio"))]
    pub weight_decay: f64,
    /// Decay matrices only (no biases, norms or embeddings of rank one); the reference decays everything.
    pub decay_matrices_only: bool,
    /// Steps of linear warm-up.
    #[schemars(range(min = 0, max = 1_000_000_000_000i64), extend("unit" = "steps"))]
    pub warmup_steps: u64,
    /// Shape after the warm-up.
    pub decay: Decay,
    /// Largest global norm of the gradient; 0 switches clipping off.
    #[schemars(range(min = 0.0, max = 1e12), extend("unit" = "norm"))]
    pub clip_norm: f64,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            decay_matrices_only: false,
            warmup_steps: 100,
            decay: Decay::Linear,
            clip_norm: 1.0,
        }
    }
}

impl OptimizerSettings {
    /// Checks that a step's decay, the product of rate and decay, leaves a weight its sign.
    pub(super) fn check(&self) -> Result<()> {
        let product = self.learning_rate * self.weight_decay;
        if product <= 1.0 {
            return Ok(());
        }
        Err(Error::invalid(
            "optimizer.weight_decay",
            format!(
                "at most 1 / optimizer.learning_rate = {}: a step takes their product of every weight",
                1.0 / self.learning_rate
            ),
            self.weight_decay,
        ))
    }
}
