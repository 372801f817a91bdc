//! Last stage: commits snapshots while training goes on, each after the log of the steps before it.

use std::sync::Arc;

use lavida_checkpoint::contents::Snapshot;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::trainer;
use crate::{telemetry::LogFiles, worker::Committer};

/// What the checkpointer understands.
pub enum Msg {
    /// Commit this, then say so.
    Commit {
        /// What.
        snapshot: Box<Snapshot>,
        /// The log up to there.
        log: LogFiles,
        /// Whom to tell.
        trainer: ActorRef<trainer::Msg>,
    },
}

/// Commits the run's checkpoints.
pub struct CheckpointerStage {
    /// How.
    pub committer: Arc<dyn Committer>,
}

impl Actor for CheckpointerStage {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Commit {
            snapshot,
            log,
            trainer,
        }: Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let step = snapshot.state.step;
        self.committer.commit(*snapshot, log).await?;
        trainer.cast(trainer::Msg::Committed(step))?;
        Ok(())
    }
}
