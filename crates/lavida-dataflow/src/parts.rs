//! What the stages are made of: a source of clips, a builder of samples, a learner on its own thread.
//!
//! The stages know only these traits, so that the pipe's own laws (demand, order, supervision, stop
//! and resume) are tested without pictures and tensors.

use std::sync::Arc;

use futures::future::BoxFuture;
use lavida_checkpoint::contents::Snapshot;
use lavida_data::{Result, batch::HostBatch, clip::Clip};
pub use lavida_train::{reduce::GradientReducer, settings::Settings, step::StepRecord};
use lavida_train::{
    reduce::StepShare,
    step::LossTerms,
    trainer::{Trainer, UpdateReport},
};

/// A clip and its place in the order of samples.
#[derive(Clone, Debug)]
pub struct PlacedClip {
    /// Position in the run's order of samples.
    pub position: u64,
    /// Pass over its dataset.
    pub epoch: u64,
    /// The clip.
    pub clip: Arc<Clip>,
}

/// Gives the clip at a position.
pub trait ClipSource: Send + Sync + 'static {
    /// Reads one clip; several reads are under way at once.
    fn read(&self, position: u64) -> BoxFuture<'_, Result<PlacedClip>>;
}

/// Turns clips into samples and samples into batches. Pure, so the order of calls does not matter.
pub trait SampleBuilder: Send + Sync + 'static {
    /// One sample on the host.
    type Sample: Send + 'static;
    /// Draws what is shown and asked of a clip; decodes and resizes.
    fn draw(&self, clip: &PlacedClip) -> Result<Self::Sample>;
    /// Puts samples side by side.
    fn collate(&self, samples: Vec<Self::Sample>) -> Result<HostBatch>;
}

/// Holds model and optimizer; lives on the device's thread, so it needs not be `Send`.
pub trait Learner {
    /// Forward and backward of microbatches, side by side where that is faster; what comes out does not depend on it.
    /// Gradients add up in their order until [`Learner::update`].
    fn microbatches(&mut self, batches: &[HostBatch]) -> Result<Vec<LossTerms>>;
    /// One optimizer update with the mean over all workers of the gradients since the last; `share` is what this worker
    /// has to say of the step.
    fn update(&mut self, share: &StepShare) -> Result<UpdateReport>;
    /// Everything a checkpoint holds, as of the last update; `position` is the next sample's.
    fn snapshot(&mut self, position: u64) -> Result<Snapshot>;
    /// What other workers' snapshots need of one that takes none itself; called where a snapshot is due.
    fn attend_snapshot(&mut self) -> Result<()>;
    /// What a snapshot would hold, once no other worker is there; see [`Trainer::keep`].
    fn keep(&mut self) -> Option<Snapshot> {
        None
    }
}

/// Makes the learner on the thread where it stays.
pub type MakeLearner = Box<dyn FnOnce() -> Result<Box<dyn Learner>> + Send>;

impl Learner for Trainer {
    fn microbatches(&mut self, batches: &[HostBatch]) -> Result<Vec<LossTerms>> {
        Trainer::microbatches(self, batches)
    }

    fn update(&mut self, share: &StepShare) -> Result<UpdateReport> {
        Trainer::update(self, share)
    }

    fn snapshot(&mut self, position: u64) -> Result<Snapshot> {
        Trainer::snapshot(self, position)
    }

    fn attend_snapshot(&mut self) -> Result<()> {
        Trainer::attend_snapshot(self)
    }

    fn keep(&mut self) -> Option<Snapshot> {
        Trainer::keep(self)
    }
}
