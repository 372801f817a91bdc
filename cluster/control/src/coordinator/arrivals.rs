//! What members say, and who comes and goes.

use std::time::Duration;

use super::{super::*, Coordinator, Examination, Gathering, Known, MAX_LEFT, Phase};
use crate::{message::Activity, types::MAX_MEMBERS};

impl Coordinator {
    pub(super) fn message(&mut self, frame: MemberFrame, now: Duration) {
        let id = frame.member;
        if matches!(self.phase, Phase::Reading) {
            return; // Nothing can be promised yet; it asks again.
        }
        match frame.message {
            FromMember::Ask => {
                let job = self.settings.job.clone();
                self.send(id, ToMember::Job(job));
            }
            FromMember::Join(join) => self.join(id, join, now),
            FromMember::Drain => self.drain(id, now),
            FromMember::Leave => self.leaves(id),
            message => {
                let Some(known) = self.members.get_mut(&id) else {
                    return self.refuse(id, Refusal::Unknown);
                };
                known.last_heard = now;
                match message {
                    FromMember::Status(status) => self.status(id, status),
                    FromMember::Put {
                        generation,
                        key,
                        value,
                    } => {
                        let answers = self.rendezvous.put(id, generation, key, value);
                        self.answer(answers);
                    }
                    FromMember::Get { generation, key } => {
                        let answers = self.rendezvous.get(id, generation, key);
                        self.answer(answers);
                    }
                    FromMember::Ask
                    | FromMember::Join(_)
                    | FromMember::Drain
                    | FromMember::Leave => {
                        unreachable!("handled above")
                    }
                }
            }
        }
    }

    /// Takes a member out that wants it.
    pub(super) fn leaves(&mut self, id: MemberId) {
        if self.left.len() == MAX_LEFT {
            self.left.pop_front();
        }
        self.left.push_back(id);
        self.remove(id, DepartureReason::Left);
    }

    /// A member wants to go: at once where it has no work, else after the step under way.
    fn drain(&mut self, id: MemberId, now: Duration) {
        if !self.members.contains_key(&id) {
            return self.refuse(id, Refusal::Left);
        }
        if self.rank_of(id).is_none() {
            self.leaves(id);
            return self.refuse(id, Refusal::Left);
        }
        self.draining.entry(id).or_insert(now);
        if let Phase::Working {
            world,
            ranks,
            pause: pause @ None,
            ..
        } = &mut self.phase
        {
            *pause = Some(ranks.slowest() + 2);
            self.dirty
                .extend(world.peers.iter().map(|peer| peer.member));
        }
    }

    pub(super) fn join(&mut self, id: MemberId, join: Join, now: Duration) {
        let refusal = if join.run != self.settings.run {
            Some(Refusal::OtherRun)
        } else if !join.engines.contains(&self.settings.engine) {
            let needed = self.settings.engine;
            Some(Refusal::NoEngine { needed })
        } else if self.left.contains(&id) {
            Some(Refusal::Left)
        } else if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&id) {
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.refuse(id, refusal);
        }
        self.dirty.insert(id);
        if let Some(known) = self.members.get_mut(&id) {
            known.last_heard = now;
            return; // Said again because the answer was lost.
        }
        let worker = WorkerName::from(&join);
        self.members.insert(
            id,
            Known {
                join,
                last_heard: now,
                status: None,
                view_seq: 0,
                lease: 0,
            },
        );
        self.log(Notice::Joined { member: id, worker });
    }

    pub(super) fn status(&mut self, id: MemberId, status: Status) {
        self.dirty.insert(id);
        let Some(known) = self.members.get_mut(&id) else {
            return;
        };
        let newest = known.status.as_ref().map_or(0, |status| status.seq);
        if status.seq <= newest {
            return;
        }
        let stopped = status.activity == Activity::Standing;
        let (generation, damaged) = (status.generation, status.damaged.clone());
        let stood = known.stands();
        if let Phase::Working { ranks, .. } = &mut self.phase {
            ranks.hear(id, &status);
        }
        known.status = Some(status);
        self.may_form |= known.stands() != stood;
        if let Some(words) = damaged {
            self.damaged(id, generation, words);
        }
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        if stopped
            && generation == world.generation
            && self.rank_of(id).is_some()
            && let Some(departure) = self.departure(id, DepartureReason::Stopped)
        {
            self.departures.add(departure.clone());
            self.end_generation(EndReason::Departed(departure));
        }
    }

    /// A member of the newest generation could not read what it was to go on from. Another of its members may have been
    /// heard first, and the generation be over.
    fn damaged(&mut self, id: MemberId, generation: Generation, words: String) {
        let newest = self.remembered.generation;
        let step = self.committed;
        let is_newest = generation == newest && self.examined < newest;
        let between = matches!(self.phase, Phase::Gathering(_) | Phase::Working { .. });
        if !is_newest || !between || step == 0 {
            return;
        }
        self.examined = newest;
        self.examine = Some(Examination::of(step));
        let Some(worker) = self.members.get(&id).map(|known| (&known.join).into()) else {
            return;
        };
        self.end_generation(EndReason::Damaged {
            worker,
            step,
            words,
        });
    }

    fn departure(&self, id: MemberId, reason: DepartureReason) -> Option<Departure> {
        let known = self.members.get(&id)?;
        let rank = self.rank_of(id);
        Some(Departure {
            member: id,
            worker: (&known.join).into(),
            rank: rank.map(|rank| rank as u32),
            reason,
        })
    }

    pub(super) fn remove(&mut self, id: MemberId, reason: DepartureReason) {
        let Some(departure) = self.departure(id, reason) else {
            return;
        };
        self.members.remove(&id);
        self.draining.remove(&id);
        self.may_form = true;
        self.dirty.remove(&id);
        if matches!(self.phase, Phase::Ended { .. }) {
            return;
        }
        let node = departure.worker.node.clone();
        let failures = self.departures.add(departure.clone());
        if let Some(failures) = failures.filter(|n| *n == self.settings.max_node_failures) {
            self.log(Notice::StoodDown { node, failures });
        }
        if departure.rank.is_some() {
            self.end_generation(EndReason::Departed(departure));
        } else {
            self.log(Notice::Departed(departure));
        }
    }

    pub(super) fn end_generation(&mut self, why: EndReason) {
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        let after_loss = why != EndReason::Grown;
        let generation = world.generation;
        self.dirty
            .extend(world.peers.iter().map(|peer| peer.member));
        self.restarts += u32::from(after_loss);
        self.phase = Phase::Gathering(Gathering {
            enough_since: None,
            patience: self.settings.patience_after_loss,
            after_loss,
        });
        self.may_form = true;
        self.log(Notice::GenerationEnded { generation, why });
        if self.restarts > self.settings.max_restarts {
            let restarts = self.restarts;
            self.phase = Phase::Closing(Outcome::BudgetSpent { restarts });
        }
    }

    pub(super) fn end_run(&mut self, outcome: Outcome, now: Duration) {
        if matches!(self.phase, Phase::Ended { .. }) {
            return;
        }
        self.log(Notice::RunEnded(outcome.clone()));
        self.dirty.extend(self.members.keys());
        self.phase = Phase::Ended {
            outcome,
            since: now,
            is_announced: false,
        };
    }
}
