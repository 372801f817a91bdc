//! How the ranks of a world find each other: a table of entries that somebody keeps for them.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// A table by which ranks find each other. Keys are the engine's own; one table serves one generation.
pub trait Entries: Send + Sync {
    /// Offers an entry to the others.
    ///
    /// # Errors
    ///
    /// Why it could not be offered.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String>;

    /// Waits for an entry.
    ///
    /// # Errors
    ///
    /// Why it did not come.
    fn get(&self, key: &str) -> Result<Vec<u8>, String>;
}

/// A table within this process: tests, and several ranks of one process.
#[derive(Default)]
pub struct MemoryEntries {
    entries: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
}

/// How long [`MemoryEntries::get`] waits.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);

impl Entries for MemoryEntries {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(key.to_owned(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(entries, MEMORY_TIMEOUT, |entries| {
                !entries.contains_key(key)
            });
        let (entries, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let value = entries.get(key).cloned();
        value.ok_or_else(|| format!("no entry {key} after {} s", MEMORY_TIMEOUT.as_secs()))
    }
}
