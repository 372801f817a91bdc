//! The object store: put-if-absent entries, manifests and parts. Each write is judged when it takes effect.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Answer, Examined, Generation,
    ledger::{Entry, Fact, Remembered},
};

#[derive(Default)]
pub struct SimulatedStore {
    pub ledger: Vec<Entry>,
    pub remembered: Remembered,
    pub manifests: BTreeMap<u64, Entry>,
    /// By (step, key): the generation that wrote it and the digest of its content.
    pub parts: BTreeMap<(u64, String), (Generation, u64)>,
    /// Checkpoints, by step and generation, that are not what they were.
    pub damaged: BTreeSet<(u64, Generation)>,
}

impl SimulatedStore {
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

    /// Put-if-absent of a manifest, which must be of a checkpoint that the ledger holds; or what was set aside is moved.
    pub fn publish(&mut self, entry: &Entry) -> Result<Answer, String> {
        let step = match entry.fact {
            Fact::Committed { step, .. } => step,
            Fact::SetAside { step, back_to } => {
                if !self.ledger.contains(entry) {
                    return Err(format!("step {step} was set aside without an entry"));
                }
                self.manifests.retain(|s, _| *s <= back_to || *s > step);
                return Ok(Answer::Done);
            }
            _ => return Err("published something that is no checkpoint".to_owned()),
        };
        match self.manifests.get(&step) {
            Some(there) if there == entry => Ok(Answer::Done),
            Some(there) if there.generation < entry.generation => {
                self.manifests.remove(&step);
                Ok(Answer::Unavailable)
            }
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

    /// The newest step up to `step` whose checkpoint is whole.
    pub fn examine(&self, step: u64) -> Examined {
        let mut older = self.manifests.range(..=step).rev();
        let whole = older.find(|(step, entry)| !self.is_damaged(**step, entry));
        match whole {
            Some((step, _)) => Examined::Whole(*step),
            None => Examined::NoneWhole("none".to_owned()),
        }
    }

    /// Whether the checkpoint of `step` was set aside while this generation was the newest, or later.
    pub fn was_set_aside(&self, step: u64, generation: Generation) -> bool {
        let since = self.ledger.iter().filter(|e| e.generation >= generation);
        let mut aside = since.filter_map(|entry| match entry.fact {
            Fact::SetAside { step, back_to } => Some(back_to + 1..=step),
            _ => None,
        });
        aside.any(|steps| steps.contains(&step))
    }

    pub fn is_damaged(&self, step: u64, entry: &Entry) -> bool {
        self.damaged.contains(&(step, entry.generation))
    }

    pub fn newest_manifest(&self) -> Option<u64> {
        self.manifests.keys().next_back().copied()
    }
}
