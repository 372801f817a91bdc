//! The object store: put-if-absent entries, manifests and parts. Each write is judged when it takes effect.

use std::collections::BTreeMap;

use crate::control::{
    Answer, Generation,
    ledger::{Entry, Fact, Remembered},
};

#[derive(Default)]
pub struct Store {
    pub ledger: Vec<Entry>,
    pub remembered: Remembered,
    pub manifests: BTreeMap<u64, Entry>,
    /// By (step, key): the generation that wrote it and the digest of its content.
    pub parts: BTreeMap<(u64, String), (Generation, u64)>,
}

impl Store {
    /// Put-if-absent of entry `index`. The law of the ledger is checked on what was really written.
    pub fn append(&mut self, index: u64, entry: &Entry) -> Result<Answer, String> {
        if let Some(there) = self.ledger.get(index as usize) {
            return Ok(Answer::Taken(Box::new(there.clone())));
        }
        if index != self.ledger.len() as u64 {
            return Err(format!(
                "ledger: expected the next entry to be {}, found {index}",
                self.ledger.len()
            ));
        }
        self.remembered.add(entry)?;
        self.ledger.push(entry.clone());
        Ok(Answer::Done)
    }

    /// Put-if-absent of a manifest. It must be of a checkpoint that the ledger holds.
    pub fn publish(&mut self, entry: &Entry) -> Result<Answer, String> {
        let Fact::Committed { step, .. } = entry.fact else {
            return Err("published something that is no checkpoint".to_owned());
        };
        match self.manifests.get(&step) {
            Some(there) if there == entry => Ok(Answer::Done),
            Some(there) => Ok(Answer::Taken(Box::new(there.clone()))),
            None => {
                if !self.ledger.contains(entry) {
                    return Err(format!(
                        "a manifest of step {step} by generation {} that the ledger does not hold: a stale generation committed",
                        entry.generation
                    ));
                }
                self.manifests.insert(step, entry.clone());
                Ok(Answer::Done)
            }
        }
    }

    pub fn newest_manifest(&self) -> Option<u64> {
        self.manifests.keys().next_back().copied()
    }
}
