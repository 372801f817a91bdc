//! One history: the processes of a plan, driven event by event until the run has ended.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Mutation,
    network::{Cuts, Queue},
    nodes::{Life, Node},
    plan::{Dice, Fault, HistoryPlan, Link, MS, SECOND},
    store::SimulatedStore,
    trainer::{Round, expected_models, hash},
};
use crate::{
    Action, Answer, Coordinator, CoordinatorId, CoordinatorSettings, Engine, Event, Examined,
    Generation, MemberEvent, MemberFrame, MemberId, Outcome, RunId, World, decode, encode,
    ledger::{Entry, Fact},
};

/// How often a process is called when nothing else happens.
pub(super) const TICK: u64 = 250 * MS;
/// How long a run may go on after the last fault.
const PATIENCE: u64 = 240 * SECOND;

/// What can happen.
pub(super) enum What {
    CoordinatorTick(usize),
    ToCoordinator(usize, Vec<u8>),
    MemberGone(usize, MemberId),
    ReadLedger(usize),
    Append(usize, u64, Entry, StoreFate),
    Publish(usize, Entry, StoreFate),
    Examine(usize, u64),
    Probe(usize, u64),
    CoordinatorEvent(usize, Box<Event>),
    NodeTick(Life),
    ToNode(Life, usize, Vec<u8>),
    CoordinatorGone(Life, usize),
    Loaded(Life, Generation),
    Computed(Life, Generation),
    Round(Generation, u64),
    Reduced(Life, Generation, u64),
    PartsStored(Life, Generation, u64, u64),
    TrainerStopped(Life, Generation),
    StartNode(usize),
    StartCoordinator,
    Fault(Fault),
    Stop,
}

/// What the store does with a write that it was sent.
#[derive(Clone, Copy)]
pub(super) struct StoreFate {
    takes_effect: bool,
    answer_after: u64,
    answers: bool,
}

pub(super) struct CoordinatorProcess {
    pub machine: Coordinator,
    pub alive: bool,
    pub suspended_until: u64,
    ended: Option<Outcome>,
}

/// What a history came to, for statistics.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub completed: bool,
    pub stopped: bool,
    pub budget_spent: bool,
    pub none_whole: bool,
    pub set_aside: u64,
    pub generations: u64,
    pub fenced: u64,
    pub events: u64,
    pub virtual_seconds: u64,
    /// Over everything that was logged: equal for equal seeds.
    pub trace_hash: u64,
}

pub struct Simulation {
    pub(super) plan: HistoryPlan,
    pub(super) dice: Dice,
    pub(super) queue: Queue<What>,
    pub(super) cuts: Cuts,
    pub(super) store: SimulatedStore,
    pub(super) store_cut_until: u64,
    pub(super) coordinators: Vec<CoordinatorProcess>,
    pub(super) nodes: Vec<Node>,
    pub(super) rounds: BTreeMap<(Generation, u64), Round>,
    /// Every world that any member was told, by generation.
    pub(super) worlds: BTreeMap<Generation, World>,
    /// The model of undisturbed training after each step.
    pub(super) models: Vec<u64>,
    mutation: Option<Mutation>,
    coordinator_wanted: bool,
    stop_asked: bool,
    report: Report,
    trace: bool,
}

impl Simulation {
    pub fn new(seed: u64, mutation: Option<Mutation>, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let plan = HistoryPlan::draw(&mut dice);
        let mut queue = Queue::default();
        queue.at(0, What::StartCoordinator);
        for (node, at) in plan.starts.iter().enumerate() {
            queue.at(*at, What::StartNode(node));
        }
        for (at, fault) in &plan.faults {
            queue.at(*at, What::Fault(*fault));
        }
        if let Some(at) = plan.stop {
            queue.at(at, What::Stop);
        }
        let simulation = Self {
            nodes: (0..plan.n_nodes).map(|_| Node::new(&plan)).collect(),
            models: expected_models(plan.steps, plan.global_batch),
            plan,
            dice,
            queue,
            cuts: Cuts::default(),
            store: SimulatedStore::default(),
            store_cut_until: 0,
            coordinators: Vec::new(),
            rounds: BTreeMap::new(),
            worlds: BTreeMap::new(),
            mutation,
            coordinator_wanted: false,
            stop_asked: false,
            report: Report::default(),
            trace,
        };
        if trace {
            eprintln!("{:#?}", simulation.plan);
        }
        simulation
    }

    /// Plays the history to its end.
    pub fn run(mut self) -> Result<Report, String> {
        while !self.over() {
            let Some(what) = self.queue.pop() else {
                return Err("nothing is left to happen and the run has not ended".to_owned());
            };
            self.report.events += 1;
            let at = self.queue.now as f64 / SECOND as f64;
            self.happens(what)
                .and_then(|()| self.laws_hold())
                .map_err(|law| format!("at {at:.3} s: {law}"))?;
            if self.queue.now > self.plan.calm + PATIENCE {
                return Err(format!(
                    "no progress: {} s after the last fault step {} of {} is committed",
                    PATIENCE / SECOND,
                    self.store.remembered.committed,
                    self.plan.steps
                ));
            }
        }
        let facts = self.store.ledger.iter().map(|entry| &entry.fact);
        let set_aside = facts.filter(|fact| matches!(fact, Fact::SetAside { .. }));
        self.report.set_aside = set_aside.count() as u64;
        self.report.generations = self.store.remembered.generation.0;
        self.report.virtual_seconds = self.queue.now / SECOND;
        Ok(self.report)
    }

    /// Whether the run has ended, for everybody who can still be told.
    fn over(&mut self) -> bool {
        let Some(current) = self.coordinators.last() else {
            return false;
        };
        // A coordinator that was started beside one that ended the run has nobody to work with.
        let calm = self.queue.now > self.plan.calm;
        let ended: Vec<&Outcome> = match current.ended {
            None if calm => self
                .coordinators
                .iter()
                .filter_map(|c| c.machine.outcome())
                .collect(),
            _ => current.ended.iter().collect(),
        };
        for outcome in ended {
            match outcome {
                Outcome::Completed => self.report.completed = true,
                Outcome::Stopped { .. } => self.report.stopped = true,
                Outcome::BudgetSpent { .. } => self.report.budget_spent = true,
                Outcome::NoneWhole { .. } => self.report.none_whole = true,
                Outcome::Fenced { .. } | Outcome::Damaged { .. } | Outcome::StoreLost { .. } => {}
            }
        }
        let report = &self.report;
        report.completed || report.stopped || report.budget_spent || report.none_whole
    }

    fn happens(&mut self, what: What) -> Result<(), String> {
        match what {
            What::CoordinatorTick(c) if self.coordinators[c].alive => {
                let wakes = self.coordinators[c].suspended_until;
                if wakes > self.queue.now {
                    self.queue.at(wakes, What::CoordinatorTick(c));
                    return Ok(());
                }
                self.queue.after(TICK, What::CoordinatorTick(c));
                self.coordinator(c, Event::Tick)
            }
            What::CoordinatorTick(_) => Ok(()),
            What::ToCoordinator(c, bytes) => {
                let frame: MemberFrame = decode(&bytes).map_err(|e| e.to_string())?;
                self.coordinator(c, Event::Message(frame))
            }
            What::MemberGone(c, member) => self.coordinator(c, Event::Disconnected(member)),
            What::CoordinatorEvent(c, event) => self.coordinator(c, *event),
            What::ReadLedger(c) => {
                self.read_ledger(c);
                Ok(())
            }
            What::Append(c, index, entry, fate) => {
                let mut answer = Answer::Unavailable;
                if fate.takes_effect {
                    let judged = self.store.append(index, &entry)?;
                    self.checkpoint_is_whole(&entry)?;
                    if fate.answers {
                        answer = judged;
                    }
                }
                let event = Box::new(Event::Appended { index, answer });
                self.queue
                    .after(fate.answer_after, What::CoordinatorEvent(c, event));
                Ok(())
            }
            What::Probe(c, index) => {
                let found = self.store.ledger.get(index as usize).cloned().map(Box::new);
                let found = found.filter(|_| self.store_cut_until <= self.queue.now);
                let event = Box::new(Event::Probed { index, found });
                let delay = self.dice.between(MS, 50 * MS);
                self.queue.after(delay, What::CoordinatorEvent(c, event));
                Ok(())
            }
            What::Publish(c, entry, fate) => {
                let mut answer = Answer::Unavailable;
                if fate.takes_effect {
                    let judged = self.store.publish(&entry)?;
                    if fate.answers {
                        answer = judged;
                    }
                }
                if let Some(step) = entry.fact.step() {
                    let event = Box::new(Event::Published { step, answer });
                    self.queue
                        .after(fate.answer_after, What::CoordinatorEvent(c, event));
                }
                Ok(())
            }
            What::Examine(c, step) => {
                let found = if self.store_cut_until <= self.queue.now {
                    self.store.examine(step)
                } else {
                    Examined::Unavailable
                };
                let event = Box::new(Event::Examined { step, found });
                let delay = self.dice.between(MS, 900 * MS);
                self.queue.after(delay, What::CoordinatorEvent(c, event));
                Ok(())
            }
            What::NodeTick(life) if self.lives(life) && !self.nodes[life.0].done => {
                self.queue.after(TICK, What::NodeTick(life));
                self.node(life, MemberEvent::Tick)
            }
            What::NodeTick(_) => Ok(()),
            What::ToNode(life, c, bytes) => self.message_to_node(life, c, bytes),
            What::CoordinatorGone(life, c) => self.node_loses_coordinator(life, c),
            What::StartNode(n) => {
                self.start_node(n);
                Ok(())
            }
            What::StartCoordinator => {
                self.start_coordinator();
                Ok(())
            }
            What::Fault(fault) => {
                self.say(&format!("{fault:?}"));
                self.fault(fault)
            }
            What::Stop => {
                self.stop_asked = true;
                match self.current() {
                    Some(c) => self.coordinator(c, Event::Stop),
                    None => Ok(()),
                }
            }
            What::Round(generation, step) => self.round(generation, step),
            What::Loaded(life, generation)
            | What::Computed(life, generation)
            | What::Reduced(life, generation, _)
            | What::PartsStored(life, generation, ..)
            | What::TrainerStopped(life, generation) => self.trainer(life, generation, what),
        }
    }

    /// The coordinator that has the address, if it lives.
    pub(super) fn current(&self) -> Option<usize> {
        let last = self.coordinators.len().checked_sub(1)?;
        self.coordinators[last].alive.then_some(last)
    }

    fn start_coordinator(&mut self) {
        self.coordinator_wanted = false;
        let settings = CoordinatorSettings {
            id: CoordinatorId(self.dice.number()),
            run: RunId([7; 32]),
            job: super::nodes::JOB.to_vec(),
            build: "simulated".to_owned(),
            node: format!("head-{}", self.coordinators.len()),
            engine: Engine::Local,
            min_ranks: self.plan.min_ranks,
            max_ranks: self.plan.max_ranks,
            rank_divisor: self.plan.global_batch as usize,
            patience: Duration::from_secs(8),
            patience_after_loss: Duration::from_secs(3),
            max_node_failures: 2,
            steps: self.plan.steps,
            checkpoint_every: self.plan.every,
            ahead: self.plan.ahead,
            stall: Duration::from_secs(60),
            max_restarts: self.plan.max_restarts,
        };
        let mut machine = Coordinator::new(settings);
        machine.mutation = self.mutation;
        self.coordinators.push(CoordinatorProcess {
            machine,
            alive: true,
            suspended_until: 0,
            ended: None,
        });
        let c = self.coordinators.len() - 1;
        self.queue.after(0, What::CoordinatorTick(c));
        if self.stop_asked {
            self.queue.after(1, What::Stop);
        }
    }

    pub(super) fn want_coordinator(&mut self, after: u64) {
        if !self.coordinator_wanted {
            self.coordinator_wanted = true;
            self.queue.after(after, What::StartCoordinator);
        }
    }

    fn coordinator(&mut self, c: usize, event: Event) -> Result<(), String> {
        let process = &mut self.coordinators[c];
        if !process.alive {
            return Ok(());
        }
        if process.suspended_until > self.queue.now {
            let event = What::CoordinatorEvent(c, Box::new(event));
            self.queue.at(process.suspended_until, event);
            return Ok(());
        }
        let now = Duration::from_micros(self.queue.now);
        for action in process.machine.step(event, now) {
            match action {
                Action::Send(frame) => {
                    let mut nodes = self.nodes.iter();
                    let to = nodes.position(|node| node.alive && node.id == frame.member);
                    let Some(n) = to else { continue };
                    let bytes = encode(&frame).map_err(|e| e.to_string())?;
                    let life = (n, self.nodes[n].life);
                    for delay in self.deliveries(c, n) {
                        self.queue
                            .after(delay, What::ToNode(life, c, bytes.clone()));
                    }
                }
                Action::ReadLedger => self.queue.after(MS, What::ReadLedger(c)),
                Action::Append { index, entry } => {
                    let (delay, fate) = self.store_fate();
                    self.queue.after(delay, What::Append(c, index, entry, fate));
                }
                Action::Probe { index } => {
                    let delay = self.dice.between(MS, 50 * MS);
                    self.queue.after(delay, What::Probe(c, index));
                }
                Action::Publish(entry) => {
                    let (delay, fate) = self.store_fate();
                    self.queue.after(delay, What::Publish(c, entry, fate));
                }
                Action::Examine { step } => {
                    let delay = self.dice.between(MS, 50 * MS);
                    self.queue.after(delay, What::Examine(c, step));
                }
                Action::Log(notice) => self.say(&format!("coordinator {c}: {notice}")),
                Action::End(outcome) => self.coordinator_ends(c, outcome)?,
            }
        }
        Ok(())
    }

    fn coordinator_ends(&mut self, c: usize, outcome: Outcome) -> Result<(), String> {
        self.coordinator_goes(c);
        self.coordinators[c].ended = Some(outcome.clone());
        match outcome {
            Outcome::Damaged { reason } => return Err(reason),
            Outcome::NoneWhole { .. }
                if self
                    .store
                    .manifests
                    .iter()
                    .any(|(step, entry)| !self.store.is_damaged(*step, entry)) =>
            {
                return Err("gave up beside a checkpoint that is whole".to_owned());
            }
            // No cut of the store lasts that long.
            Outcome::StoreLost { seconds } => {
                return Err(format!("took the store for lost after {seconds} s"));
            }
            Outcome::BudgetSpent { restarts } if restarts <= self.plan.max_restarts => {
                return Err(format!("gave up after {restarts} restarts"));
            }
            Outcome::Fenced { .. } => {
                self.report.fenced += 1;
                if c + 1 == self.coordinators.len() {
                    // Whatever runs coordinators starts another one.
                    let after = self.dice.between(SECOND, 3 * SECOND);
                    self.want_coordinator(after);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Its process is gone; those connected to it notice.
    pub(super) fn coordinator_goes(&mut self, c: usize) {
        self.coordinators[c].alive = false;
        for n in 0..self.nodes.len() {
            if self.nodes[n].connection == Some(c) {
                let life = (n, self.nodes[n].life);
                let delay = self.dice.between(5 * MS, 60 * MS);
                self.queue.after(delay, What::CoordinatorGone(life, c));
            }
        }
    }

    /// When a message between the two arrives: not at all, once, or twice.
    pub(super) fn deliveries(&mut self, coordinator: usize, node: usize) -> Vec<u64> {
        let now = self.queue.now;
        let faulty = now < self.plan.calm;
        let cut = self.cuts.is_cut(Link::Control { node, coordinator }, now);
        if cut || (faulty && self.dice.chance(self.plan.loss)) {
            return Vec::new();
        }
        let longest = if faulty { self.plan.delay } else { 5 * MS };
        let mut delays = vec![self.dice.between(100, longest)];
        if faulty && self.dice.chance(self.plan.doubled) {
            delays.push(self.dice.between(100, longest));
        }
        delays
    }

    fn read_ledger(&mut self, c: usize) {
        if self.store_cut_until > self.queue.now {
            return self.queue.after(500 * MS, What::ReadLedger(c));
        }
        let event = Box::new(Event::LedgerRead {
            entries: self.store.ledger.clone(),
            published: self.store.newest_manifest(),
        });
        let delay = self.dice.between(MS, 60 * MS);
        self.queue.after(delay, What::CoordinatorEvent(c, event));
    }

    fn store_fate(&mut self) -> (u64, StoreFate) {
        let fine = StoreFate {
            takes_effect: true,
            answer_after: self.dice.between(MS, 50 * MS),
            answers: true,
        };
        if self.store_cut_until <= self.queue.now {
            return (self.dice.between(MS, 50 * MS), fine);
        }
        // It takes long, and the write may have happened without an answer, or never.
        let fate = StoreFate {
            takes_effect: self.dice.chance(50),
            answer_after: self.dice.between(MS, 2 * SECOND),
            answers: self.dice.chance(30),
        };
        (self.dice.between(MS, 3 * SECOND), fate)
    }

    pub(super) fn say(&mut self, line: &str) {
        let words = line.bytes().map(u64::from);
        let begin = [self.report.trace_hash, self.queue.now];
        self.report.trace_hash = hash(begin.into_iter().chain(words));
        if self.trace {
            eprintln!("{:10.3} {line}", self.queue.now as f64 / SECOND as f64);
        }
    }
}
