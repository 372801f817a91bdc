//! The whole pipe, spawned sink first, and what becomes of it.
//!
//! ```text
//! ClipReader ► Sampler ► Batcher ► Trainer ⇄ device thread
//!                                     ▼
//!                               Checkpointer ► object store
//! ```
//!
//! A stage that fails ends the run: the supervisor stops the others and hands on why it failed, which is not always
//! what it hears first: a neighbour that found the dead stage gone may be heard before it.
//! Whatever was committed stays; the next run goes on from there.

use std::{ops::Range, sync::Arc, time::Duration};

use lavida_data::{Error, Result};
use lavida_train::step::StepRecord;
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, SupervisionEvent};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    parts::{ClipSource, MakeLearner, SampleBuilder},
    stages::{
        batcher::{self, BatcherStage},
        checkpointer::CheckpointerStage,
        clip_reader::ClipReaderStage,
        sampler::{self, SamplerStage},
        trainer::{self, TrainerStage, TrainingOutcome},
    },
    telemetry::{MetricsLog, figures::RankFigures, progress::RunProgress},
    worker::{Committer, KeepState, Orders, Slice},
};

/// How long a stage that others found dead has to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One run of training in this process.
pub struct Pipeline<D: SampleBuilder> {
    /// Where clips come from.
    pub source: Arc<dyn ClipSource>,
    /// How samples are drawn.
    pub sample_builder: Arc<D>,
    /// Makes the learner on the device's thread.
    pub learner: MakeLearner,
    /// Updates already made, and updates in all.
    pub steps: Range<u64>,
    /// Which positions are this worker's.
    pub slice: Slice,
    /// Workers of a step.
    pub world_size: usize,
    /// Membership generation.
    pub generation: u64,
    /// Clips a microbatch.
    pub microbatch: usize,
    /// Microbatches of this worker a step.
    pub accumulation: usize,
    /// Microbatches on the device at once.
    pub side_by_side: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// The newest step whose checkpoint counts.
    pub committed: u64,
    /// A step beside these after which a checkpoint is due.
    pub owed_checkpoint: Option<u64>,
    /// Who wants the learner's state when the run is over.
    pub keep: Option<KeepState>,
    /// What becomes of snapshots; without one none are taken.
    pub committer: Option<Arc<dyn Committer>>,
    /// What this worker is told, where somebody tells it.
    pub orders: Option<watch::Receiver<Orders>>,
    /// Told of each step.
    pub learned: Option<mpsc::UnboundedSender<StepRecord>>,
    /// Log of steps, where this worker writes it.
    pub log: Option<MetricsLog>,
    /// Shows them.
    pub progress: RunProgress,
    /// What Prometheus is shown of this worker.
    pub figures: RankFigures,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl<D: SampleBuilder> Pipeline<D> {
    /// Runs until the last step, or until `stop` resolves and the step under way is committed.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<TrainingOutcome> {
        let (failed, mut failure) = mpsc::unbounded_channel();
        let (outcome, mut outcomes) = mpsc::unbounded_channel();
        let (supervisor, supervision) = Actor::spawn(None, Supervisor { failed }, ())
            .await
            .map_err(internal)?;
        let orders = self.orders.clone();
        let stages = self.spawn(&supervisor, outcome).await;
        let result = match stages {
            // A stage that died while the others were being spawned has told the supervisor why.
            Err(error) => Err(cause(Failure::Aftermath(error), &mut failure).await),
            Ok(trainer) => {
                let stopped = trainer.clone();
                let stopper = tokio::spawn(async move {
                    stop.await;
                    let _ = stopped.cast(trainer::Msg::Stop); // a run that just ended needs no stop
                });
                let forwarder = tokio::spawn(forward(orders, trainer));
                let result = tokio::select! {
                    biased;
                    Some(first) = failure.recv() => Err(cause(first, &mut failure).await),
                    Some(outcome) = outcomes.recv() => Ok(outcome),
                };
                stopper.abort();
                forwarder.abort();
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
        outcome: mpsc::UnboundedSender<TrainingOutcome>,
    ) -> Result<ActorRef<trainer::Msg>> {
        let cell = || supervisor.get_cell();
        let n_steps_left = self.steps.end.saturating_sub(self.steps.start);
        let positions = self.slice.positions(n_steps_left);

        let checkpointer = match self.committer {
            None => None,
            Some(committer) => {
                let checkpointer = CheckpointerStage { committer };
                let (checkpointer, _) = Actor::spawn_linked(None, checkpointer, (), cell())
                    .await
                    .map_err(internal)?;
                Some(checkpointer)
            }
        };
        let trainer = TrainerStage {
            n_steps: self.steps.end,
            accumulation: self.accumulation,
            side_by_side: self.side_by_side,
            checkpoint_every: self.checkpoint_every,
            owed_checkpoint: self.owed_checkpoint,
            checkpointer,
            slice: self.slice.clone(),
            world_size: self.world_size,
            generation: self.generation,
            learned: self.learned,
            clock: self.clock,
            outcome,
        };
        let start = trainer::Start {
            step: self.steps.start,
            orders: self
                .orders
                .map_or_else(Orders::default, |orders| *orders.borrow()),
            committed: self.committed,
            learner: self.learner,
            keep: self.keep,
            log: self.log,
            progress: self.progress,
            figures: self.figures,
        };
        let (trainer, _) = Actor::spawn_linked(None, trainer, start, cell())
            .await
            .map_err(internal)?;
        let batcher = BatcherStage {
            sample_builder: self.sample_builder.clone(),
            microbatch: self.microbatch,
            slice: self.slice,
            trainer: trainer.clone(),
        };
        let (batcher, _) = Actor::spawn_linked(None, batcher, (), cell())
            .await
            .map_err(internal)?;
        let sampler = SamplerStage {
            sample_builder: self.sample_builder,
            batcher: batcher.clone(),
        };
        let (sampler, _) = Actor::spawn_linked(None, sampler, (), cell())
            .await
            .map_err(internal)?;
        let reader = ClipReaderStage {
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

/// Forwards the orders of the worker as they change, for as long as somebody gives any.
async fn forward(orders: Option<watch::Receiver<Orders>>, trainer: ActorRef<trainer::Msg>) {
    let Some(mut orders) = orders else { return };
    orders.mark_changed();
    while orders.changed().await.is_ok() {
        let newest = *orders.borrow_and_update();
        if trainer.cast(trainer::Msg::Orders(newest)).is_err() {
            return;
        }
    }
}

/// What the supervisor learns of a stage.
enum Failure {
    /// Its own error.
    Cause(Error),
    /// What ractor says of it, most often that a neighbour is gone.
    Aftermath(Error),
}

/// Why a run failed that was first heard to fail by `first`: a stage's own error, if one comes in time.
async fn cause(first: Failure, later: &mut mpsc::UnboundedReceiver<Failure>) -> Error {
    let aftermath = match first {
        Failure::Cause(error) => return error,
        Failure::Aftermath(error) => error,
    };
    let own_error = async {
        loop {
            match later.recv().await {
                Some(Failure::Cause(error)) => return Some(error),
                Some(Failure::Aftermath(_)) => {}
                None => return None,
            }
        }
    };
    let own_error = tokio::time::timeout(LAST_WORDS, own_error).await;
    own_error.ok().flatten().unwrap_or(aftermath)
}

/// Watches the stages and passes their failures on.
struct Supervisor {
    failed: mpsc::UnboundedSender<Failure>,
}

/// It only watches. (`()` would do, but ractor_cluster would let peers send that.)
enum NoMessage {}

impl Message for NoMessage {}

impl Actor for Supervisor {
    type Msg = NoMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<NoMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<NoMessage>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            let failure = match error.downcast::<Error>() {
                Ok(error) => Failure::Cause(*error),
                Err(other) => Failure::Aftermath(internal(other)),
            };
            let _ = self.failed.send(failure); // the run is over already: its cause is known
        }
        Ok(())
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("a stage of the pipe failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(words: &str) -> Failure {
        Failure::Cause(Error::Internal(words.into()))
    }

    fn aftermath() -> Failure {
        Failure::Aftermath(internal("its neighbour is gone"))
    }

    async fn cause_of(first: Failure, later: impl IntoIterator<Item = Failure>) -> String {
        let (failed, mut failure) = mpsc::unbounded_channel();
        for next in later {
            assert!(failed.send(next).is_ok());
        }
        drop(failed);
        cause(first, &mut failure).await.to_string()
    }

    #[tokio::test]
    async fn the_stage_that_failed_is_believed_before_those_that_found_it_gone() {
        let words = cause_of(aftermath(), [aftermath(), own("why"), own("too late")]).await;
        assert!(words.ends_with("why"), "{words}");
        let words = cause_of(own("why"), [aftermath(), own("too late")]).await;
        assert!(words.ends_with("why"), "{words}");
    }

    #[tokio::test]
    async fn without_its_words_the_neighbours_are_repeated() {
        let words = cause_of(aftermath(), [aftermath()]).await;
        assert!(words.ends_with("its neighbour is gone"), "{words}");
    }
}
