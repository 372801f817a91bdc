//! `[checkpoint]`: when state is committed, and what is kept.

use lavida_checkpoint::Retention;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; the last step always has one.
    #[schemars(range(min = 1, max = 1_000_000_000_000i64), extend("unit" = "steps"))]
    pub every: u64,
    /// So many of the newest committed checkpoints are kept.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("unit" = "checkpoints"))]
    pub keep_last: usize,
    /// So is that of every step that is a multiple of this; 0 for none.
    #[schemars(range(min = 0, max = 1_000_000_000_000i64), extend("unit" = "steps"))]
    pub keep_every: u64,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every: 500,
            keep_last: 3,
            keep_every: 0,
        }
    }
}

impl From<&CheckpointSettings> for Retention {
    fn from(settings: &CheckpointSettings) -> Self {
        Self {
            keep_last: settings.keep_last,
            keep_every: settings.keep_every,
        }
    }
}
