//! Fourth stage: feeds the device, counts steps, logs them, asks for checkpoints.
//!
//! A step is `accumulation` microbatches of this worker and one update that all make; up to `side_by_side` of them are on the device at once. Twice as
//! many are granted: those on the device and those ready to follow. A checkpoint is taken between two steps; its upload
//! overlaps the steps that follow, and the next checkpoint and the end of the run wait for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::Duration,
};

use lavida_data::{Error, Result, batch::HostBatch};
use lavida_train::{
    reduce::StepShare,
    step::{StepRecord, StepTimes},
    trainer::UpdateReport,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc as tokio_mpsc;

use super::{
    batcher::PlacedBatch,
    checkpointer,
    device::{self, DeviceWork, Done},
};
use crate::{
    clock::Clock,
    parts::MakeLearner,
    telemetry::{MetricsLog, figures::RankFigures, progress::RunProgress},
    worker::{KeepState, Orders, Slice},
};

/// Asks upstream for microbatches.
pub type AskForBatches = Box<dyn Fn(usize) -> Result<(), ActorProcessingErr> + Send + Sync>;

/// What the trainer understands.
pub enum Msg {
    /// How to ask for microbatches; the first message, which starts the run.
    Upstream(AskForBatches),
    /// A microbatch that was asked for.
    Batch(Result<Box<PlacedBatch>>),
    /// The device finished something.
    Device(Result<Done>),
    /// A checkpoint of this step is committed.
    Committed(u64),
    /// Finish the step, commit, end.
    Stop,
    /// What this worker may do from now on.
    Orders(Orders),
}

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingOutcome {
    /// Updates made in all.
    pub step: u64,
    /// Whether it ended before the last step because it was asked to.
    pub stopped: bool,
    /// The last step's record, if a step was made.
    pub last: Option<Box<StepRecord>>,
}

/// Settings of the stage.
pub struct TrainerStage {
    /// Last step of the run.
    pub n_steps: u64,
    /// Microbatches a step.
    pub accumulation: usize,
    /// Microbatches on the device at once.
    pub side_by_side: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// A step beside these after which a checkpoint is due.
    pub owed_checkpoint: Option<u64>,
    /// Who commits, where this worker takes snapshots.
    pub checkpointer: Option<ActorRef<checkpointer::Msg>>,
    /// Which positions are this worker's.
    pub slice: Slice,
    /// Workers of a step.
    pub world_size: usize,
    /// Membership generation.
    pub generation: u64,
    /// Told of each step.
    pub learned: Option<tokio_mpsc::UnboundedSender<StepRecord>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Gets the outcome.
    pub outcome: tokio_mpsc::UnboundedSender<TrainingOutcome>,
}

/// Where a run starts and what it reports to.
pub struct Start {
    /// Updates made before.
    pub step: u64,
    /// What this worker may do at first.
    pub orders: Orders,
    /// The newest step whose checkpoint counts.
    pub committed: u64,
    /// Makes the learner.
    pub learner: MakeLearner,
    /// Who wants its state at the end.
    pub keep: Option<KeepState>,
    /// Log of steps, where this worker writes it.
    pub log: Option<MetricsLog>,
    /// Shows them.
    pub progress: RunProgress,
    /// Counts them.
    pub figures: RankFigures,
}

/// A checkpoint on its way to the store.
#[derive(Clone, Copy)]
struct Saving {
    since: Duration,
    /// How long training was held for it.
    stall: Duration,
}

/// What changes.
pub struct State {
    demand: Option<AskForBatches>,
    device: mpsc::Sender<DeviceWork>,
    step: u64,
    next_position: u64,
    epoch: u64,
    share: StepShare,
    orders: Orders,
    batches: BTreeMap<u64, Box<PlacedBatch>>,
    on_device: bool,
    ready: bool,
    /// The checkpoint on its way: one at a time.
    saving: Option<Saving>,
    snapshot_step: u64,
    /// How long one took, for the next record.
    save: Option<Duration>,
    stopping: bool,
    log: Option<MetricsLog>,
    progress: RunProgress,
    figures: RankFigures,
    step_began: Duration,
    waiting: Stopwatch,
    checkpointing: Stopwatch,
    last: Option<StepRecord>,
    finished: bool,
}

impl Actor for TrainerStage {
    type Msg = Msg;
    type State = State;
    type Arguments = Start;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        start: Start,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            demand: None,
            device: device::spawn(start.learner, myself, start.keep)?,
            step: start.step,
            next_position: self.slice.first(),
            epoch: 0,
            share: StepShare::default(),
            orders: start.orders,
            batches: BTreeMap::new(),
            on_device: false,
            ready: false,
            saving: None,
            snapshot_step: start.committed,
            save: None,
            stopping: false,
            log: start.log,
            progress: start.progress,
            figures: start.figures,
            step_began: Duration::ZERO,
            waiting: Stopwatch::default(),
            checkpointing: Stopwatch::default(),
            last: None,
            finished: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Upstream(demand) => {
                if state.step < self.n_steps {
                    demand(2 * self.side_by_side)?;
                }
                state.demand = Some(demand);
            }
            Msg::Batch(batch) => {
                let batch = batch?;
                state.batches.insert(batch.first_position, batch);
            }
            Msg::Device(done) => self.device_done(done?, &myself, state)?,
            Msg::Committed(step) => {
                let saving = state.saving.take();
                let saving = saving.ok_or("a commit that nobody waits for")?;
                let save = self.clock.monotonic() - saving.since;
                state.save = Some(save);
                state.figures.committed(step);
                state.progress.line(&format!(
                    "checkpoint of step {step} committed: saved in {:.2} s, training was held for {:.3} s",
                    save.as_secs_f64(),
                    saving.stall.as_secs_f64()
                ));
            }
            Msg::Stop => {
                state.share.stop = true;
                state.stopping = self.world_size == 1; // others must hear of it first
            }
            Msg::Orders(orders) if orders.abort => return Err(aborted().into()),
            Msg::Orders(orders) => state.orders = orders,
        }
        self.advance(&myself, state)
    }
}

impl TrainerStage {
    fn device_done(
        &self,
        done: Done,
        myself: &ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.on_device = false;
        match done {
            Done::Ready => {
                state.ready = true;
                state.step_began = self.clock.monotonic();
            }
            Done::Microbatches(losses) => {
                if let Some(demand) = &state.demand {
                    demand(losses.len())?;
                }
                state.share.losses.extend(losses);
            }
            Done::Update(update) => self.finish_step(update, state)?,
            Done::Snapshot(snapshot) => {
                let now = self.clock.monotonic();
                state.checkpointing.stop(now);
                state.saving = Some(Saving {
                    since: now,
                    stall: state.checkpointing.total,
                });
                let commit = checkpointer::Msg::Commit {
                    snapshot,
                    log: state
                        .log
                        .as_ref()
                        .map(MetricsLog::files)
                        .unwrap_or_default(),
                    trainer: myself.clone(),
                };
                let checkpointer = self.checkpointer.as_ref();
                checkpointer
                    .ok_or("a snapshot that nobody commits")?
                    .cast(commit)?;
            }
            Done::Attended => state.checkpointing.stop(self.clock.monotonic()),
        }
        Ok(())
    }

    fn finish_step(
        &self,
        update: UpdateReport,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.step += 1;
        let now = self.clock.monotonic();
        let record = StepRecord {
            step: state.step,
            epoch: state.epoch,
            losses: update.total.losses,
            lr: update.lr,
            grad_norm: update.grad_norm,
            sample_digest: update.total.samples.to_string(),
            truncated_categories: update.total.truncated_categories,
            world_size: self.world_size,
            generation: self.generation,
            seconds: (now - state.step_began).as_secs_f64(),
            times: StepTimes {
                data_seconds: state.waiting.take().as_secs_f64(),
                checkpoint_seconds: state.checkpointing.take().as_secs_f64(),
                ..update.times
            },
            checkpoint_save_seconds: state.save.take().map(|save| save.as_secs_f64()),
        };
        if let Some(log) = &mut state.log {
            log.record(&record)?;
        }
        state.progress.step(&record);
        state.figures.step(&record);
        state.step_began = now;
        // Asked while the update was under way: the others hear of it with the next.
        let stop = state.share.stop;
        state.share = StepShare {
            stop,
            ..StepShare::default()
        };
        state.stopping = update.total.stop || (stop && self.world_size == 1);
        if let Some(learned) = &self.learned {
            let _ = learned.send(record.clone()); // nobody listening any more is fine
        }
        state.last = Some(record);
        Ok(())
    }

    /// Gives the device its next job, or ends the run.
    fn advance(&self, myself: &ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if !state.ready || state.on_device || state.finished {
            return Ok(());
        }
        let n_done = state.share.losses.len();
        let between_steps = n_done == 0;
        let job = if n_done == self.accumulation {
            DeviceWork::Update(state.share.clone())
        } else if between_steps && self.snapshot_is_due(state) {
            state.checkpointing.start(self.clock.monotonic());
            if state.saving.is_some() {
                return Ok(()); // one upload at a time
            }
            state.snapshot_step = state.step;
            match self.checkpointer {
                Some(_) => DeviceWork::Snapshot(self.slice.step_of(state.next_position)),
                None => DeviceWork::AttendSnapshot,
            }
        } else if between_steps && self.at_end(state) {
            if state.saving.is_none() {
                self.end(myself, state);
            }
            return Ok(());
        } else if between_steps && state.step >= state.orders.until {
            return Ok(()); // until more is leased
        } else if let Some(batches) = state.take(self.side_by_side.min(self.accumulation - n_done))
        {
            state.waiting.stop(self.clock.monotonic());
            DeviceWork::Microbatches(batches)
        } else {
            state.waiting.start(self.clock.monotonic());
            return Ok(());
        };
        state.on_device = true;
        state
            .device
            .send(job)
            .map_err(|_| "the device thread is gone")?;
        Ok(())
    }

    fn last_step(&self, state: &State) -> u64 {
        self.n_steps.min(state.orders.end)
    }

    fn snapshot_is_due(&self, state: &State) -> bool {
        state.step > state.snapshot_step
            && (state.step.is_multiple_of(self.checkpoint_every)
                || self.owed_checkpoint == Some(state.step)
                || self.at_end(state))
    }

    /// Whether no further step is to be made. A stop before the first step of a run still makes one, so that there is
    /// something to commit.
    fn at_end(&self, state: &State) -> bool {
        state.step >= self.last_step(state) || (state.stopping && state.last.is_some())
    }

    fn end(&self, myself: &ActorRef<Msg>, state: &mut State) {
        state.finished = true;
        let outcome = TrainingOutcome {
            step: state.step,
            stopped: state.step < self.n_steps,
            last: state.last.clone().map(Box::new),
        };
        let _ = self.outcome.send(outcome); // nobody waiting any more is fine
        myself.stop(None);
    }
}

/// Adds up the time during which something was the case.
#[derive(Default)]
struct Stopwatch {
    since: Option<Duration>,
    total: Duration,
}

impl Stopwatch {
    /// It is the case from now on, if it was not already.
    fn start(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// It is not the case any more, if it was.
    fn stop(&mut self, now: Duration) {
        if let Some(since) = self.since.take() {
            self.total += now - since;
        }
    }

    /// The sum so far; the next begins at nothing.
    fn take(&mut self) -> Duration {
        std::mem::take(&mut self.total)
    }
}

fn aborted() -> Error {
    Error::Unavailable {
        what: "this generation of workers".into(),
        reason: "it has ended".into(),
    }
}

impl State {
    /// The next `n` microbatches, when all are there.
    fn take(&mut self, n: usize) -> Option<Vec<HostBatch>> {
        let mut position = self.next_position;
        for _ in 0..n {
            position = self.batches.get(&position)?.next_position;
        }
        let next = std::iter::repeat_with(|| {
            let placed = self.batches.remove(&self.next_position)?;
            self.next_position = placed.next_position;
            self.epoch = placed.epoch;
            for (position, id) in (placed.first_position..).zip(&placed.batch.clip_ids) {
                self.share.samples.add(position, id);
            }
            self.share.truncated_categories += placed.batch.n_truncated_categories;
            Some(placed.batch)
        });
        next.take(n).collect()
    }
}
