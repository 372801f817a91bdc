//! How the engines of a generation find each other: the coordinator's rendezvous as a table that blocks.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use lavida_collective::Entries;
use lavida_control::Generation;

use crate::shell::Notifier;

/// How long an engine waits for another rank's entry.
const ENTRY_PATIENCE: Duration = Duration::from_secs(30);

/// The entries of one generation, as the coordinator keeps them.
pub(super) struct RendezvousEntries {
    notifier: Notifier,
    generation: Generation,
    runtime: tokio::runtime::Handle,
    state: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    found: BTreeMap<String, Vec<u8>>,
    given_up: bool,
}

impl RendezvousEntries {
    pub fn new(notifier: Notifier, generation: Generation) -> Self {
        Self {
            notifier,
            generation,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub fn found(&self, key: String, value: Vec<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.found.insert(key, value);
        self.changed.notify_all();
    }

    pub fn give_up(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.given_up = true;
        self.changed.notify_all();
    }
}

impl Entries for RendezvousEntries {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let (key, value) = (key.to_owned(), value.to_vec());
        self.runtime
            .block_on(self.notifier.offer(self.generation, key, value));
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let need = self.notifier.need(self.generation, key.to_owned());
        self.runtime.block_on(need);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, ENTRY_PATIENCE, |state| {
                !state.given_up && !state.found.contains_key(key)
            });
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.found.get(key) {
            Some(value) => Ok(value.clone()),
            None if state.given_up => Err("the generation has ended".to_owned()),
            None => Err(format!(
                "no entry {key} after {} s",
                ENTRY_PATIENCE.as_secs()
            )),
        }
    }
}
