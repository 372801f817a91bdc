//! A worker's side of the control plane: `step(event, now) -> actions`, no IO, no clock, no randomness.
//!
//! ```text
//!               a view names a world of mine             the generation ended, or
//!                                                        the coordinator is silent
//!  Standing ───────────────────────────────► Working ───────────────────────────────► Ending
//!     ▲                                          │ the trainer stopped by itself         │ the trainer has stopped
//!     └──────────────────────────────────────────┴──────────────────────────────────────┘
//! ```
//!
//! Beside it runs joining: a member that is not joined asks every [`RETRY`]; one that is refused as unknown, loses its
//! connection, or hears nothing for a [`LEASE`] asks again. Its work goes on meanwhile, as far as it is leased: what it
//! learns counts only once a coordinator commits it, and whether its world still is one, the next view says.
//!
//! | decision | reason |
//! |---|---|
//! | A world is begun only if its generation is above every one before | a late message cannot start old work again |
//! | It says that it stands only when the trainer has said that it stopped | the coordinator never puts new work beside old |
//! | Demand is an absolute step | said twice it grants nothing twice |
//! | A checkpoint is due here, from the step and the end of the run | every rank decides it alike without a message |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    CoordinatorFrame, CoordinatorId, FromMember, Generation, Held, Join, MemberFrame, MemberId,
    MemberView, Outcome, Pace, Refusal, Status, ToMember, World, Written,
    message::Activity,
    settings::{HEARTBEAT, LEASE, RETRY},
    types::{MAX_UNCOMMITTED, MAX_WORDS_BYTES},
};

/// Entries that may be asked for or offered at once.
const MAX_OPEN_ENTRIES: usize = 4096;

/// What happened at the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// Time has passed. To be given several times a second.
    Tick,
    /// A message arrived.
    Message(CoordinatorFrame),
    /// The connection to the coordinator is gone.
    Disconnected,
    /// The trainer has learned this step, counted from the beginning of the run.
    Learned {
        /// In which generation.
        generation: Generation,
        /// Which step.
        step: u64,
        /// How fast its last ones were.
        pace: Pace,
    },
    /// The trainer wrote its parts of a checkpoint.
    Wrote {
        /// In which generation.
        generation: Generation,
        /// What it wrote.
        written: Written,
    },
    /// The trainer arrived at its next barrier.
    Arrived {
        /// In which generation.
        generation: Generation,
    },
    /// The trainer has ended the work of this generation: asked to, or because it could not go on.
    Stopped {
        /// Which generation.
        generation: Generation,
        /// The state that it holds whole.
        held: Option<Held>,
    },
    /// The trainer found the checkpoint damaged that its generation goes on from. It stops.
    Damaged {
        /// In which generation.
        generation: Generation,
        /// The file, what was expected and found.
        words: String,
    },
    /// The engine offers an entry to the other ranks.
    Offer {
        /// In which generation.
        generation: Generation,
        /// Name of the entry.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// The engine needs an entry of another rank.
    Need {
        /// In which generation.
        generation: Generation,
        /// Name of the entry.
        key: String,
    },
    /// The trainer is ready to take part.
    Join(Join),
    /// The worker is to go away once the step under way is learned; it is told [`Refusal::Left`] then.
    Drain,
    /// The worker goes away for good.
    Leave,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberAction {
    /// Send to the coordinator; a failure needs no answer.
    Send(MemberFrame),
    /// What the run is, for one that did not know: prepare, then say [`MemberEvent::Join`].
    Prepare(Vec<u8>),
    /// Begin: connect the engine, take the state that the world goes on from, train.
    Begin(World),
    /// End the work of this generation, whatever it waits for, then say [`MemberEvent::Stopped`].
    Abort {
        /// Which generation.
        generation: Generation,
    },
    /// The trainer may learn up to this step; less than before where the world is about to end.
    Leased {
        /// In which generation.
        generation: Generation,
        /// The last step that may be learned.
        until: u64,
    },
    /// Take a snapshot of the model as it is after this step, before learning another, and write this rank's parts.
    Snapshot {
        /// In which generation.
        generation: Generation,
        /// The step.
        step: u64,
        /// Whether the run ends with it.
        last: bool,
    },
    /// So many barriers of this generation are passed by everybody.
    Passed {
        /// In which generation.
        generation: Generation,
        /// How many.
        barrier: u32,
    },
    /// The checkpoint of this step counts.
    Committed {
        /// The step.
        step: u64,
    },
    /// An entry that was needed.
    Found {
        /// In which generation.
        generation: Generation,
        /// Name of the entry.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// The coordinator will never take this worker.
    Refused(Refusal),
    /// The run has ended.
    End(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Standing,
    Working,
    Ending,
}

/// The state machine.
pub struct Member {
    id: MemberId,
    /// As what it takes part; before that it asks what the run is.
    join: Option<Join>,
    job: Option<Vec<u8>>,
    /// Steps of work that the trainer has room for: its demand is what it has learned plus this.
    window: u64,
    coordinator: Option<CoordinatorId>,
    work: Work,
    world: Option<World>,
    status: Status,
    view_seq: u64,
    lease: u64,
    pause: Option<u64>,
    passed: u32,
    committed: u64,
    end: u64,
    snapshot: u64,
    /// It wants to go away.
    drains: bool,
    /// When the coordinator last sent anything.
    last_heard: Option<Duration>,
    last_status: Option<Duration>,
    last_asked: Option<Duration>,
    offers: BTreeMap<String, Vec<u8>>,
    needs: BTreeSet<String>,
    outcome: Option<Outcome>,
    refused: bool,
    /// Whether the outcome was handed on.
    is_announced: bool,
    /// Whether the status changed in a way that does not wait for the next heartbeat.
    has_news: bool,
    actions: Vec<MemberAction>,
}

impl Member {
    /// A member that has not asked yet: to take part, or first what the run is. `window` is the number of steps it has
    /// room for.
    pub fn new(id: MemberId, join: Option<Join>, window: u64) -> Self {
        Self {
            id,
            join,
            job: None,
            window,
            coordinator: None,
            work: Work::Standing,
            world: None,
            status: Status::default(),
            view_seq: 0,
            lease: 0,
            pause: None,
            passed: 0,
            committed: 0,
            end: u64::MAX,
            snapshot: 0,
            drains: false,
            last_heard: None,
            last_status: None,
            last_asked: None,
            offers: BTreeMap::new(),
            needs: BTreeSet::new(),
            outcome: None,
            refused: false,
            is_announced: false,
            has_news: false,
            actions: Vec::new(),
        }
    }

    /// Who this is.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// The world it works in; `None` while it stands or ends its work.
    pub fn world(&self) -> Option<&World> {
        self.world.as_ref().filter(|_| self.work == Work::Working)
    }

    /// Steps leased and not learned yet.
    pub fn in_flight(&self) -> u64 {
        match self.work {
            Work::Working => self.lease.saturating_sub(self.status.step),
            _ => 0,
        }
    }

    /// Steps of work it has room for.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The state that it tells the coordinator.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether a coordinator leads it that has been heard lately.
    pub fn is_led(&self) -> bool {
        self.last_heard.is_some()
    }

    /// How the run ended, once it is known.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Takes in what happened at `now` (any monotonic time) and says what to do about it.
    pub fn step(&mut self, event: MemberEvent, now: Duration) -> Vec<MemberAction> {
        match event {
            MemberEvent::Tick => {}
            MemberEvent::Message(frame) => self.message(frame, now),
            MemberEvent::Disconnected => self.lose_coordinator(),
            MemberEvent::Stopped { generation, held } => {
                if generation == self.status.generation && self.work != Work::Standing {
                    self.work = Work::Standing;
                    self.status.activity = Activity::Standing;
                    self.status.held = held;
                    self.status.written.clear();
                    self.offers.clear();
                    self.needs.clear();
                    self.has_news = true;
                }
            }
            MemberEvent::Join(join) => {
                self.join = Some(join);
                self.last_asked = None;
            }
            MemberEvent::Drain => {
                self.drains = true;
                self.has_news = true;
            }
            MemberEvent::Leave => {
                self.send(FromMember::Leave);
                self.refused = true;
            }
            MemberEvent::Learned {
                generation,
                step,
                pace,
            } if self.works(generation) => {
                self.status.step = step;
                self.status.pace = pace;
                self.demand();
                self.snapshot();
            }
            MemberEvent::Wrote {
                generation,
                written,
            } if self.works(generation) => {
                // Leases keep it within the bound: none reaches further than two checkpoints ahead and the end.
                debug_assert!(self.status.written.len() < MAX_UNCOMMITTED);
                if written.step > self.committed && self.status.written.len() < MAX_UNCOMMITTED {
                    self.status.written.push(written);
                    self.has_news = true;
                }
            }
            MemberEvent::Damaged {
                generation,
                mut words,
            } if self.works(generation) => {
                words.truncate(words.floor_char_boundary(MAX_WORDS_BYTES));
                self.status.damaged = Some(words);
            }
            MemberEvent::Arrived { generation } if self.works(generation) => {
                self.status.barrier += 1;
                self.has_news = true;
            }
            MemberEvent::Offer {
                generation,
                key,
                value,
            } if self.works(generation) && self.offers.len() < MAX_OPEN_ENTRIES => {
                let (k, v) = (key.clone(), value.clone());
                self.offers.insert(k, v);
                self.send(FromMember::Put {
                    generation,
                    key,
                    value,
                });
            }
            MemberEvent::Need { generation, key }
                if self.works(generation) && self.needs.len() < MAX_OPEN_ENTRIES =>
            {
                self.needs.insert(key.clone());
                self.send(FromMember::Get { generation, key });
            }
            // Late words of work that has ended.
            MemberEvent::Learned { .. }
            | MemberEvent::Wrote { .. }
            | MemberEvent::Damaged { .. }
            | MemberEvent::Arrived { .. }
            | MemberEvent::Offer { .. }
            | MemberEvent::Need { .. } => {}
        }
        self.advance(now);
        std::mem::take(&mut self.actions)
    }

    fn works(&self, generation: Generation) -> bool {
        self.work == Work::Working && self.status.generation == generation
    }

    fn message(&mut self, frame: CoordinatorFrame, now: Duration) {
        if frame.member != self.id || self.outcome.is_some() {
            return;
        }
        if let ToMember::Refused(refusal) = frame.message {
            // Whoever it comes from: if it was not from ours, joining again costs a message.
            self.lose_coordinator();
            if !refusal.is_temporary() {
                self.abort();
            }
            if !refusal.is_temporary() && !self.refused {
                self.refused = true;
                self.actions.push(MemberAction::Refused(refusal));
            }
            return;
        }
        if let ToMember::Job(job) = frame.message {
            // A promise of nothing: any coordinator that this member reaches may say it.
            if self.join.is_none() && self.job.is_none() {
                self.job = Some(job.clone());
                self.actions.push(MemberAction::Prepare(job));
            }
            return;
        }
        if *self.coordinator.get_or_insert(frame.coordinator) != frame.coordinator {
            return;
        }
        self.last_heard = Some(now);
        match frame.message {
            ToMember::View(view) => self.view(view),
            ToMember::Entry {
                generation,
                key,
                value,
            } => {
                if self.works(generation) {
                    self.offers.remove(&key);
                    if self.needs.remove(&key) {
                        self.actions.push(MemberAction::Found {
                            generation,
                            key,
                            value,
                        });
                    }
                }
            }
            ToMember::Job(_) | ToMember::Refused(_) => {}
        }
    }

    fn view(&mut self, view: MemberView) {
        if view.seq <= self.view_seq {
            return;
        }
        let first = self.view_seq == 0;
        self.view_seq = view.seq;
        self.has_news |= first; // Now it knows us: it has to know our state.
        self.end = self.end.min(view.end);
        if view.committed > self.committed {
            self.committed = view.committed;
            let step = view.committed;
            self.status.written.retain(|written| written.step > step);
            self.actions.push(MemberAction::Committed { step });
        }
        let ours = view.working && view.generation == self.status.generation;
        if self.work == Work::Working && (!ours || view.outcome.is_some()) {
            self.abort();
        }
        if let Some(outcome) = view.outcome {
            self.outcome = Some(outcome);
            return;
        }
        if self.work == Work::Working {
            let generation = self.status.generation;
            if view.lease > self.lease || view.pause != self.pause {
                self.lease = self.lease.max(view.lease);
                self.pause = view.pause;
                let until = self.pause.map_or(self.lease, |pause| pause.min(self.lease));
                self.actions
                    .push(MemberAction::Leased { generation, until });
            }
            if view.barrier > self.passed {
                self.passed = view.barrier;
                let barrier = view.barrier;
                self.actions.push(MemberAction::Passed {
                    generation,
                    barrier,
                });
            }
            self.snapshot();
        } else if self.work == Work::Standing
            && let Some(world) = view.world.filter(|_| view.working)
            && world.generation > self.status.generation
            && world.rank_of(self.id).is_some()
        {
            self.begin(world);
        }
    }

    fn begin(&mut self, world: World) {
        self.work = Work::Working;
        self.lease = world.resume_from;
        self.pause = None;
        self.passed = 0;
        // Steps that were set aside since are committed once more.
        self.committed = world.committed;
        self.snapshot = world.committed;
        self.status = Status {
            seq: self.status.seq,
            generation: world.generation,
            activity: Activity::Working,
            step: world.resume_from,
            demand: world.resume_from + self.window,
            barrier: 0,
            written: Vec::new(),
            damaged: None,
            held: None,
            pace: Pace::default(),
        };
        self.has_news = true;
        self.actions.push(MemberAction::Begin(world.clone()));
        self.world = Some(world);
        self.snapshot();
    }

    /// Tells the coordinator about freed room when half of the window is free, not for each step.
    fn demand(&mut self) {
        self.status.demand = self.status.step + self.window;
        if self.lease < self.end && self.in_flight() <= self.window / 2 {
            self.has_news = true;
        }
    }

    fn snapshot(&mut self) {
        let Some(world) = &self.world else { return };
        let step = self.status.step;
        let due = step == self.end || world.is_checkpoint(step);
        if due && step > self.snapshot {
            self.snapshot = step;
            self.actions.push(MemberAction::Snapshot {
                generation: world.generation,
                step,
                last: step == self.end,
            });
        }
    }

    fn abort(&mut self) {
        if self.work == Work::Working {
            self.work = Work::Ending;
            let generation = self.status.generation;
            self.actions.push(MemberAction::Abort { generation });
        }
    }

    /// Its work goes on as far as it is leased: a coordinator that comes back, or its successor, says what becomes of it.
    fn lose_coordinator(&mut self) {
        self.coordinator = None;
        self.last_heard = None;
        self.view_seq = 0;
        self.end = u64::MAX;
    }

    fn advance(&mut self, now: Duration) {
        if self.refused {
            return;
        }
        if let (Some(outcome), Work::Standing, false) =
            (&self.outcome, self.work, self.is_announced)
        {
            self.is_announced = true;
            let outcome = outcome.clone();
            self.actions.push(MemberAction::End(outcome));
        }
        if self.outcome.is_some() {
            return;
        }
        if self.last_heard.is_some_and(|last| now > last + LEASE) {
            self.lose_coordinator();
        }
        if self.last_heard.is_none() {
            let asks = match &self.join {
                Some(join) => Some(FromMember::Join(join.clone())),
                None => self.job.is_none().then_some(FromMember::Ask),
            };
            if let Some(asks) = asks
                && self.last_asked.is_none_or(|last| now >= last + RETRY)
            {
                self.last_asked = Some(now);
                self.send(asks);
            }
            return;
        }
        if self.has_news || self.last_status.is_none_or(|last| now >= last + HEARTBEAT) {
            let heartbeat = !self.has_news;
            self.has_news = false;
            self.last_status = Some(now);
            self.status.seq += 1;
            self.send(FromMember::Status(self.status.clone()));
            if self.drains {
                self.send(FromMember::Drain);
            }
            if heartbeat {
                self.repeat_entries();
            }
        }
    }

    fn repeat_entries(&mut self) {
        let generation = self.status.generation;
        for (key, value) in self.offers.clone() {
            self.send(FromMember::Put {
                generation,
                key,
                value,
            });
        }
        for key in self.needs.clone() {
            self.send(FromMember::Get { generation, key });
        }
    }

    fn send(&mut self, message: FromMember) {
        self.actions.push(MemberAction::Send(MemberFrame {
            member: self.id,
            message,
        }));
    }
}
