//! Sums of gradients by an engine.

use std::{ops::Range, sync::Arc};

use lavida_collective::{Collective, CollectiveError};
use lavida_dataflow::parts::GradientReducer;
use lavida_store::{Error, Result};

/// An engine as the trainer knows it. When it goes, the engine is aborted: the peers do not wait for a worker that ended.
pub struct EngineReducer(pub Arc<dyn Collective>);

impl GradientReducer for EngineReducer {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
        self.map_error(self.0.all_reduce(values))
    }

    fn own_range(&self, n_values: usize, rank: usize) -> Range<usize> {
        lavida_collective::own_range(n_values, rank, self.size())
    }

    fn reduce_scatter(&self, values: &[f32], own: &mut [f32]) -> Result<()> {
        self.map_error(self.0.reduce_scatter(values, own))
    }

    fn all_gather(&self, own: &[f32], values: &mut [f32]) -> Result<()> {
        self.map_error(self.0.all_gather(own, values))
    }

    fn abort(&self) {
        self.0.abort();
    }
}

impl EngineReducer {
    /// The engine's errors in the trainer's terms.
    fn map_error(&self, result: lavida_collective::Result<()>) -> Result<()> {
        result.map_err(|error| match error {
            CollectiveError::Mismatch { .. } => Error::Internal(error.to_string()),
            _ => Error::Unavailable {
                what: format!("rank {} of {}", self.rank(), self.size()),
                reason: error.to_string(),
            },
        })
    }
}

impl Drop for EngineReducer {
    fn drop(&mut self) {
        self.0.abort();
    }
}
