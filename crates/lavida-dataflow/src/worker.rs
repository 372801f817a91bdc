//! One worker's place among those that make a step together: its slice of every batch, whom it sums gradients with, and
//! what it is told to do.
//!
//! The order of samples does not know the number of workers: step `s` learns from positions `s·B … (s+1)·B` of it, and
//! worker `r` of `n` takes the `r`-th of `n` equal parts. So the run is the same at any size, up to the rounding of sums.
//!
//! Letters: `B` samples of a step (`train.global_batch`).

use std::{ops::Range, sync::Arc};

use futures::future::BoxFuture;
use lavida_checkpoint::{LoadedCheckpoint, Retention, contents::Snapshot};
use lavida_data::{Error, Result};
use lavida_store::Store;
use lavida_train::{
    reduce::{Alone, GradientReducer},
    settings::Settings,
    step::StepRecord,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::telemetry::LogFiles;

/// A worker's place.
pub struct Worker {
    /// The other workers of a step.
    pub reducer: Box<dyn GradientReducer>,
    /// Membership generation.
    pub generation: u64,
    /// Workers on this machine, which share its cores.
    pub n_on_machine: usize,
    /// Whether metrics and progress are its to write: one worker of a run does.
    pub reports: bool,
    /// What becomes of its snapshots; without one it takes none.
    pub committer: Option<Arc<dyn Committer>>,
    /// What it starts from.
    pub resume: Resume,
    /// What it is told, where somebody tells it; else it goes on to the last step.
    pub orders: Option<watch::Receiver<Orders>>,
    /// Told of each step it made.
    pub learned: Option<mpsc::UnboundedSender<StepRecord>>,
    /// Gets the state as of its last update when the work is over, where others may go on from it.
    pub keep: Option<KeepState>,
}

/// Where a worker's state goes at the end; nothing comes where it has none that is whole.
pub type KeepState = oneshot::Sender<Option<Snapshot>>;

/// What a worker starts from.
#[derive(Debug)]
pub enum Resume {
    /// The newest committed checkpoint that is whole, or the beginning where the run has none.
    Newest,
    /// The beginning.
    Fresh,
    /// This checkpoint.
    From(Box<LoadedCheckpoint>),
    /// A state that a worker held in memory.
    Held(Box<HeldState>),
}

/// A state that a worker held in memory, after a step that need not be committed.
#[derive(Debug)]
pub struct HeldState {
    /// As a checkpoint would hold it.
    pub state: LoadedCheckpoint,
    /// The newest committed step.
    pub committed: u64,
    /// A checkpoint that is due at once.
    pub owes_checkpoint: bool,
    /// Records of the steps since the newest commit: the log may lack some.
    pub records: Vec<StepRecord>,
}

impl From<Option<LoadedCheckpoint>> for Resume {
    fn from(checkpoint: Option<LoadedCheckpoint>) -> Self {
        match checkpoint {
            Some(checkpoint) => Self::From(Box::new(checkpoint)),
            None => Self::Fresh,
        }
    }
}

/// What a worker may do, as it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// It may learn up to this step.
    pub until: u64,
    /// The run ends with this step, if before the last of the settings.
    pub end: u64,
    /// It stops at once, whatever it is doing; what is not committed is lost.
    pub abort: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            until: u64::MAX,
            end: u64::MAX,
            abort: false,
        }
    }
}

/// Brings snapshots to where they count.
pub trait Committer: Send + Sync {
    /// Returns when the checkpoint of the snapshot's step counts. The log goes first: no step counts whose row is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] when another worker of the run committed that step; [`Error::Unavailable`] when the store fails.
    fn commit(&self, snapshot: Snapshot, log: LogFiles) -> BoxFuture<'_, Result<()>>;
}

/// Commits whole snapshots to the run's store.
pub struct StoreCommitter {
    /// The run.
    pub run: Store,
    /// Checkpoints that are kept.
    pub retention: Retention,
}

impl Committer for StoreCommitter {
    fn commit(&self, snapshot: Snapshot, log: LogFiles) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            log.put().await?;
            lavida_checkpoint::commit(&self.run, snapshot, self.retention).await
        })
    }
}

impl Worker {
    /// The only worker of a run.
    pub fn alone(run: &Store, settings: &Settings) -> Self {
        Self {
            reducer: Box::new(Alone),
            generation: 0,
            n_on_machine: 1,
            reports: true,
            committer: Some(Arc::new(StoreCommitter {
                run: run.clone(),
                retention: (&settings.checkpoint).into(),
            })),
            resume: Resume::Newest,
            orders: None,
            learned: None,
            keep: None,
        }
    }

    /// Microbatches that a worker of `size` computes in a step.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the microbatches of a step cannot be shared evenly.
    pub fn accumulation(settings: &Settings, size: usize) -> Result<usize> {
        let n = settings.accumulation();
        if size == 0 || !n.is_multiple_of(size) {
            let (batch, micro) = (settings.train.global_batch, settings.train.microbatch);
            return Err(Error::invalid(
                "number of workers",
                format!("a divisor of {n} (train.global_batch {batch} / train.microbatch {micro})"),
                size,
            ));
        }
        Ok(n / size)
    }
}

/// Which positions of the run's order are a worker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Position where the first step begins.
    start: u64,
    global_batch: u64,
    /// Its part of each step.
    own: Range<u64>,
}

impl Slice {
    /// The part of worker `rank` of `size`, of steps that begin at position `start`. `size` divides `global_batch`.
    pub fn new(start: u64, global_batch: usize, rank: usize, size: usize) -> Self {
        let (global_batch, rank, size) = (global_batch as u64, rank as u64, size as u64);
        let part = global_batch / size;
        Self {
            start,
            global_batch,
            own: rank * part..(rank + 1) * part,
        }
    }

    /// The first position.
    pub fn first(&self) -> u64 {
        self.start + self.own.start
    }

    /// The position that follows `end`, the end of some of its samples: `end` itself, or the begin of its part of the
    /// next step.
    pub fn after(&self, end: u64) -> u64 {
        if (end - self.start) % self.global_batch == self.own.end % self.global_batch {
            self.step_of(end - 1) + self.global_batch + self.own.start
        } else {
            end
        }
    }

    /// Where the step of a position begins.
    pub fn step_of(&self, position: u64) -> u64 {
        position - (position - self.start) % self.global_batch
    }

    /// Its positions of `n_steps` steps, in order.
    pub fn positions(&self, n_steps: u64) -> SlicePositions {
        SlicePositions {
            next: self.first(),
            n_left: n_steps * (self.own.end - self.own.start),
            slice: self.clone(),
        }
    }
}

/// See [`Slice::positions`].
#[derive(Clone, Debug)]
pub struct SlicePositions {
    slice: Slice,
    next: u64,
    n_left: u64,
}

impl Iterator for SlicePositions {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.n_left = self.n_left.checked_sub(1)?;
        let position = self.next;
        self.next = self.slice.after(position + 1);
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_of_all_workers_are_the_order_once(
            start in 0u64..100, per_worker in 1usize..6, size in 1usize..6, n_steps in 0u64..5,
        ) {
            let batch = per_worker * size;
            let mut all = Vec::new();
            for rank in 0..size {
                let slice = Slice::new(start, batch, rank, size);
                let own: Vec<u64> = slice.positions(n_steps).collect();
                prop_assert!(own.is_sorted());
                prop_assert_eq!(own.len() as u64, n_steps * per_worker as u64);
                for (i, position) in own.iter().enumerate() {
                    let step = (i / per_worker) as u64;
                    prop_assert_eq!(slice.step_of(*position), start + step * batch as u64);
                }
                all.extend(own);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (start..start + n_steps * batch as u64).collect::<Vec<_>>());
        }
    }
}
