//! Sums of gradients by an engine.

use std::sync::Arc;

use lavida_dataflow::parts::GradientReducer;
use lavida_store::{Error, Result};

use crate::collective::{Collective, CollectiveError};

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
        self.0.all_reduce(values).map_err(|error| match error {
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
