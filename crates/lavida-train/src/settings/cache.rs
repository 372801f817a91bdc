//! `[cache]`: where training data is kept that was fetched.

use lavida_data::{catalog::DEFAULT_MEMORY_BYTES, disk_cache::DEFAULT_DISK_BYTES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[cache]`: where training data is kept that was fetched. Nothing here changes what is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Folder of each machine, shared by its workers, for what was fetched from a bucket; it outlives the run. Without
    /// one every worker process fetches for itself. Data in a folder is read where it is.
    pub dir: Option<String>,
    /// Most bytes of it; what was read longest ago goes first.
    #[schemars(range(min = 0, max = 1_152_921_504_606_846_976i64), extend("unit" = "bytes"))]
    pub disk_bytes: u64,
    /// Most bytes of encoded clips that a process holds in memory. What does not fit of half a shuffle window is read
    /// again when it is needed.
    #[schemars(range(min = 0, max = 1_152_921_504_606_846_976i64), extend("unit" = "bytes"))]
    pub memory_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            dir: None,
            disk_bytes: DEFAULT_DISK_BYTES,
            memory_bytes: DEFAULT_MEMORY_BYTES,
        }
    }
}
