//! The run's ledger: the one thing about a cluster that is remembered.
//!
//! Entries are written at consecutive indices with put-if-absent, so two coordinators cannot both write the next one,
//! and whoever finds its index taken knows that it has been replaced. That is the whole of fencing, on stores whose
//! only conditional write is "this key is new": a new generation is opened by an entry, a checkpoint is committed by an
//! entry, hence no checkpoint of an older generation can be committed after a newer one was opened. A
//! coordinator takes over by an entry as well, and looks now and then whether its next index is still free, so one that
//! was replaced while it had nothing to write learns it too. The manifest of a
//! checkpoint is published after its entry, from the entry; if the coordinator dies between the two, the next one
//! publishes it before it does anything else. A committed checkpoint that turns out to be damaged is set aside by an entry
//! too, and its manifest after that: from there on its step may be committed again, by a later generation only. Entries are small and are never deleted: a deleted one could be written
//! again by somebody who slept.

use serde::{Deserialize, Serialize};

use super::{CoordinatorId, Departure, Generation, WorkerName, WrittenPart};

/// One remembered fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Who wrote it: tells a repeated write of one's own from somebody else's.
    pub coordinator: CoordinatorId,
    /// The generation that was opened, or that wrote the checkpoint.
    pub generation: Generation,
    /// What happened.
    pub fact: Fact,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Fact {
    /// A coordinator began: older ones are fenced from here on. Its generation has no world.
    TookOver {
        /// The build of its program.
        build: String,
        /// The machine it is on.
        node: String,
    },
    /// The coordinator gave up or was asked to stop. Another may take over later.
    Closed,
    /// A world was formed.
    Opened {
        /// The step it starts from.
        resume_from: u64,
        /// Whether its state was held by workers, and no checkpoint was read: what was learned after the last one goes on.
        kept: bool,
        /// Number of ranks.
        world_size: u32,
        /// Who they are, by rank.
        ranks: Vec<WorkerName>,
        /// Who went since the entry before of this kind.
        departures: Vec<Departure>,
    },
    /// A checkpoint is whole.
    Committed {
        /// Optimizer updates made.
        step: u64,
        /// Number of ranks that made it.
        world_size: u32,
        /// The training state in the checkpoint's own words.
        state: Vec<u8>,
        /// Every part, by name.
        parts: Vec<WrittenPart>,
    },
    /// Checkpoints after `back_to`, up to `step`, are damaged: none of them counts any more.
    SetAside {
        /// The newest committed step so far.
        step: u64,
        /// The newest step whose checkpoint is whole.
        back_to: u64,
    },
}

impl Fact {
    /// The step whose manifests follow from it.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::Committed { step, .. } | Self::SetAside { step, .. } => Some(*step),
            Self::TookOver { .. } | Self::Closed | Self::Opened { .. } => None,
        }
    }
}

/// What the entries add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Index of the next entry.
    pub next_index: u64,
    /// The newest generation.
    pub generation: Generation,
    /// The newest committed step that was not set aside; 0 when there is none.
    pub committed: u64,
    /// States that workers hold count from this generation on: the last that began with a checkpoint. What was held before
    /// is of training that was given up.
    pub lineage: Generation,
}

impl Remembered {
    /// Takes one more entry into account.
    ///
    /// # Errors
    ///
    /// What contradicts the entries before, in words: a ledger is only ever written in order.
    pub fn add(&mut self, entry: &Entry) -> Result<(), String> {
        let index = self.next_index;
        let closes = matches!(
            entry.fact,
            Fact::Committed { .. } | Fact::Closed | Fact::SetAside { .. }
        );
        if closes && entry.generation != self.generation {
            return Err(format!(
                "entry {index}: expected one of generation {}, found one of {}",
                self.generation, entry.generation
            ));
        }
        if !closes && entry.generation <= self.generation {
            return Err(format!(
                "entry {index}: expected a generation above {}, found {}",
                self.generation, entry.generation
            ));
        }
        match &entry.fact {
            Fact::Closed => {}
            Fact::TookOver { .. } => self.generation = entry.generation,
            Fact::Opened {
                resume_from, kept, ..
            } => {
                if *resume_from < self.committed {
                    return Err(format!(
                        "entry {index}: expected generation {} to start from {} or later, found {resume_from}",
                        entry.generation, self.committed
                    ));
                }
                self.generation = entry.generation;
                if !kept {
                    self.committed = *resume_from;
                    self.lineage = entry.generation;
                }
            }
            Fact::Committed { step, .. } => {
                if *step <= self.committed {
                    return Err(format!(
                        "entry {index}: expected a step above {}, found {step}",
                        self.committed
                    ));
                }
                self.committed = *step;
            }
            Fact::SetAside { step, back_to } => {
                // Of a run that began on one machine the ledger may know fewer commits than there are.
                if *back_to >= *step || *step < self.committed {
                    return Err(format!(
                        "entry {index}: expected to go back from {} or later, found {step} to {back_to}",
                        self.committed
                    ));
                }
                self.committed = *back_to;
                self.lineage = self.generation.next();
            }
        }
        self.next_index += 1;
        Ok(())
    }

    /// Adds up a ledger.
    ///
    /// # Errors
    ///
    /// As [`Remembered::add`].
    pub fn of(entries: &[Entry]) -> Result<Self, String> {
        let mut remembered = Self::default();
        for entry in entries {
            remembered.add(entry)?;
        }
        Ok(remembered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(generation: u64, resume_from: u64) -> Entry {
        Entry {
            coordinator: CoordinatorId(1),
            generation: Generation(generation),
            fact: Fact::Opened {
                resume_from,
                kept: false,
                world_size: 2,
                ranks: vec![],
                departures: vec![],
            },
        }
    }

    fn committed(generation: u64, step: u64) -> Entry {
        Entry {
            coordinator: CoordinatorId(1),
            generation: Generation(generation),
            fact: Fact::Committed {
                step,
                world_size: 2,
                state: vec![],
                parts: vec![],
            },
        }
    }

    fn set_aside(generation: u64, step: u64, back_to: u64) -> Entry {
        Entry {
            fact: Fact::SetAside { step, back_to },
            ..opened(generation, 0)
        }
    }

    fn check_refused(entries: &[Entry], words: &str) {
        let error = Remembered::of(entries).unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn whoever_took_over_keeps_older_generations_from_committing() {
        let took_over = Entry {
            fact: Fact::TookOver {
                build: "1".to_owned(),
                node: "here".to_owned(),
            },
            ..opened(2, 0)
        };
        check_refused(
            &[opened(1, 0), took_over, committed(1, 4)],
            "of generation 2, found one of 1",
        );
    }

    #[test]
    fn a_ledger_adds_up_to_its_newest_generation_and_commit() {
        let entries = [opened(1, 0), committed(1, 4), opened(2, 4), committed(2, 8)];
        let remembered = Remembered::of(&entries).unwrap();
        assert_eq!(remembered.next_index, 4);
        assert_eq!(remembered.generation, Generation(2));
        assert_eq!(remembered.committed, 8);
    }

    #[test]
    fn a_step_that_was_set_aside_is_committed_again_by_a_later_generation_only() {
        let mut entries = vec![
            opened(1, 0),
            committed(1, 4),
            committed(1, 8),
            opened(2, 8),
            set_aside(2, 8, 4),
        ];
        assert_eq!(Remembered::of(&entries).unwrap().committed, 4);
        entries.push(opened(3, 4));
        let stale = [&entries[..], &[committed(2, 8)]].concat();
        check_refused(&stale, "of generation 3, found one of 2");
        entries.push(committed(3, 8));
        assert_eq!(Remembered::of(&entries).unwrap().committed, 8);
        check_refused(&[opened(1, 0), set_aside(1, 4, 4)], "found 4 to 4");
        check_refused(
            &[opened(1, 0), committed(1, 8), set_aside(1, 4, 2)],
            "back from 8 or later, found 4",
        );
    }

    #[test]
    fn a_ledger_that_contradicts_itself_is_damaged() {
        check_refused(&[opened(2, 0), opened(2, 0)], "generation above 2, found 2");
        check_refused(
            &[opened(1, 0), committed(2, 4)],
            "of generation 1, found one of 2",
        );
        check_refused(
            &[opened(1, 0), committed(1, 4), committed(1, 4)],
            "above 4, found 4",
        );
        check_refused(
            &[opened(1, 0), committed(1, 4), opened(2, 0)],
            "start from 4",
        );
    }
}
