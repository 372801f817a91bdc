//! The whole pipe, spawned sink first, and what becomes of it.
//!
//! ```text
//! ClipReader ► Sampler ► Batcher ► Trainer ⇄ device thread
//!                                     ▼
//!                               Checkpointer ► object store
//! ```
//!
//! A stage that fails ends the run: the supervisor stops the others and hands the first error on.
//! Whatever was committed stays; the next run goes on from there.

use std::{ops::Range, sync::Arc, time::Duration};

use lavida_data::{Error, Result};
use lavida_store::Store;
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, SupervisionEvent};
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    parts::{ClipSource, Drawer, MakeLearner},
    stages::{
        batcher::{self, Batcher},
        checkpointer::Checkpointer,
        clip_reader::ClipReader,
        sampler::{self, Sampler},
        trainer::{self, Outcome, Trainer},
    },
    telemetry::{MetricsLog, progress::Progress},
};

/// How long a stage that died at the start has to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One run of training in this process.
pub struct Pipeline<D: Drawer> {
    /// Where clips come from.
    pub source: Arc<dyn ClipSource>,
    /// How samples are drawn.
    pub drawer: Arc<D>,
    /// Makes the learner on the device's thread.
    pub learner: MakeLearner,
    /// Where the run's state lives.
    pub run: Store,
    /// Updates already made, and updates in all.
    pub steps: Range<u64>,
    /// Position of the first sample.
    pub position: u64,
    /// Clips a microbatch.
    pub microbatch: usize,
    /// Microbatches a step.
    pub accumulation: usize,
    /// Microbatches on the device at once.
    pub side_by_side: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub keep_last: usize,
    /// Log of steps.
    pub log: MetricsLog,
    /// Shows them.
    pub progress: Progress,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl<D: Drawer> Pipeline<D> {
    /// Runs until the last step, or until `stop` resolves and the step under way is committed.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<Outcome> {
        let (failed, mut failure) = mpsc::unbounded_channel();
        let (outcome, mut outcomes) = mpsc::unbounded_channel();
        let (supervisor, supervision) = Actor::spawn(None, Supervisor { failed }, ())
            .await
            .map_err(internal)?;
        let stages = self.spawn(&supervisor, outcome).await;
        let result = match stages {
            // A stage that died while the others were being spawned has told the supervisor why.
            Err(error) => match tokio::time::timeout(LAST_WORDS, failure.recv()).await {
                Ok(Some(reason)) => Err(reason),
                _ => Err(error),
            },
            Ok(trainer) => {
                let stopper = tokio::spawn(async move {
                    stop.await;
                    let _ = trainer.cast(trainer::Msg::Stop); // a run that just ended needs no stop
                });
                let result = tokio::select! {
                    biased;
                    Some(error) = failure.recv() => Err(error),
                    Some(outcome) = outcomes.recv() => Ok(outcome),
                };
                stopper.abort();
                result
            }
        };
        supervisor.stop(None);
        supervision.await.map_err(internal)?;
        result
    }

    async fn spawn(
        self,
        supervisor: &ActorRef<NoMessage>,
        outcome: mpsc::UnboundedSender<Outcome>,
    ) -> Result<ActorRef<trainer::Msg>> {
        let cell = || supervisor.get_cell();
        let per_step = (self.microbatch * self.accumulation) as u64;
        let n_steps_left = self.steps.end.saturating_sub(self.steps.start);
        let positions = self.position..self.position + n_steps_left * per_step;

        let checkpointer = Checkpointer {
            run: self.run,
            keep_last: self.keep_last,
        };
        let (checkpointer, _) = Actor::spawn_linked(None, checkpointer, (), cell())
            .await
            .map_err(internal)?;
        let trainer = Trainer {
            n_steps: self.steps.end,
            accumulation: self.accumulation,
            side_by_side: self.side_by_side,
            checkpoint_every: self.checkpoint_every,
            checkpointer,
            clock: self.clock,
            outcome,
        };
        let start = trainer::Start {
            step: self.steps.start,
            position: self.position,
            learner: self.learner,
            log: self.log,
            progress: self.progress,
        };
        let (trainer, _) = Actor::spawn_linked(None, trainer, start, cell())
            .await
            .map_err(internal)?;
        let batcher = Batcher {
            drawer: self.drawer.clone(),
            microbatch: self.microbatch,
            trainer: trainer.clone(),
        };
        let (batcher, _) = Actor::spawn_linked(None, batcher, self.position, cell())
            .await
            .map_err(internal)?;
        let sampler = Sampler {
            drawer: self.drawer,
            batcher: batcher.clone(),
        };
        let (sampler, _) = Actor::spawn_linked(None, sampler, (), cell())
            .await
            .map_err(internal)?;
        let reader = ClipReader {
            source: self.source,
            sampler: sampler.clone(),
        };
        let (reader, _) = Actor::spawn_linked(None, reader, positions, cell())
            .await
            .map_err(internal)?;

        sampler
            .cast(sampler::Msg::Upstream(reader))
            .map_err(internal)?;
        batcher
            .cast(batcher::Msg::Upstream(sampler))
            .map_err(internal)?;
        let demand = move |n| Ok(batcher.cast(batcher::Msg::Demand(n))?);
        trainer
            .cast(trainer::Msg::Upstream(Box::new(demand)))
            .map_err(internal)?;
        Ok(trainer)
    }
}

/// Watches the stages and passes the first failure on.
struct Supervisor {
    failed: mpsc::UnboundedSender<Error>,
}

/// It only watches. (`()` would do, but ractor_cluster would let peers send that.)
enum NoMessage {}

impl Message for NoMessage {}

impl Actor for Supervisor {
    type Msg = NoMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<NoMessage>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<NoMessage>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            let error = match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(other) => internal(other),
            };
            let _ = self.failed.send(error); // the run is over already: the first failure counts
        }
        Ok(())
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("a stage of the pipe failed: {error}"))
}
