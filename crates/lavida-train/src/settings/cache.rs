//! `[cache]`: where training data is kept that was fetched.

use lavida_data::{
    Result,
    catalog::{Caching, DEFAULT_MEMORY_BYTES},
    disk_cache::{DEFAULT_DISK_BYTES, DiskCache},
};
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

impl CacheSettings {
    /// The cache; its folder is made.
    ///
    /// # Errors
    ///
    /// [`lavida_data::Error::Invalid`] when there can be no such folder.
    pub fn open(&self) -> Result<Caching> {
        let disk = self
            .dir
            .as_ref()
            .map(|dir| DiskCache::open(dir, self.disk_bytes));
        Ok(Caching {
            memory_bytes: self.memory_bytes,
            disk: disk.transpose()?,
        })
    }
}
