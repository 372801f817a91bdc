//! Last stage: commits snapshots to the store while training goes on.

use lavida_store::Store;
use lavida_train::checkpoint::Snapshot;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::trainer;
use crate::checkpoints;

/// What the checkpointer understands.
pub enum Msg {
    /// Commit this, then say so.
    Commit(Box<Snapshot>, ActorRef<trainer::Msg>),
}

/// Commits the run's checkpoints.
pub struct Checkpointer {
    /// The run.
    pub run: Store,
    /// Checkpoints that are kept.
    pub keep_last: usize,
}

impl Actor for Checkpointer {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Commit(snapshot, trainer): Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let step = snapshot.state.step;
        checkpoints::commit(&self.run, *snapshot, self.keep_last).await?;
        trainer.cast(trainer::Msg::Committed(step))?;
        Ok(())
    }
}
