//! What follows from where things stand: worlds, leases, checkpoints, ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{super::*, Coordinator, Known, Pending, Phase, Progress};
use crate::{
    ledger::{Entry, Fact},
    settings::{DRAIN, LEASE, PROBE, RETRY},
};

impl Coordinator {
    pub(super) fn find_silent(&mut self, now: Duration) {
        let silent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, known)| now > known.last_heard + LEASE)
            .map(|(&id, _)| id)
            .collect();
        for id in silent {
            self.remove(id, DepartureReason::Silent);
        }
    }

    pub(super) fn advance(&mut self, now: Duration) {
        match &self.phase {
            Phase::Reading => {
                let asking = self.append.is_none()
                    && self.read_asked.is_none_or(|asked| now >= asked + RETRY);
                if asking {
                    self.read_asked = Some(now);
                    self.reading_since.get_or_insert(now);
                    self.actions.push(Action::ReadLedger);
                }
            }
            Phase::Gathering(_) => {
                self.maybe_stop();
                self.maybe_finish(now);
                if self.may_form {
                    self.form(now);
                }
            }
            Phase::Opening { .. } => {}
            Phase::Closing(_) => {
                if self.append.is_none() && self.publish.is_none() {
                    self.append = Some(Pending::new(Entry {
                        coordinator: self.settings.id,
                        generation: self.remembered.generation,
                        fact: Fact::Closed,
                    }));
                }
            }
            Phase::Working { .. } => {
                self.maybe_stop();
                self.lease_out();
                self.collect_checkpoint();
                self.let_go(now);
                self.watch_progress(now);
                self.maybe_finish(now);
            }
            Phase::Ended {
                outcome,
                since,
                is_announced,
            } => {
                let fenced = matches!(outcome, Outcome::Fenced { .. });
                let everybody_knows = fenced || self.members.is_empty() || now > *since + LEASE;
                if everybody_knows && !is_announced {
                    let outcome = outcome.clone();
                    self.actions.push(Action::End(outcome.clone()));
                    self.phase = Phase::Ended {
                        since: *since,
                        outcome,
                        is_announced: true,
                    };
                }
            }
        }
        let idle = self.append.is_none() && self.publish.is_none();
        let begun = !matches!(self.phase, Phase::Reading | Phase::Ended { .. });
        if begun && idle && now >= self.probed + PROBE {
            self.probed = now;
            let index = self.remembered.next_index;
            self.actions.push(Action::Probe { index });
        }
        self.watch_store(now);
        self.retry(now);
    }

    /// Ends the run when the store has not answered for as long as a world may stall.
    fn watch_store(&mut self, now: Duration) {
        let reading = matches!(self.phase, Phase::Reading);
        let writes = [&self.append, &self.publish].into_iter().flatten();
        let waits = writes.map(|pending| pending.since);
        let waits = waits.chain([self.reading_since.filter(|_| reading)]);
        let longest = waits.flatten().map(|since| now.saturating_sub(since)).max();
        if longest > Some(self.settings.stall) {
            (self.append, self.publish) = (None, None);
            let seconds = self.settings.stall.as_secs();
            self.end_run(Outcome::StoreLost { seconds }, now);
        }
    }

    /// Fixes the last step once a stop was asked for: the largest lease, which all can reach and nobody has passed.
    pub(super) fn maybe_stop(&mut self) {
        if !self.stopping {
            return;
        }
        self.stopping = false;
        let leased = self.world().map(|world| {
            let leases = world
                .peers
                .iter()
                .filter_map(|peer| self.lease(peer.member));
            leases.max().unwrap_or(0)
        });
        let written = match &self.append {
            Some(Pending {
                entry:
                    Entry {
                        fact: Fact::Committed { step, .. },
                        ..
                    },
                ..
            }) => *step,
            _ => 0,
        };
        let least = self.remembered.committed.max(self.committed).max(written);
        self.end = self.end.min(leased.unwrap_or(least).max(least));
        self.dirty.extend(self.members.keys());
    }

    pub(super) fn maybe_finish(&mut self, now: Duration) {
        let idle = self.append.is_none() && self.publish.is_none() && self.examine.is_none();
        if idle && self.committed >= self.end {
            if self.committed >= self.settings.steps {
                return self.end_run(Outcome::Completed, now);
            }
            let step = self.committed;
            self.dirty.extend(self.members.keys());
            self.phase = Phase::Closing(Outcome::Stopped { step });
        }
    }

    pub(super) fn form(&mut self, now: Duration) {
        if self.append.is_some() || self.publish.is_some() || self.examine.is_some() {
            return;
        }
        let standing = self.members.iter().filter(|(_, known)| known.stands());
        let (mut standing, stood_down): (Vec<_>, Vec<_>) =
            standing.partition(|(_, known)| !self.is_stood_down(&known.join.node));
        if self.settings.world_size(standing.len()).is_none() {
            standing.extend(stood_down); // better with them than not at all
        }
        let size = self.settings.world_size(standing.len());
        let most = self.settings.world_size(usize::MAX);
        let Phase::Gathering(gathering) = &mut self.phase else {
            return;
        };
        let Some(size) = size else {
            gathering.enough_since = None;
            return;
        };
        let since = *gathering.enough_since.get_or_insert(now);
        if Some(size) < most && now < since + gathering.patience {
            return;
        }
        let after_loss = gathering.after_loss;
        let kept = self.newest_held(standing.iter().map(|(_, known)| *known));
        let holds = |known: &Known| kept.is_some() && known.held() == kept;
        #[cfg(test)]
        let any = self.mutated(crate::simulation::Mutation::AnyHeldIsTheNewest);
        #[cfg(test)]
        let holds = |known: &Known| holds(known) || (any && known.held().is_some());
        standing
            .sort_by_key(|(id, known)| (!holds(known), &known.join.node, known.join.slot, **id));
        standing.truncate(size); // with those among them that hold the state
        standing.sort_by_key(|(id, known)| (&known.join.node, known.join.slot, **id));
        let peers = standing.iter().map(|(id, known)| Peer {
            member: **id,
            node: known.join.node.clone(),
            slot: known.join.slot,
            address: known.join.address.clone(),
            holds: holds(known),
        });
        let every = self.settings.checkpoint_every.max(1);
        let resume_from = kept.map_or(self.committed, |held| held.step);
        let is_due = resume_from / every > self.committed / every || resume_from >= self.end;
        let owes_checkpoint = resume_from > self.committed && is_due;
        #[cfg(test)]
        let owes_checkpoint = owes_checkpoint
            && !self.mutated(crate::simulation::Mutation::OwedCheckpointIsForgotten);
        let world = World {
            generation: self.remembered.generation.next(),
            resume_from,
            kept,
            committed: self.committed,
            owes_checkpoint,
            checkpoint_every: self.settings.checkpoint_every,
            engine: self.settings.engine,
            peers: peers.collect(),
        };
        self.append = Some(Pending::new(Entry {
            coordinator: self.settings.id,
            generation: world.generation,
            fact: Fact::Opened {
                resume_from: world.resume_from,
                kept: world.kept.is_some(),
                world_size: size as u32,
                ranks: world.peers.iter().map(WorkerName::from).collect(),
                departures: self.departures.take_unwritten(),
            },
        }));
        self.phase = Phase::Opening { world, after_loss };
    }

    /// The newest state that one of these holds and that counts: of training that was not given up, and not before the
    /// newest committed step.
    fn newest_held<'a>(&self, standing: impl Iterator<Item = &'a Known>) -> Option<Held> {
        let lineage = self.remembered.lineage;
        let counts = |held: &Held| held.generation >= lineage && held.step >= self.committed;
        #[cfg(test)]
        let counts = |held: &Held| {
            counts(held) || self.mutated(crate::simulation::Mutation::HeldBeforeTheCommit)
        };
        #[cfg(test)]
        if self.mutated(crate::simulation::Mutation::HeldIsForgotten) {
            return None;
        }
        standing.filter_map(Known::held).filter(counts).max()
    }

    /// Ends a world in order when all have learned what is under way, or when that takes too long for whoever wants to go.
    fn let_go(&mut self, now: Duration) {
        let Phase::Working {
            ranks,
            pause: Some(pause),
            ..
        } = &self.phase
        else {
            return;
        };
        let waited = self.draining.values().any(|since| now > *since + DRAIN);
        if ranks.slowest() < *pause && !waited {
            return;
        }
        for id in std::mem::take(&mut self.draining).into_keys() {
            self.leaves(id);
            self.refuse(id, Refusal::Left);
        }
        if let Phase::Working { pause, .. } = &mut self.phase {
            *pause = None; // whoever wanted to go is gone another way
        }
    }

    /// The status of every rank that is in the generation at work, by rank; `None` for one that has not begun.
    fn statuses<'a>(
        world: &'a World,
        members: &'a BTreeMap<MemberId, Known>,
    ) -> impl Iterator<Item = Option<&'a Status>> {
        world.peers.iter().map(|peer| {
            let status = members.get(&peer.member)?.status.as_ref()?;
            (status.generation == world.generation).then_some(status)
        })
    }

    /// Gives further leases: to all where the bound for all has moved, else to those that were heard.
    pub(super) fn lease_out(&mut self) {
        let Phase::Working { world, ranks, .. } = &mut self.phase else {
            return;
        };
        let every = self.settings.checkpoint_every.max(1);
        let bound = (ranks.slowest().saturating_add(self.settings.ahead))
            .min((self.committed / every + 2).saturating_mul(every))
            .min(self.end);
        let heard = std::mem::take(&mut ranks.heard);
        let moved = std::mem::replace(&mut ranks.bound, bound) != bound;
        let all = if moved { 0..world.size() } else { 0..0 };
        let heard = heard.into_iter().filter(|_| !moved);
        for peer in all.chain(heard).map(|rank| &world.peers[rank]) {
            let Some(known) = self.members.get_mut(&peer.member) else {
                continue;
            };
            let status = known.status.as_ref();
            let demand = status.filter(|status| status.generation == world.generation);
            let demand = demand.map_or(0, |status| status.demand);
            let lease = demand.min(bound);
            #[cfg(test)]
            let lease = match self.mutation {
                Some(crate::simulation::Mutation::LeaseBeyondDemand) if demand > 0 => bound,
                _ => lease,
            };
            if lease > known.lease {
                known.lease = lease;
                self.dirty.insert(peer.member);
            }
        }
    }

    /// Commits the oldest checkpoint that every rank has written its parts of.
    pub(super) fn collect_checkpoint(&mut self) {
        let Phase::Working { world, ranks, .. } = &self.phase else {
            return;
        };
        if self.append.is_some() || self.publish.is_some() {
            return;
        }
        let Some((step, n_written)) = ranks.next_written(self.committed) else {
            return;
        };
        let everybody = n_written == world.size();
        #[cfg(test)]
        let everybody =
            everybody || self.mutated(crate::simulation::Mutation::CommitWithoutEverybody);
        if !everybody {
            return;
        }
        let reports: Vec<&Written> = Self::statuses(world, &self.members)
            .filter_map(|status| status?.written.iter().find(|w| w.step == step))
            .collect();
        let is_due = step == self.end || world.is_checkpoint(step);
        let whole = whole_checkpoint(&reports).filter(|_| is_due);
        #[cfg(test)]
        let whole = if self.mutated(crate::simulation::Mutation::CommitWithoutEverybody) {
            Some(reports.iter().flat_map(|w| w.parts.clone()).collect())
        } else {
            whole
        };
        let Some(parts) = whole else {
            return self.end_generation(EndReason::Disagreement { step });
        };
        self.append = Some(Pending::new(Entry {
            coordinator: self.settings.id,
            generation: world.generation,
            fact: Fact::Committed {
                step,
                world_size: world.size() as u32,
                state: reports[0].state.clone(),
                parts,
            },
        }));
    }

    pub(super) fn watch_progress(&mut self, now: Duration) {
        let Phase::Working {
            ranks, progress, ..
        } = &mut self.phase
        else {
            return;
        };
        let seen = (ranks.slowest(), u64::from(ranks.barrier()), self.committed);
        if seen != progress.seen || self.append.is_some() || self.publish.is_some() {
            *progress = Progress { seen, at: now };
        } else if now > progress.at + self.settings.stall {
            let behind = self.behind();
            let step = seen.0;
            self.end_generation(EndReason::Stalled { step, behind });
        }
    }
}

impl Coordinator {
    /// Some of the ranks that have learned least.
    fn behind(&self) -> Vec<String> {
        const MOST: usize = 3;
        let Phase::Working { world, ranks, .. } = &self.phase else {
            return Vec::new();
        };
        let slowest = ranks.slowest();
        let statuses = Self::statuses(world, &self.members).enumerate();
        let behind = statuses.filter(|(_, status)| {
            status.map_or(world.resume_from, |status| status.step) == slowest
        });
        let named = behind.map(|(rank, status)| {
            let worker = WorkerName::from(&world.peers[rank]);
            let begun = if status.is_some() {
                ""
            } else {
                ", which has not begun"
            };
            format!("rank {rank}, {worker}{begun}")
        });
        named.take(MOST).collect()
    }
}

/// The parts of a checkpoint when the ranks' reports make one: all agree on state and number, no name is missing or
/// written twice.
fn whole_checkpoint(reports: &[&Written]) -> Option<Vec<WrittenPart>> {
    let first = reports.first()?;
    let agree = reports
        .iter()
        .all(|w| w.state == first.state && w.n_parts == first.n_parts && w.step == first.step);
    let mut parts: Vec<WrittenPart> = reports.iter().flat_map(|w| w.parts.clone()).collect();
    parts.sort();
    let n = parts.len();
    let names: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    (agree && names.len() == n && n == first.n_parts as usize).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoordinatorId, Engine, RunId};

    fn coordinator(stall: Duration) -> Coordinator {
        Coordinator::new(CoordinatorSettings {
            id: CoordinatorId(1),
            run: RunId::default(),
            job: Vec::new(),
            build: String::new(),
            node: String::new(),
            engine: Engine::Local,
            min_ranks: 1,
            max_ranks: 1,
            rank_divisor: 1,
            patience: Duration::ZERO,
            patience_after_loss: Duration::ZERO,
            max_node_failures: 0,
            steps: 1,
            checkpoint_every: 1,
            ahead: 1,
            stall,
            max_restarts: 0,
        })
    }

    /// When a coordinator gives up whose store answers what `answers` makes of what it was asked.
    fn gives_up(answers: impl Fn(&Action) -> Option<Event>) -> Option<u64> {
        let mut machine = coordinator(Duration::from_secs(30));
        for second in 0..100 {
            let now = Duration::from_secs(second);
            let mut events = vec![Event::Tick];
            while let Some(event) = events.pop() {
                for action in machine.step(event, now) {
                    if let Action::End(Outcome::StoreLost { seconds }) = action {
                        assert_eq!(seconds, 30);
                        return Some(second);
                    }
                    events.extend(answers(&action));
                }
            }
        }
        None
    }

    fn read(action: &Action) -> Option<Event> {
        let (entries, published) = (Vec::new(), None);
        matches!(action, Action::ReadLedger).then_some(Event::LedgerRead { entries, published })
    }

    #[test]
    fn a_store_that_answers_nothing_is_given_up_after_the_time_of_a_stall() {
        assert_eq!(gives_up(|_| None), Some(32));
        assert_eq!(gives_up(read), Some(32));
        let refuses = |action: &Action| match action {
            Action::Append { index, .. } => Some(Event::Appended {
                index: *index,
                answer: Answer::Unavailable,
            }),
            other => read(other),
        };
        assert_eq!(gives_up(refuses), Some(32));
    }

    #[test]
    fn a_store_that_answers_is_waited_with_for_workers() {
        let works = |action: &Action| match action {
            Action::Append { index, .. } => Some(Event::Appended {
                index: *index,
                answer: Answer::Done,
            }),
            other => read(other),
        };
        assert_eq!(gives_up(works), None);
    }
}
