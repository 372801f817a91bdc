//! The workers of a history: each a member's state machine, a trainer, and a connection.

use std::{collections::BTreeMap, time::Duration};

use super::{
    plan::{HistoryPlan, Link, MS, SECOND},
    run::{Simulation, What},
    trainer::{PARTS, Round, SimulatedTrainer, hash, learn},
};
use crate::{
    Engine, FromMember, Generation, Held, Join, Member, MemberAction, MemberEvent, MemberFrame,
    MemberId, Pace, Refusal, RunId, World, Written, WrittenPart, decode, encode,
};

/// When an engine gives up on a peer that does not answer.
const ENGINE_TIMEOUT: u64 = 5 * SECOND;

/// A process of a node: which node, in which of its lives.
pub(super) type Life = (usize, u64);

pub(super) struct Node {
    pub life: u64,
    pub alive: bool,
    pub suspended_until: u64,
    pub id: MemberId,
    pub member: Member,
    pub trainer: Option<SimulatedTrainer>,
    /// The state that was last held whole, and the model in it.
    pub kept: Option<(Held, u64)>,
    /// The coordinator that it has a connection to.
    pub connection: Option<usize>,
    /// It was told how the run ended.
    pub done: bool,
}

impl Node {
    /// A machine on which nothing runs yet.
    pub fn new(plan: &HistoryPlan) -> Self {
        Self {
            life: 0,
            alive: false,
            suspended_until: 0,
            id: MemberId(0),
            member: Member::new(MemberId(0), None, plan.window),
            trainer: None,
            kept: None,
            connection: None,
            done: false,
        }
    }
}

/// What the run is, for workers that ask.
pub(super) const JOB: &[u8] = b"job";

fn join(n: usize) -> Join {
    Join {
        run: RunId([7; 32]),
        node: format!("node-{}", n / 2),
        slot: (n % 2) as u16,
        address: String::new(),
        engines: [Engine::Local].into(),
    }
}

impl Simulation {
    pub(super) fn lives(&self, (n, life): Life) -> bool {
        self.nodes[n].alive && self.nodes[n].life == life
    }

    pub(super) fn start_node(&mut self, n: usize) {
        if self.nodes[n].alive {
            return;
        }
        let id = MemberId(self.dice.number() | 1);
        let life = self.nodes[n].life + 1;
        self.nodes[n] = Node {
            life,
            alive: true,
            id,
            // Every other worker was told nothing but the coordinator's address.
            member: Member::new(id, n.is_multiple_of(2).then(|| join(n)), self.plan.window),
            ..Node::new(&self.plan)
        };
        self.queue.after(0, What::NodeTick((n, life)));
    }

    pub(super) fn message_to_node(
        &mut self,
        life: Life,
        c: usize,
        bytes: Vec<u8>,
    ) -> Result<(), String> {
        if !self.lives(life) || self.nodes[life.0].connection != Some(c) {
            return Ok(());
        }
        let wakes = self.nodes[life.0].suspended_until;
        if wakes > self.queue.now {
            self.queue.at(wakes, What::ToNode(life, c, bytes));
            return Ok(());
        }
        let frame = decode(&bytes).map_err(|e| e.to_string())?;
        self.node(life, MemberEvent::Message(frame))
    }

    pub(super) fn node_loses_coordinator(&mut self, life: Life, c: usize) -> Result<(), String> {
        if !self.lives(life) || self.nodes[life.0].connection != Some(c) {
            return Ok(());
        }
        let wakes = self.nodes[life.0].suspended_until;
        if wakes > self.queue.now {
            self.queue.at(wakes, What::CoordinatorGone(life, c));
            return Ok(());
        }
        self.nodes[life.0].connection = None;
        self.node(life, MemberEvent::Disconnected)
    }

    pub(super) fn node(&mut self, life: Life, event: MemberEvent) -> Result<(), String> {
        let n = life.0;
        if self.nodes[n].suspended_until > self.queue.now {
            return match event {
                MemberEvent::Tick => Ok(()),
                _ => Err("a suspended process did something".to_owned()),
            };
        }
        let now = Duration::from_micros(self.queue.now);
        for action in self.nodes[n].member.step(event, now) {
            match action {
                MemberAction::Send(frame) => self.send(life, &frame)?,
                MemberAction::Prepare(job) if job == JOB => {
                    self.node(life, MemberEvent::Join(join(n)))?;
                }
                MemberAction::Prepare(job) => return Err(format!("a job of other bytes: {job:?}")),
                MemberAction::Begin(world) => self.begin(life, world)?,
                MemberAction::Abort { generation } => self.abort(life, generation),
                MemberAction::Leased { generation, until } => {
                    if let Some(trainer) = self.working(life, generation) {
                        trainer.lease = until;
                    }
                    self.compute(life, generation);
                }
                MemberAction::Snapshot {
                    generation, step, ..
                } => {
                    // What a world begins with is written once it is there.
                    match self.working(life, generation) {
                        Some(trainer) if !trainer.loaded => trainer.owed = Some(step),
                        _ => self.snapshot(life, generation, step)?,
                    }
                }
                MemberAction::Committed { step } => {
                    if !self.store.manifests.contains_key(&step) {
                        let law = format!("step {step} was called committed without a manifest");
                        return Err(law);
                    }
                }
                MemberAction::End(_) => self.nodes[n].done = true,
                // It wanted to go; another process takes its place.
                MemberAction::Refused(Refusal::Left) => {
                    self.kill_node(n);
                    let back_after = self.dice.between(SECOND, 3 * SECOND);
                    self.queue.after(back_after, What::StartNode(n));
                }
                MemberAction::Refused(refusal) => return Err(format!("refused: {refusal}")),
                MemberAction::Passed { .. } | MemberAction::Found { .. } => {}
            }
        }
        Ok(())
    }

    fn send(&mut self, (n, _): Life, frame: &MemberFrame) -> Result<(), String> {
        if matches!(frame.message, FromMember::Join(_) | FromMember::Ask) {
            // Asking to join begins with a connection to whoever has the address now.
            self.nodes[n].connection = self.current();
        }
        let Some(c) = self.nodes[n].connection else {
            return Ok(());
        };
        let bytes = encode(frame).map_err(|e| e.to_string())?;
        for delay in self.deliveries(c, n) {
            self.queue
                .after(delay, What::ToCoordinator(c, bytes.clone()));
        }
        Ok(())
    }

    // The trainer -------------------------------------------------------------------------------------------------

    fn working(&mut self, life: Life, generation: Generation) -> Option<&mut SimulatedTrainer> {
        if !self.lives(life) {
            return None;
        }
        let trainer = self.nodes[life.0].trainer.as_mut()?;
        (trainer.world.generation == generation && !trainer.stopped).then_some(trainer)
    }

    fn begin(&mut self, life: Life, world: World) -> Result<(), String> {
        let generation = world.generation;
        let known = self.worlds.entry(generation).or_insert(world.clone());
        if *known != world {
            return Err(format!("generation {generation} has two worlds"));
        }
        let node = &mut self.nodes[life.0];
        if node.trainer.is_some() {
            return Err("a world began beside the work of another".to_owned());
        }
        let held = node.kept.filter(|(held, _)| {
            let counts = held.generation >= self.lineage_before(generation);
            counts && held.step > world.resume_from && Some(*held) > world.kept
        });
        if let Some((held, _)) = held {
            return Err(format!(
                "generation {generation} goes back to step {} though {held:?} is held",
                world.resume_from
            ));
        }
        let intervals = |step: u64| step / world.checkpoint_every;
        let is_due = intervals(world.resume_from) > intervals(world.committed);
        if is_due && !world.owes_checkpoint {
            return Err(format!(
                "generation {generation} goes on from step {} and not with the checkpoint that is owed since step {}",
                world.resume_from, world.committed
            ));
        }
        let node = &mut self.nodes[life.0];
        node.trainer = Some(SimulatedTrainer::new(world, node.id));
        let delay = self.dice.between(5 * MS, 500 * MS);
        self.queue.after(delay, What::Loaded(life, generation));
        Ok(())
    }

    fn abort(&mut self, life: Life, generation: Generation) {
        let Some(trainer) = self.working(life, generation) else {
            return; // It is ending by itself already.
        };
        trainer.stopped = true;
        let slow = self.dice.chance(10);
        let longest = if slow { 4 * SECOND } else { 200 * MS };
        let delay = self.dice.between(MS, longest);
        self.queue
            .after(delay, What::TrainerStopped(life, generation));
    }

    /// The trainer ends by itself, as when its engine loses a peer.
    pub(super) fn trainer_fails(&mut self, life: Life, generation: Generation) {
        if let Some(trainer) = self.working(life, generation) {
            trainer.stopped = true;
            let delay = self.dice.between(MS, 50 * MS);
            self.queue
                .after(delay, What::TrainerStopped(life, generation));
        }
    }

    fn snapshot(&mut self, life: Life, generation: Generation, step: u64) -> Result<(), String> {
        let trainer = self.working(life, generation);
        let here = trainer.map(|trainer| (trainer.step, trainer.model));
        let Some((here, model)) = here else {
            return Ok(());
        };
        if here != step {
            let law = format!("a snapshot of step {step} was asked for at step {here}");
            return Err(law);
        }
        let delay = self.dice.between(MS, self.plan.write);
        self.queue
            .after(delay, What::PartsStored(life, generation, step, model));
        Ok(())
    }

    /// Begins the next step if there is a lease for it.
    fn compute(&mut self, life: Life, generation: Generation) {
        let Some(trainer) = self.working(life, generation) else {
            return;
        };
        if trainer.loaded && !trainer.computing && trainer.step < trainer.lease {
            trainer.computing = true;
            let delay = self.dice.between(20 * MS, self.plan.compute);
            self.queue.after(delay, What::Computed(life, generation));
        }
    }

    pub(super) fn trainer(
        &mut self,
        life: Life,
        generation: Generation,
        what: What,
    ) -> Result<(), String> {
        if !self.lives(life) {
            return Ok(());
        }
        let wakes = self.nodes[life.0].suspended_until;
        if wakes > self.queue.now {
            self.queue.at(wakes, what);
            return Ok(());
        }
        let uses_store = matches!(what, What::Loaded(..) | What::PartsStored(..));
        if uses_store && self.store_cut_until > self.queue.now {
            self.queue.after(300 * MS, what);
            return Ok(());
        }
        if let What::TrainerStopped(..) = what {
            let node = &mut self.nodes[life.0];
            if let Some(trainer) = node.trainer.take().filter(|trainer| trainer.loaded) {
                let (step, model) = (trainer.step, trainer.model);
                node.kept = Some((Held { generation, step }, model));
            }
            let held = node.kept.map(|(held, _)| held);
            return self.node(life, MemberEvent::Stopped { generation, held });
        }
        if self.working(life, generation).is_none() {
            return Ok(());
        }
        match what {
            What::Loaded(..) => self.loaded(life, generation),
            What::Computed(..) => self.computed(life, generation),
            What::Reduced(.., step) => self.reduced(life, generation, step),
            What::PartsStored(.., step, model) => self.parts_stored(life, generation, step, model),
            _ => Ok(()),
        }
    }

    fn loaded(&mut self, life: Life, generation: Generation) -> Result<(), String> {
        let Some(trainer) = self.working(life, generation) else {
            return Ok(());
        };
        let step = trainer.step;
        if trainer.world.kept.is_some() {
            return self.takes_state(life, generation);
        }
        let manifest = self.store.manifests.get(&step);
        let damaged = match manifest {
            Some(entry) => self.store.is_damaged(step, entry),
            // Another rank was quicker, and this one has not heard yet that its generation is over.
            None => self.store.was_set_aside(step, generation),
        };
        if damaged {
            let words = format!("step {step}");
            self.node(life, MemberEvent::Damaged { generation, words })?;
            self.trainer_fails(life, generation);
            return Ok(());
        }
        let model = match (step, manifest) {
            (0, _) => 0,
            (_, Some(manifest)) => self.checkpoint_model(manifest)?,
            (_, None) => return Err(format!("step {step} was resumed without a manifest")),
        };
        if let Some(trainer) = self.working(life, generation) {
            trainer.model = model;
            trainer.loaded = true;
        }
        self.compute(life, generation);
        Ok(())
    }

    /// A rank begins with the state that it holds, or with that of the rank that gives it, if both live and reach each other.
    fn takes_state(&mut self, life: Life, generation: Generation) -> Result<(), String> {
        let kept = self.nodes[life.0].kept;
        let Some(trainer) = self.working(life, generation) else {
            return Ok(());
        };
        let (world, rank) = (trainer.world.clone(), trainer.rank);
        let model = if world.peers[rank].holds {
            match kept {
                Some((held, model)) if Some(held) == world.kept => Some(model),
                // It has been in a later world than the coordinator had heard of when it formed this one.
                Some((held, _)) if Some(held.generation) > world.kept.map(|k| k.generation) => None,
                other => {
                    return Err(format!(
                        "rank {rank} is to go on from {:?} and holds {other:?}",
                        world.kept
                    ));
                }
            }
        } else {
            let donor = world
                .donor()
                .ok_or("nobody holds what all are to go on from")?;
            let member = world.peers[donor].member;
            let from = self
                .nodes
                .iter()
                .position(|node| node.alive && node.id == member);
            let now = self.queue.now;
            let reaches = |n: usize| {
                let (low, high) = (n.min(life.0), n.max(life.0));
                !self.cuts.is_cut(Link::Engine { low, high }, now)
                    && self.nodes[n].suspended_until <= now
            };
            let from = from.filter(|&n| reaches(n));
            let of_world = from.and_then(|n| {
                let trainer = self.nodes[n].trainer.as_ref()?;
                let works = trainer.world.generation == generation && !trainer.stopped;
                self.nodes[n].kept.filter(|_| works)
            });
            of_world.map(|(_, model)| model)
        };
        let is_damaged = self.dice.chance(2);
        match model {
            // A hash that does not fit, or nobody there: the next world tries again.
            Some(_) if is_damaged && !world.peers[rank].holds => {
                self.trainer_fails(life, generation)
            }
            None => self.trainer_fails(life, generation),
            Some(model) => {
                if self.models.get(world.resume_from as usize) != Some(&model) {
                    return Err(format!("what is held of {:?} is another model", world.kept));
                }
                let mut owed = None;
                if let Some(trainer) = self.working(life, generation) {
                    trainer.model = model;
                    trainer.loaded = true;
                    owed = trainer.owed.take();
                }
                if let Some(step) = owed {
                    self.snapshot(life, generation, step)?;
                }
                self.compute(life, generation);
            }
        }
        Ok(())
    }

    /// The generation from which on held states counted when this one was opened.
    fn lineage_before(&self, generation: Generation) -> Generation {
        let mut remembered = crate::ledger::Remembered::default();
        for entry in &self.store.ledger {
            let opens = matches!(entry.fact, crate::ledger::Fact::Opened { .. });
            if opens && entry.generation == generation {
                break;
            }
            if remembered.add(entry).is_err() {
                break; // the store has found it already
            }
        }
        remembered.lineage
    }

    fn computed(&mut self, life: Life, generation: Generation) -> Result<(), String> {
        let id = self.nodes[life.0].id;
        let global_batch = self.plan.global_batch;
        let Some(trainer) = self.working(life, generation) else {
            return Ok(());
        };
        let step = trainer.step + 1;
        let given = (id, trainer.model, trainer.positions(global_batch));
        let (rank, world) = (trainer.rank, trainer.world.clone());
        let round = self.rounds.entry((generation, step));
        let round = round.or_insert_with(|| Round {
            world,
            given: BTreeMap::new(),
            complete: None,
        });
        if round.given.insert(rank, given).is_some() {
            return Err(format!("rank {rank} gave step {step} twice"));
        }
        if round.given.len() == round.world.size() {
            round.complete = Some(self.queue.now);
            let delay = self.dice.between(MS, 20 * MS);
            self.queue.after(delay, What::Round(generation, step));
        }
        Ok(())
    }

    /// Brings a complete round to its ranks, unless two of them cannot reach each other.
    pub(super) fn round(&mut self, generation: Generation, step: u64) -> Result<(), String> {
        let now = self.queue.now;
        let round = &self.rounds[&(generation, step)];
        let complete = round.complete.unwrap_or(now);
        let of = |member: MemberId| self.nodes.iter().position(|node| node.id == member);
        let members = round.given.values().map(|(member, ..)| *member);
        let nodes: Vec<usize> = members.filter_map(of).collect();
        let is_cut = |low: usize, high: usize| {
            low < high && self.cuts.is_cut(Link::Engine { low, high }, now)
        };
        let cut = nodes
            .iter()
            .any(|&low| nodes.iter().any(|&high| is_cut(low, high)));
        if cut && now < complete + ENGINE_TIMEOUT {
            self.queue.after(300 * MS, What::Round(generation, step));
            return Ok(());
        }
        for n in nodes {
            let life = (n, self.nodes[n].life);
            if cut {
                self.trainer_fails(life, generation);
            } else {
                let delay = self.dice.between(100, 5 * MS);
                self.queue
                    .after(delay, What::Reduced(life, generation, step));
            }
        }
        Ok(())
    }

    fn reduced(&mut self, life: Life, generation: Generation, step: u64) -> Result<(), String> {
        let round = &self.rounds[&(generation, step)];
        let positions = round.reduce(step, self.plan.global_batch)?;
        let Some(trainer) = self.working(life, generation) else {
            return Ok(());
        };
        trainer.model = learn(trainer.model, positions);
        trainer.step = step;
        trainer.computing = false;
        let learned = MemberEvent::Learned {
            generation,
            step,
            pace: Pace::default(),
        };
        self.node(life, learned)?;
        self.compute(life, generation);
        Ok(())
    }

    fn parts_stored(
        &mut self,
        life: Life,
        generation: Generation,
        step: u64,
        model: u64,
    ) -> Result<(), String> {
        let Some(trainer) = self.working(life, generation) else {
            return Ok(());
        };
        let mut parts = Vec::new();
        for (name, bytes) in trainer.parts() {
            let key = format!("g{generation}-{name}");
            let digest = hash([model, bytes]);
            let at = (step, key.clone());
            self.store.parts.insert(at, (generation, digest));
            let mut blake3 = [0; 32];
            blake3[..8].copy_from_slice(&digest.to_le_bytes());
            parts.push(WrittenPart {
                name: name.to_owned(),
                key,
                bytes,
                blake3,
            });
        }
        let written = Written {
            step,
            state: model.to_le_bytes().to_vec(),
            n_parts: PARTS.len() as u32,
            parts,
        };
        let event = MemberEvent::Wrote {
            generation,
            written,
        };
        self.node(life, event)
    }
}
