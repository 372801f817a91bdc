//! Learning rate over steps: linear warm-up, then linear decay to zero, or cosine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Straight to zero at the last step (the reference).
    #[default]
    Linear,
    /// Half a cosine to zero at the last step.
    Cosine,
    /// Stays at its peak.
    Constant,
}

/// The factor in [0, 1] on the peak learning rate for `step` (0-based) of `n_steps`.
///
/// The reference counts from 0, so its first step has a factor of 0; here the first step of the
/// warm-up is already `1 / warmup_steps`, because a step that moves nothing is a wasted batch.
pub fn learning_rate_factor(decay: Decay, step: u64, warmup_steps: u64, n_steps: u64) -> f64 {
    if step < warmup_steps {
        return (step + 1) as f64 / warmup_steps as f64;
    }
    let decaying = n_steps.saturating_sub(warmup_steps).max(1) as f64;
    let done = ((step - warmup_steps) as f64 / decaying).min(1.0);
    match decay {
        Decay::Linear => 1.0 - done,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        Decay::Constant => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn factor_rises_through_the_warm_up_then_never_rises_again(
            warmup in 0u64..50, n in 1u64..500, cosine in any::<bool>(),
        ) {
            let decay = if cosine { Decay::Cosine } else { Decay::Linear };
            let factors: Vec<f64> =
                (0..n).map(|s| learning_rate_factor(decay, s, warmup, n)).collect();
            for (s, pair) in factors.windows(2).enumerate() {
                if (s as u64) + 1 < warmup {
                    prop_assert!(pair[1] > pair[0]);
                } else {
                    prop_assert!(pair[1] <= pair[0]);
                }
            }
            prop_assert!(factors.iter().all(|f| (0.0..=1.0).contains(f)));
            prop_assert!(factors[0] > 0.0);
        }
    }
}
