//! What the store says, and what follows from it: nothing here is decided before its entry is written.

use std::time::Duration;

use super::{
    super::*, Coordinator, Examination, Gathering, Known, Pending, Phase, Progress, Ranks,
};
use crate::ledger::{Entry, Fact, Remembered};

impl Coordinator {
    pub(super) fn ledger_read(&mut self, entries: &[Entry], published: Option<u64>, now: Duration) {
        if !matches!(self.phase, Phase::Reading) || self.append.is_some() {
            return;
        }
        match Remembered::of(entries) {
            Ok(remembered) => self.remembered = remembered,
            Err(reason) => return self.end_run(Outcome::Damaged { reason }, now),
        }
        let committed = self.remembered.committed;
        // The manifests may not say yet what the last such entry does: whoever wrote it may have died.
        let last = entries
            .iter()
            .rev()
            .find(|entry| matches!(entry.fact, Fact::Committed { .. } | Fact::SetAside { .. }));
        let unpublished = last.filter(|entry| match entry.fact {
            Fact::Committed { step, .. } => step == committed && published < Some(step),
            Fact::SetAside { step, back_to } => {
                published > Some(back_to) && published <= Some(step)
            }
            _ => false,
        });
        let builds = entries.iter().rev().find_map(|entry| match &entry.fact {
            Fact::TookOver { build, .. } => Some(build),
            _ => None,
        });
        if let Some(before) = builds.filter(|before| **before != self.settings.build) {
            self.log(Notice::OtherBuild {
                before: before.clone(),
                now: self.settings.build.clone(),
            });
        }
        let newest = match unpublished {
            Some(_) => committed,
            None => committed.max(published.unwrap_or(0)),
        };
        self.log(Notice::Recovered {
            generation: self.remembered.generation,
            committed: newest,
        });
        match unpublished {
            Some(entry) => self.publish = Some(Pending::new(entry.clone())),
            None => self.committed = newest,
        }
        if newest >= self.end {
            self.examine = Some(Examination::of(newest)); // Done is done if it is whole.
        }
        self.append = Some(Pending::new(Entry {
            coordinator: self.settings.id,
            generation: self.remembered.generation.next(),
            fact: Fact::TookOver {
                build: self.settings.build.clone(),
                node: self.settings.node.clone(),
            },
        }));
    }

    pub(super) fn gather(&mut self) {
        self.phase = Phase::Gathering(Gathering {
            enough_since: None,
            patience: self.settings.patience,
            after_loss: false,
        });
    }

    pub(super) fn probed(&mut self, index: u64, found: Option<Box<Entry>>, now: Duration) {
        let Some(found) = found.filter(|_| index == self.remembered.next_index) else {
            return;
        };
        // One's own write is there before its answer.
        let own = self.append.as_ref().map(|pending| &pending.entry);
        if own != Some(&*found) {
            let by = found.generation;
            self.append = None;
            self.end_run(Outcome::Fenced { by }, now);
        }
    }

    pub(super) fn appended(&mut self, index: u64, answer: Answer, now: Duration) {
        if index != self.remembered.next_index {
            return; // An answer to a repeated write that was answered before.
        }
        let Some(pending) = &mut self.append else {
            return;
        };
        match answer {
            Answer::Unavailable => {
                pending.in_flight = false;
                return;
            }
            Answer::Taken(found) if *found != pending.entry => {
                #[cfg(test)]
                if self.mutated(crate::simulation::Mutation::TakenCountsAsWritten) {
                    return self.appended(index, Answer::Done, now);
                }
                let by = found.generation;
                self.append = None;
                return self.end_run(Outcome::Fenced { by }, now);
            }
            Answer::Done | Answer::Taken(_) => {}
        }
        let Some(Pending { entry, .. }) = self.append.take() else {
            return;
        };
        if let Err(reason) = self.remembered.add(&entry) {
            return self.end_run(Outcome::Damaged { reason }, now);
        }
        match entry.fact {
            Fact::TookOver { .. } => self.gather(),
            Fact::Closed => {
                if let Phase::Closing(outcome) = &self.phase {
                    self.end_run(outcome.clone(), now);
                }
            }
            Fact::Opened { .. } => self.opened(now),
            Fact::Committed { .. } => {
                #[cfg(test)]
                if let (true, Fact::Committed { step, .. }) = (
                    self.mutated(crate::simulation::Mutation::CommittedBeforePublished),
                    &entry.fact,
                ) {
                    self.committed = *step;
                    self.dirty.extend(self.members.keys());
                }
                self.publish = Some(Pending::new(entry));
            }
            Fact::SetAside { .. } => self.publish = Some(Pending::new(entry)),
        }
    }

    /// What a look at the checkpoints found, from `step` back.
    pub(super) fn examined(&mut self, step: u64, found: Examined) {
        if !matches!(self.phase, Phase::Gathering(_)) {
            return;
        }
        let Some(examination) = self.examine.as_mut().filter(|e| e.step == step) else {
            return;
        };
        if self.append.is_some() || self.publish.is_some() {
            examination.in_flight = false;
            return; // It is asked again once they are answered.
        }
        match found {
            Examined::Unavailable => examination.in_flight = false,
            Examined::NoneWhole(found) => {
                self.examine = None;
                self.phase = Phase::Closing(Outcome::NoneWhole { found });
            }
            Examined::Whole(back_to) => {
                self.examine = None;
                // A step of its own that is whole was the member's trouble.
                if back_to < step && step == self.committed {
                    self.log(Notice::SetAside { step, back_to });
                    self.append = Some(Pending::new(Entry {
                        coordinator: self.settings.id,
                        generation: self.remembered.generation,
                        fact: Fact::SetAside { step, back_to },
                    }));
                }
            }
        }
    }

    pub(super) fn opened(&mut self, now: Duration) {
        let phase = std::mem::replace(&mut self.phase, Phase::Reading);
        let (world, after_loss) = match phase {
            Phase::Opening { world, after_loss } => (world, after_loss),
            other => return self.phase = other, // The run ended meanwhile.
        };
        let all_stand = world.peers.iter().all(|peer| {
            let known = self.members.get(&peer.member);
            known.is_some_and(Known::stands)
        });
        if !all_stand {
            self.phase = Phase::Gathering(Gathering {
                enough_since: None,
                patience: self.settings.patience_after_loss,
                after_loss,
            });
            return;
        }
        self.rendezvous.begin(world.generation);
        for peer in &world.peers {
            self.dirty.insert(peer.member);
            if let Some(known) = self.members.get_mut(&peer.member) {
                known.lease = world.resume_from;
            }
        }
        self.log(Notice::Formed {
            generation: world.generation,
            n_ranks: world.size(),
            resume_from: world.resume_from,
            n_holders: world.peers.iter().filter(|peer| peer.holds).count(),
        });
        let progress = Progress {
            seen: (0, 0, 0),
            at: now,
        };
        self.phase = Phase::Working {
            ranks: Box::new(Ranks::of(&world)),
            world,
            pause: None,
            progress,
        };
    }

    pub(super) fn published(&mut self, step: u64, answer: Answer, now: Duration) {
        let Some(pending) = &mut self.publish else {
            return;
        };
        if pending.entry.fact.step() != Some(step) {
            return;
        }
        match answer {
            Answer::Unavailable => pending.in_flight = false,
            Answer::Taken(found) => {
                let by = found.generation;
                self.publish = None;
                self.end_run(Outcome::Fenced { by }, now);
            }
            Answer::Done => {
                let (generation, fact) = (pending.entry.generation, pending.entry.fact.clone());
                self.publish = None;
                self.dirty.extend(self.members.keys());
                if let Fact::SetAside { back_to, .. } = fact {
                    self.committed = back_to;
                    return;
                }
                self.committed = step;
                self.restarts = 0;
                if let Phase::Working { world, .. } = &self.phase
                    && world.generation == generation
                {
                    for peer in &world.peers {
                        self.departures.works(&peer.node);
                    }
                }
                self.log(Notice::Committed { step, generation });
                self.grow();
            }
        }
    }

    /// A commit is the moment at which starting again costs least.
    pub(super) fn grow(&mut self) {
        let Some(world) = self.world() else { return };
        let size = world.size();
        let ready =
            |(id, known): &(&MemberId, &Known)| known.stands() || self.rank_of(**id).is_some();
        let n = self.members.iter().filter(ready).count();
        if self.committed < self.end && self.settings.world_size(n) > Some(size) {
            self.end_generation(EndReason::Grown);
        }
    }
}
