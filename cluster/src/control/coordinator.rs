//! The coordinator: `step(event, now) -> actions`, no IO, no clock, no randomness.
//!
//! ```text
//!            ledger read,            enough stand            entry written
//!            taken over
//!  Reading ───────────────► Gathering ───────────► Opening ───────────────► Working
//!                               ▲                     │ somebody is lost       │ lost, silent, left, stopped,
//!                               └─────────────────────┴────────────────────────┘ stalled, or more workers came
//!  any ── stopped, budget spent ──► Closing ── entry written ──► Ended
//!  any ── last step committed, next index taken by another ────► Ended
//! ```
//!
//! | decision | reason |
//! |---|---|
//! | One ledger entry at a time, repeated until it is answered, before anything that depends on it | an unanswered write may have happened; nothing else may be decided until that is known |
//! | A coordinator takes over by an entry, and looks every [`PROBE`] whether its next index is free | two that live at once would share the members between them and never end |
//! | Giving up is an entry too | one that was replaced must not tell members that the run has ended |
//! | A generation is opened in the ledger before its world works | a number is never used twice, and whoever is replaced learns it at its next entry |
//! | The world waits for members that stand, and standing means that no work of an older generation is left | so two generations of one process never overlap |
//! | Ranks by (machine, slot, member) | the same members get the same ranks, ranks of a machine stand together |
//! | A lease is a range of steps for a rank, the least of its demand, the slowest rank plus `ahead`, two checkpoints beyond the committed one, and the end | in flight never exceeds demand, nobody runs away, a slow store slows training instead of filling memory |
//! | The row groups behind a lease are not named | they are a pure function of the leased positions, which the node knows as well |
//! | A checkpoint is committed when every rank wrote its parts and all agree what is whole | a rank that was lost half-way leaves garbage, never half a checkpoint |
//! | A request to stop makes the largest lease the end of the run | all ranks can reach it and none is past it |
//! | A coordinator that slept gives everybody a new lease | its own silence says nothing about the others |
//! | The restart budget counts losses since the last commit, in memory | progress earns it back; a coordinator started again by a person starts with a full one |

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    CoordinatorFrame, FromMember, Generation, Join, MemberFrame, MemberId, Outcome, Part, Peer,
    Refusal, Status, ToMember, View, World, Written,
    ledger::{Entry, Fact, Remembered},
    message::Activity,
    rendezvous::Rendezvous,
    settings::{ASLEEP, CoordinatorSettings, Ended, LEASE, Notice, PROBE, RETRY},
    types::MAX_MEMBERS,
};

/// Members whose leaving is remembered, so that a late message does not bring them back.
const MAX_LEFT: usize = 64;

/// What happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. To be given several times a second.
    Tick,
    /// A message arrived.
    Message(MemberFrame),
    /// The connection of a member is gone.
    Disconnected(MemberId),
    /// Answer to [`Action::ReadLedger`].
    LedgerRead {
        /// All entries, in order.
        entries: Vec<Entry>,
        /// The newest published checkpoint: the ledger may know less where the run began on one machine.
        published: Option<u64>,
    },
    /// Answer to [`Action::Append`].
    Appended {
        /// At which index.
        index: u64,
        /// How it went.
        answer: Answer,
    },
    /// Answer to [`Action::Probe`]; none when the store does not answer.
    Probed {
        /// At which index.
        index: u64,
        /// What is there.
        found: Option<Box<Entry>>,
    },
    /// Answer to [`Action::Publish`].
    Published {
        /// Of which step.
        step: u64,
        /// How it went; `Taken` when another manifest is there.
        answer: Answer,
    },
    /// A person wants the run to end after what is under way.
    Stop,
}

/// How a write to the store went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Done,
    /// Something else is there.
    Taken(Box<Entry>),
    /// Unknown: it may be there or not.
    Unavailable,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message to its member; a failure needs no answer.
    Send(CoordinatorFrame),
    /// Read all entries of the ledger.
    ReadLedger,
    /// Write an entry with put-if-absent.
    Append {
        /// At which index.
        index: u64,
        /// What.
        entry: Entry,
    },
    /// Look whether there is an entry.
    Probe {
        /// At which index.
        index: u64,
    },
    /// Write the manifest of a committed checkpoint with put-if-absent; the same content there already is success.
    Publish(Entry),
    /// For the log.
    Log(Notice),
    /// Nothing is left to do.
    End(Outcome),
}

struct Known {
    join: Join,
    last_heard: Duration,
    /// `None` until its first status.
    status: Option<Status>,
    view_seq: u64,
    /// In the generation at work.
    lease: u64,
}

impl Known {
    fn stands(&self) -> bool {
        let activity = self.status.as_ref().map(|status| status.activity);
        activity == Some(Activity::Standing)
    }
}

struct Gathering {
    since: Duration,
    patience: Duration,
    after_loss: bool,
}

enum Phase {
    Reading,
    Gathering(Gathering),
    Opening {
        world: World,
        after_loss: bool,
    },
    Working {
        world: World,
        progress: Progress,
    },
    Closing(Outcome),
    Ended {
        outcome: Outcome,
        since: Duration,
        told: bool,
    },
}

/// What was seen to move, for the stall watch.
struct Progress {
    seen: (u64, u64),
    at: Duration,
}

/// A write to the store that has not been answered.
struct Pending {
    entry: Entry,
    /// It is not asked again before this.
    not_before: Duration,
    /// Whether an answer is being waited for.
    in_flight: bool,
}

/// The state machine.
pub struct Coordinator {
    settings: CoordinatorSettings,
    phase: Phase,
    members: BTreeMap<MemberId, Known>,
    left: VecDeque<MemberId>,
    remembered: Remembered,
    /// The newest committed step whose manifest is published.
    committed: u64,
    append: Option<Pending>,
    publish: Option<Pending>,
    read_asked: Option<Duration>,
    probed: Duration,
    rendezvous: Rendezvous,
    restarts: u32,
    /// The run ends with this step.
    end: u64,
    stopping: bool,
    last_call: Option<Duration>,
    dirty: BTreeSet<MemberId>,
    actions: Vec<Action>,
    #[cfg(test)]
    pub(crate) mutation: Option<crate::simulation::Mutation>,
}

impl Coordinator {
    /// A coordinator that has read nothing yet; its first `step` asks for the ledger.
    pub fn new(settings: CoordinatorSettings) -> Self {
        Self {
            end: settings.steps,
            settings,
            phase: Phase::Reading,
            members: BTreeMap::new(),
            left: VecDeque::new(),
            remembered: Remembered::default(),
            committed: 0,
            append: None,
            publish: None,
            read_asked: None,
            probed: Duration::ZERO,
            rendezvous: Rendezvous::default(),
            restarts: 0,
            stopping: false,
            last_call: None,
            dirty: BTreeSet::new(),
            actions: Vec::new(),
            #[cfg(test)]
            mutation: None,
        }
    }

    /// The newest generation.
    pub fn generation(&self) -> Generation {
        self.remembered.generation
    }

    /// The newest committed step.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The world at work.
    pub fn world(&self) -> Option<&World> {
        match &self.phase {
            Phase::Working { world, .. } => Some(world),
            _ => None,
        }
    }

    /// Members that take part or wait to.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &Join, Option<&Status>)> {
        self.members
            .iter()
            .map(|(&id, known)| (id, &known.join, known.status.as_ref()))
    }

    /// The member's lease in the generation at work: it may learn up to this step.
    pub fn lease(&self, member: MemberId) -> Option<u64> {
        self.world()?.rank_of(member)?;
        self.members.get(&member).map(|known| known.lease)
    }

    /// How the run ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Takes in what happened at `now` (any monotonic time) and says what to do about it.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if self.last_call.is_some_and(|last| now > last + ASLEEP) {
            for known in self.members.values_mut() {
                known.last_heard = now;
            }
        }
        self.last_call = Some(now);
        match event {
            Event::Tick => {}
            Event::Message(frame) => self.message(frame, now),
            Event::Disconnected(member) => self.remove(member, Ended::Disconnected(member), now),
            Event::LedgerRead { entries, published } => self.ledger_read(&entries, published, now),
            Event::Appended { index, answer } => self.appended(index, answer, now),
            Event::Probed { index, found } => self.probed(index, found, now),
            Event::Published { step, answer } => self.published(step, answer, now),
            Event::Stop => self.stopping = true,
        }
        self.advance(now);
        self.flush();
        std::mem::take(&mut self.actions)
    }

    #[cfg(test)]
    fn mutated(&self, mutation: crate::simulation::Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    // What arrives ------------------------------------------------------------------------------------------------

    fn message(&mut self, frame: MemberFrame, now: Duration) {
        let id = frame.member;
        if matches!(self.phase, Phase::Reading) {
            return; // Nothing can be promised yet; it asks again.
        }
        match frame.message {
            FromMember::Join(join) => self.join(id, join, now),
            FromMember::Leave => {
                if self.left.len() == MAX_LEFT {
                    self.left.pop_front();
                }
                self.left.push_back(id);
                self.remove(id, Ended::Left(id), now);
            }
            message => {
                let Some(known) = self.members.get_mut(&id) else {
                    return self.refuse(id, Refusal::Unknown);
                };
                known.last_heard = now;
                match message {
                    FromMember::Status(status) => self.status(id, status, now),
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
                    FromMember::Join(_) | FromMember::Leave => unreachable!("handled above"),
                }
            }
        }
    }

    fn join(&mut self, id: MemberId, join: Join, now: Duration) {
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
        self.log(Notice::Joined(id));
    }

    fn status(&mut self, id: MemberId, status: Status, now: Duration) {
        self.dirty.insert(id);
        let Some(known) = self.members.get_mut(&id) else {
            return;
        };
        let newest = known.status.as_ref().map_or(0, |status| status.seq);
        if status.seq <= newest {
            return;
        }
        let stopped = status.activity == Activity::Standing;
        let generation = status.generation;
        known.status = Some(status);
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        if stopped && generation == world.generation && world.rank_of(id).is_some() {
            self.end_generation(Ended::Stopped(id), now);
        }
    }

    fn remove(&mut self, id: MemberId, why: Ended, now: Duration) {
        if self.members.remove(&id).is_none() {
            return;
        }
        self.dirty.remove(&id);
        if self
            .world()
            .is_some_and(|world| world.rank_of(id).is_some())
        {
            self.end_generation(why, now);
        }
    }

    fn end_generation(&mut self, why: Ended, now: Duration) {
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        let after_loss = why != Ended::Grown;
        let generation = world.generation;
        self.dirty
            .extend(world.peers.iter().map(|peer| peer.member));
        self.restarts += u32::from(after_loss);
        self.phase = Phase::Gathering(Gathering {
            since: now,
            patience: self.settings.patience_after_loss,
            after_loss,
        });
        self.log(Notice::GenerationEnded { generation, why });
        if self.restarts > self.settings.max_restarts {
            let restarts = self.restarts;
            self.phase = Phase::Closing(Outcome::BudgetSpent { restarts });
        }
    }

    fn end_run(&mut self, outcome: Outcome, now: Duration) {
        if matches!(self.phase, Phase::Ended { .. }) {
            return;
        }
        self.log(Notice::RunEnded(outcome.clone()));
        self.dirty.extend(self.members.keys());
        self.phase = Phase::Ended {
            outcome,
            since: now,
            told: false,
        };
    }

    // The ledger --------------------------------------------------------------------------------------------------

    fn ledger_read(&mut self, entries: &[Entry], published: Option<u64>, now: Duration) {
        if !matches!(self.phase, Phase::Reading) || self.append.is_some() {
            return;
        }
        match Remembered::of(entries) {
            Ok(remembered) => self.remembered = remembered,
            Err(reason) => return self.end_run(Outcome::Damaged { reason }, now),
        }
        let newest = self.remembered.committed.max(published.unwrap_or(0));
        self.log(Notice::Recovered {
            generation: self.remembered.generation,
            committed: newest,
        });
        let last_commit = entries.iter().rev().find(|entry| {
            matches!(entry.fact, Fact::Committed { step, .. } if step == self.remembered.committed)
        });
        match last_commit {
            // It may not be published yet: whoever wrote the entry may have died.
            Some(entry) if published < Some(self.remembered.committed) => {
                self.publish = Some(Pending::new(entry.clone()));
            }
            _ => self.committed = newest,
        }
        if newest >= self.end {
            return self.gather(now); // To tell those who ask.
        }
        self.append = Some(Pending::new(Entry {
            coordinator: self.settings.id,
            generation: self.remembered.generation.next(),
            fact: Fact::TookOver,
        }));
    }

    fn gather(&mut self, now: Duration) {
        self.phase = Phase::Gathering(Gathering {
            since: now,
            patience: self.settings.patience,
            after_loss: false,
        });
    }

    fn probed(&mut self, index: u64, found: Option<Box<Entry>>, now: Duration) {
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

    fn appended(&mut self, index: u64, answer: Answer, now: Duration) {
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
            Fact::TookOver => self.gather(now),
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
        }
    }

    fn opened(&mut self, now: Duration) {
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
                since: now,
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
        });
        let progress = Progress {
            seen: (0, 0),
            at: now,
        };
        self.phase = Phase::Working { world, progress };
    }

    fn published(&mut self, step: u64, answer: Answer, now: Duration) {
        let Some(pending) = &mut self.publish else {
            return;
        };
        if !matches!(pending.entry.fact, Fact::Committed { step: s, .. } if s == step) {
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
                let generation = pending.entry.generation;
                self.publish = None;
                self.committed = step;
                self.restarts = 0;
                self.dirty.extend(self.members.keys());
                self.log(Notice::Committed { step, generation });
                self.grow(now);
            }
        }
    }

    /// A commit is the moment at which starting again costs least.
    fn grow(&mut self, now: Duration) {
        let Some(world) = self.world() else { return };
        let size = world.size();
        let ready =
            |(id, known): &(&MemberId, &Known)| known.stands() || world.rank_of(**id).is_some();
        let n = self.members.iter().filter(ready).count();
        if self.committed < self.end && self.settings.world_size(n) > Some(size) {
            self.end_generation(Ended::Grown, now);
        }
    }

    // What follows from where things stand ---------------------------------------------------------------------------

    fn advance(&mut self, now: Duration) {
        let silent: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, known)| now > known.last_heard + LEASE)
            .map(|(&id, _)| id)
            .collect();
        for id in silent {
            self.remove(id, Ended::Silent(id), now);
        }
        match &self.phase {
            Phase::Reading => {
                let asking = self.append.is_none()
                    && self.read_asked.is_none_or(|asked| now >= asked + RETRY);
                if asking {
                    self.read_asked = Some(now);
                    self.actions.push(Action::ReadLedger);
                }
            }
            Phase::Gathering(_) => {
                self.maybe_stop();
                self.maybe_finish(now);
                self.form(now);
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
                self.collect_checkpoint(now);
                self.watch_progress(now);
                self.maybe_finish(now);
            }
            Phase::Ended {
                outcome,
                since,
                told,
            } => {
                let fenced = matches!(outcome, Outcome::Fenced { .. });
                let everybody_knows = fenced || self.members.is_empty() || now > *since + LEASE;
                if everybody_knows && !told {
                    let outcome = outcome.clone();
                    self.actions.push(Action::End(outcome.clone()));
                    self.phase = Phase::Ended {
                        since: *since,
                        outcome,
                        told: true,
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
        self.retry(now);
    }

    /// Fixes the last step once a stop was asked for: the largest lease, which all can reach and nobody has passed.
    fn maybe_stop(&mut self) {
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

    fn maybe_finish(&mut self, now: Duration) {
        let idle = self.append.is_none() && self.publish.is_none();
        if idle && self.committed >= self.end {
            if self.committed >= self.settings.steps {
                return self.end_run(Outcome::Completed, now);
            }
            let step = self.committed;
            self.dirty.extend(self.members.keys());
            self.phase = Phase::Closing(Outcome::Stopped { step });
        }
    }

    fn form(&mut self, now: Duration) {
        let Phase::Gathering(gathering) = &self.phase else {
            return;
        };
        if self.append.is_some() || self.publish.is_some() {
            return;
        }
        let mut standing: Vec<(&MemberId, &Known)> = self
            .members
            .iter()
            .filter(|(_, known)| known.stands())
            .collect();
        let Some(size) = self.settings.world_size(standing.len()) else {
            return;
        };
        let most = self.settings.world_size(usize::MAX);
        if Some(size) < most && now < gathering.since + gathering.patience {
            return;
        }
        standing.sort_by_key(|(id, known)| (&known.join.node, known.join.slot, **id));
        let peers = standing[..size].iter().map(|(id, known)| Peer {
            member: **id,
            node: known.join.node.clone(),
            address: known.join.address.clone(),
        });
        let world = World {
            generation: self.remembered.generation.next(),
            resume_from: self.committed,
            checkpoint_every: self.settings.checkpoint_every,
            engine: self.settings.engine,
            peers: peers.collect(),
        };
        let after_loss = gathering.after_loss;
        self.append = Some(Pending::new(Entry {
            coordinator: self.settings.id,
            generation: world.generation,
            fact: Fact::Opened {
                resume_from: world.resume_from,
                world_size: size as u32,
            },
        }));
        self.phase = Phase::Opening { world, after_loss };
    }

    /// The status of every rank that is in the generation at work, by rank; `None` for one that has not begun.
    fn ranks<'a>(
        world: &'a World,
        members: &'a BTreeMap<MemberId, Known>,
    ) -> impl Iterator<Item = Option<&'a Status>> {
        world.peers.iter().map(|peer| {
            let status = members.get(&peer.member)?.status.as_ref()?;
            (status.generation == world.generation).then_some(status)
        })
    }

    fn slowest(&self, world: &World) -> u64 {
        Self::ranks(world, &self.members)
            .map(|status| status.map_or(world.resume_from, |status| status.step))
            .min()
            .unwrap_or(world.resume_from)
    }

    fn lease_out(&mut self) {
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        let every = self.settings.checkpoint_every.max(1);
        let bound = (self.slowest(world).saturating_add(self.settings.ahead))
            .min((self.committed / every + 2).saturating_mul(every))
            .min(self.end);
        for peer in &world.peers {
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

    fn barrier(&self, world: &World) -> u32 {
        Self::ranks(world, &self.members)
            .map(|status| status.map_or(0, |status| status.barrier))
            .min()
            .unwrap_or(0)
    }

    /// Commits the oldest checkpoint that every rank has written its parts of.
    fn collect_checkpoint(&mut self, now: Duration) {
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        if self.append.is_some() || self.publish.is_some() {
            return;
        }
        let newest = self.committed;
        let statuses: Vec<Option<&Status>> = Self::ranks(world, &self.members).collect();
        let next = |status: &Option<&Status>| {
            let written = status.as_ref()?.written.iter();
            written.map(|w| w.step).find(|&step| step > newest)
        };
        let Some(step) = statuses.iter().filter_map(next).min() else {
            return;
        };
        let reports: Vec<&Written> = statuses
            .iter()
            .filter_map(|status| status.as_ref()?.written.iter().find(|w| w.step == step))
            .collect();
        let everybody = reports.len() == world.size();
        #[cfg(test)]
        let everybody =
            everybody || self.mutated(crate::simulation::Mutation::CommitWithoutEverybody);
        if !everybody {
            return;
        }
        let whole = whole_checkpoint(&reports, step == self.end, self.settings.checkpoint_every);
        #[cfg(test)]
        let whole = if self.mutated(crate::simulation::Mutation::CommitWithoutEverybody) {
            Some(reports.iter().flat_map(|w| w.parts.clone()).collect())
        } else {
            whole
        };
        let Some(parts) = whole else {
            return self.end_generation(Ended::Disagreement { step }, now);
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

    fn watch_progress(&mut self, now: Duration) {
        let Phase::Working { world, .. } = &self.phase else {
            return;
        };
        let seen = (self.slowest(world), self.committed);
        let barrier = u64::from(self.barrier(world));
        let seen = (seen.0 + barrier, seen.1);
        let Phase::Working { progress, .. } = &mut self.phase else {
            return;
        };
        if seen != progress.seen || self.append.is_some() || self.publish.is_some() {
            *progress = Progress { seen, at: now };
        } else if now > progress.at + self.settings.stall {
            self.end_generation(Ended::Stalled, now);
        }
    }

    // What is sent ------------------------------------------------------------------------------------------------

    fn retry(&mut self, now: Duration) {
        let due = |pending: &Pending| !pending.in_flight && now >= pending.not_before;
        if let Some(pending) = self.append.as_mut().filter(|pending| due(pending)) {
            pending.in_flight = true;
            pending.not_before = now + RETRY;
            self.actions.push(Action::Append {
                index: self.remembered.next_index,
                entry: pending.entry.clone(),
            });
        }
        if let Some(pending) = self.publish.as_mut().filter(|pending| due(pending)) {
            pending.in_flight = true;
            pending.not_before = now + RETRY;
            self.actions.push(Action::Publish(pending.entry.clone()));
        }
    }

    fn flush(&mut self) {
        let replaced = matches!(self.outcome(), Some(Outcome::Fenced { .. }));
        for id in std::mem::take(&mut self.dirty) {
            if replaced {
                // The run goes on elsewhere.
                self.refuse(id, Refusal::Replaced);
                continue;
            }
            let view = self.view(id);
            if let Some(view) = view {
                self.send(id, ToMember::View(view));
            }
        }
    }

    fn view(&mut self, id: MemberId) -> Option<View> {
        let known = self.members.get(&id)?;
        let mut view = View {
            seq: known.view_seq + 1,
            generation: self.remembered.generation,
            committed: self.committed,
            end: self.end,
            ..View::default()
        };
        match &self.phase {
            Phase::Working { world, .. } if world.rank_of(id).is_some() => {
                view.working = true;
                view.lease = known.lease;
                view.barrier = self.barrier(world);
                let begun = known.status.as_ref().map(|status| status.generation);
                if begun != Some(world.generation) {
                    view.world = Some(world.clone());
                }
            }
            Phase::Ended { outcome, .. } => view.outcome = Some(outcome.clone()),
            _ => {}
        }
        self.members.get_mut(&id)?.view_seq += 1;
        Some(view)
    }

    fn answer(&mut self, answers: Vec<(MemberId, ToMember)>) {
        for (member, message) in answers {
            self.send(member, message);
        }
    }

    fn refuse(&mut self, member: MemberId, refusal: Refusal) {
        self.send(member, ToMember::Refused(refusal));
    }

    fn send(&mut self, member: MemberId, message: ToMember) {
        self.actions.push(Action::Send(CoordinatorFrame {
            coordinator: self.settings.id,
            member,
            message,
        }));
    }

    fn log(&mut self, notice: Notice) {
        self.actions.push(Action::Log(notice));
    }
}

impl Pending {
    fn new(entry: Entry) -> Self {
        Self {
            entry,
            not_before: Duration::ZERO,
            in_flight: false,
        }
    }
}

/// The parts of a checkpoint when the ranks' reports make one: all agree on state and number, no name is missing or
/// written twice, and the step is one at which a checkpoint is due.
fn whole_checkpoint(reports: &[&Written], is_end: bool, every: u64) -> Option<Vec<Part>> {
    let first = reports.first()?;
    let agree = reports
        .iter()
        .all(|w| w.state == first.state && w.n_parts == first.n_parts && w.step == first.step);
    let due = is_end || first.step.is_multiple_of(every.max(1));
    let mut parts: Vec<Part> = reports.iter().flat_map(|w| w.parts.clone()).collect();
    parts.sort();
    let n = parts.len();
    let names: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    (agree && due && names.len() == n && n == first.n_parts as usize).then_some(parts)
}
