//! `[cluster]`: how a run on several workers is led.

use lavida_data::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who adds the gradients of several workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SumOrder {
    /// We, in the order of workers, whatever carries them: a run has the same bits on any machines.
    #[default]
    Ranks,
    /// NCCL, where it carries them, in an order that depends on its version and on how GPUs are connected. Where it does not,
    /// as `ranks`.
    Nccl,
}

impl SumOrder {
    /// Whether NCCL adds what it carries.
    pub fn is_nccl(self) -> bool {
        self == Self::Nccl
    }
}

/// `[cluster]`: how a run on several workers is led. Nothing here changes what is learned, but for the last bits with
/// `sums = "nccl"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSettings {
    /// Workers that are wanted; 0 for as many as come.
    #[schemars(range(min = 0, max = 65_536), extend("unit" = "workers"))]
    pub workers: usize,
    /// With fewer no step is made.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "workers"))]
    pub min_workers: usize,
    /// How long the first step waits for all wanted workers, from when there are enough.
    #[schemars(range(min = 0, max = 31_536_000), extend("unit" = "seconds"))]
    pub patience_s: u64,
    /// The same after a worker was lost, for another in its place.
    #[schemars(range(min = 0, max = 31_536_000), extend("unit" = "seconds"))]
    pub patience_after_loss_s: u64,
    /// A machine that lost workers so often since it last had part in a checkpoint stands by, as long as the others are enough
    /// for a world; 0 for never.
    #[schemars(range(min = 0, max = 1_000_000_000), extend("unit" = "losses"))]
    pub max_node_failures: u32,
    /// A run that learns and commits nothing for so long starts again from its last checkpoint.
    #[schemars(range(min = 1, max = 31_536_000), extend("unit" = "seconds"))]
    pub stall_s: u64,
    /// Starts again, without a checkpoint between them, after which the run gives up.
    #[schemars(range(min = 0, max = 1_000_000_000), extend("unit" = "restarts"))]
    pub max_restarts: u32,
    /// Workers share the optimizer's state: each of `n` keeps a part of it and hands the others the values it updates.
    /// Saves 8 bytes a trained value (12 in bf16) but for an n-th of them, and moves as many bytes a step; but half of
    /// these only when backward is over, where sums of whole gradients overlap it, and a checkpoint gathers the moments.
    pub shard_optimizer: bool,
    /// Who adds gradients: `ranks` repeats a run to the bit, `nccl` may be faster where GPUs are connected by more than NVLink.
    pub sums: SumOrder,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            workers: 0,
            min_workers: 1,
            patience_s: 60,
            patience_after_loss_s: 2,
            max_node_failures: 3,
            stall_s: 1800,
            max_restarts: 10,
            shard_optimizer: false,
            sums: SumOrder::Ranks,
        }
    }
}

impl ClusterSettings {
    /// The numbers of workers that share `shares` microbatches evenly.
    pub fn even_sizes(shares: usize) -> impl DoubleEndedIterator<Item = usize> {
        (1..=shares).filter(move |size| shares.is_multiple_of(*size))
    }

    /// Refuses numbers of workers that cannot share the `shares` microbatches of a step.
    pub(super) fn check(&self, shares: usize) -> Result<()> {
        let even = || {
            let sizes = Self::even_sizes(shares).map(|size| size.to_string());
            sizes.collect::<Vec<_>>().join(", ")
        };
        let batch = || format!("train.global_batch / train.microbatch is {shares}");
        if self.workers > 0 && !shares.is_multiple_of(self.workers) {
            let expected = format!("0 or one of {} ({})", even(), batch());
            return Err(Error::invalid("cluster.workers", expected, self.workers));
        }
        let most = match self.workers {
            0 => shares,
            workers => workers,
        };
        if self.min_workers > most {
            let expected = match self.workers {
                0 => format!("at most {shares} ({})", batch()),
                workers => format!("at most cluster.workers, which is {workers}"),
            };
            return Err(Error::invalid(
                "cluster.min_workers",
                expected,
                self.min_workers,
            ));
        }
        Ok(())
    }
}
