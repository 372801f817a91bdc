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
//! | A coordinator takes over by an entry, and looks every [`PROBE`](super::settings::PROBE) whether its next index is free | two that live at once would share the members between them and never end |
//! | Giving up is an entry too | one that was replaced must not tell members that the run has ended |
//! | A generation is opened in the ledger before its world works | a number is never used twice, and whoever is replaced learns it at its next entry |
//! | The world waits for members that stand, and standing means that no work of an older generation is left | so two generations of one process never overlap |
//! | The first world waits from when there are enough, not from the coordinator's start | nobody is waited for before anybody came |
//! | A machine that loses workers again and again is left out where a world forms without it | one bad machine must not spend the restarts of all |
//! | Ranks by (machine, slot, member) | the same members get the same ranks, ranks of a machine stand together |
//! | A lease is a range of steps for a rank, the least of its demand, the slowest rank plus `ahead`, two checkpoints beyond the committed one, and the end | in flight never exceeds demand, nobody runs away, a slow store slows training instead of filling memory |
//! | The row groups behind a lease are not named | they are a pure function of the leased positions, which the node knows as well |
//! | A world goes on from the newest state that a member holds, of training that was not given up and not before the committed step; a checkpoint is read when nobody holds one | a failure costs its step, and who was one update behind takes the state of one ahead |
//! | A checkpoint that was due and is not committed is the next world's first work | going on must not leave a gap as long as two intervals |
//! | Somebody who wants to go pauses all two steps after the slowest | the sum under way is finished, and the next world has nothing to take back |
//! | A checkpoint is committed when every rank wrote its parts and all agree what is whole | a rank that was lost half-way leaves garbage, never half a checkpoint |
//! | What a member says of damage is looked at before it is believed | it may be the member's own trouble, and going back costs what everybody learned |
//! | A run that is done is done once its last checkpoint was looked at | nobody goes on from it, so nobody else would find the damage |
//! | A store that takes nothing for as long as a world may stall ends the run, and writes nothing about it | somebody has to see it, and whether the last write happened is for the next coordinator to read |
//! | A request to stop makes the largest lease the end of the run | all ranks can reach it and none is past it |
//! | A coordinator that slept gives everybody a new lease, and the store, too | its own silence says nothing about the others |
//! | The restart budget counts losses since the last commit, in memory | progress earns it back; a coordinator started again by a person starts with a full one |

mod arrivals;
mod decisions;
mod ranks;
mod record;
#[cfg(test)]
mod tests;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ranks::Ranks;

use super::{
    CoordinatorFrame, DepartureReason, Generation, Held, Join, MemberFrame, MemberId, Outcome,
    Status, World,
    departures::Departures,
    ledger::{Entry, Remembered},
    message::Activity,
    rendezvous::Rendezvous,
    settings::{ASLEEP, CoordinatorSettings, LEASE, Notice},
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
    /// Answer to [`Action::Examine`].
    Examined {
        /// Up to which step.
        step: u64,
        /// What was found.
        found: Examined,
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

/// What became of the checkpoints of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// That of this step is the newest that is whole.
    Whole(u64),
    /// There are some and none is; what is wrong with each.
    NoneWhole(String),
    /// The store does not answer.
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
    /// Read the checkpoints up to this step, newest first, until one is whole.
    Examine {
        /// Up to which.
        step: u64,
    },
    /// Make the manifests what this entry says. Of a committed checkpoint: write its manifest with put-if-absent; the same
    /// content there already is success. Of those set aside: give their manifests other names.
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
    /// The state that it holds while it stands.
    fn held(&self) -> Option<Held> {
        self.status.as_ref()?.held
    }

    fn stands(&self) -> bool {
        let activity = self.status.as_ref().map(|status| status.activity);
        activity == Some(Activity::Standing)
    }
}

struct Gathering {
    /// Since when there are enough for a world.
    enough_since: Option<Duration>,
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
        /// All stop after this step: somebody wants to go.
        pause: Option<u64>,
        ranks: Box<Ranks>,
        progress: Progress,
    },
    Closing(Outcome),
    Ended {
        outcome: Outcome,
        since: Duration,
        is_announced: bool,
    },
}

/// What was seen to move, for the stall watch.
struct Progress {
    seen: (u64, u64, u64),
    at: Duration,
}

/// A write to the store that has not been answered.
struct Pending {
    entry: Entry,
    /// It is not asked again before this.
    not_before: Duration,
    /// Whether an answer is being waited for.
    in_flight: bool,
    /// When it was first asked.
    since: Option<Duration>,
}

/// Checkpoints that are being looked at.
struct Examination {
    /// The newest committed step.
    step: u64,
    not_before: Duration,
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
    examine: Option<Examination>,
    /// The newest generation that said of damage and was heard.
    examined: Generation,
    read_asked: Option<Duration>,
    /// When the ledger was first asked for.
    reading_since: Option<Duration>,
    probed: Duration,
    rendezvous: Rendezvous,
    restarts: u32,
    /// When it was last called again after it had slept.
    woke: Option<Duration>,
    /// Members that want to go, and since when.
    draining: BTreeMap<MemberId, Duration>,
    departures: Departures,
    /// The run ends with this step.
    end: u64,
    stopping: bool,
    last_call: Option<Duration>,
    /// Whether what happened may let a world form.
    may_form: bool,
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
            examine: None,
            examined: Generation::default(),
            read_asked: None,
            reading_since: None,
            probed: Duration::ZERO,
            rendezvous: Rendezvous::default(),
            restarts: 0,
            woke: None,
            draining: BTreeMap::new(),
            departures: Departures::default(),
            stopping: false,
            last_call: None,
            may_form: true,
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

    /// Members that went without saying so since this coordinator began, by machine and reason.
    pub fn lost_members(&self) -> &BTreeMap<(String, DepartureReason), u64> {
        self.departures.lost()
    }

    /// Machines that lost their workers so often that they stand by.
    pub fn stood_down(&self) -> Vec<String> {
        let failing = self.departures.failing(self.settings.max_node_failures);
        failing.map(str::to_owned).collect()
    }

    /// Whether a machine lost its workers so often that they stand by.
    pub fn is_stood_down(&self, node: &str) -> bool {
        let most = self.settings.max_node_failures;
        most > 0 && self.departures.failures(node) >= most
    }

    /// The world at work.
    pub fn world(&self) -> Option<&World> {
        match &self.phase {
            Phase::Working { world, .. } => Some(world),
            _ => None,
        }
    }

    /// The rank of a member in the world at work.
    pub fn rank_of(&self, member: MemberId) -> Option<usize> {
        match &self.phase {
            Phase::Working { ranks, .. } => ranks.of_member(member),
            _ => None,
        }
    }

    /// The last step that all ranks of the world at work have learned.
    pub fn slowest_step(&self) -> Option<u64> {
        match &self.phase {
            Phase::Working { ranks, .. } => Some(ranks.slowest()),
            _ => None,
        }
    }

    /// Number of members that take part or wait to.
    pub fn n_members(&self) -> usize {
        self.members.len()
    }

    /// Members that take part or wait to.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &Join, Option<&Status>)> {
        self.members
            .iter()
            .map(|(&id, known)| (id, &known.join, known.status.as_ref()))
    }

    /// The member's lease in the generation at work: it may learn up to this step.
    pub fn lease(&self, member: MemberId) -> Option<u64> {
        self.rank_of(member)?;
        self.members.get(&member).map(|known| known.lease)
    }

    /// Whether the ledger says that the run is this coordinator's, as far as it knows.
    pub fn owns_run(&self) -> bool {
        !matches!(self.phase, Phase::Reading | Phase::Ended { .. })
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
            for pending in [&mut self.append, &mut self.publish].into_iter().flatten() {
                pending.since = Some(now);
            }
            self.reading_since = Some(now);
            self.woke = Some(now);
        }
        self.last_call = Some(now);
        let ticked = event == Event::Tick;
        // What a member says lets a world form only where somebody begins to stand or goes.
        self.may_form = !matches!(event, Event::Message(_));
        match event {
            Event::Tick => {}
            Event::Message(frame) => self.message(frame, now),
            // Those that gave it up while it slept come back by themselves, or are found silent.
            Event::Disconnected(_) if self.woke.is_some_and(|woke| now < woke + LEASE) => {}
            Event::Disconnected(member) => self.remove(member, DepartureReason::Disconnected),
            Event::LedgerRead { entries, published } => self.ledger_read(&entries, published, now),
            Event::Appended { index, answer } => self.appended(index, answer, now),
            Event::Probed { index, found } => self.probed(index, found, now),
            Event::Examined { step, found } => self.examined(step, found),
            Event::Published { step, answer } => self.published(step, answer, now),
            Event::Stop => self.stopping = true,
        }
        if ticked {
            self.find_silent(now);
        }
        self.advance(now);
        self.flush();
        std::mem::take(&mut self.actions)
    }

    #[cfg(test)]
    fn mutated(&self, mutation: crate::simulation::Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Examination {
    fn of(step: u64) -> Self {
        Self {
            step,
            not_before: Duration::ZERO,
            in_flight: false,
        }
    }
}

impl Pending {
    fn new(entry: Entry) -> Self {
        Self {
            entry,
            not_before: Duration::ZERO,
            in_flight: false,
            since: None,
        }
    }
}
