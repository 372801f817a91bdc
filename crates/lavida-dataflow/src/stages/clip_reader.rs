//! First stage: reads clips from the store in the run's order, as many at once as were granted.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{panicked, sampler};
use crate::{
    parts::{ClipSource, SampleBuilder},
    worker::SlicePositions,
};

/// What the reader understands.
pub enum Msg {
    /// Room downstream for this many clips.
    Demand(usize),
}

/// Reads clips for a sampler.
pub struct ClipReaderStage<D: SampleBuilder> {
    /// Where clips come from.
    pub source: Arc<dyn ClipSource>,
    /// Who gets them.
    pub sampler: ActorRef<sampler::Msg<D>>,
}

impl<D: SampleBuilder> Actor for ClipReaderStage<D> {
    type Msg = Msg;
    type State = SlicePositions;
    type Arguments = SlicePositions;

    async fn pre_start(
        &self,
        _: ActorRef<Msg>,
        positions: SlicePositions,
    ) -> Result<SlicePositions, ActorProcessingErr> {
        Ok(positions)
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Demand(granted): Msg,
        positions: &mut SlicePositions,
    ) -> Result<(), ActorProcessingErr> {
        for position in positions.take(granted) {
            let (source, sampler) = (self.source.clone(), self.sampler.clone());
            tokio::spawn(async move {
                let read = AssertUnwindSafe(source.read(position)).catch_unwind();
                let clip = read.await.unwrap_or_else(|panic| Err(panicked(&*panic)));
                // A pipe that is stopping takes no more clips: not an error.
                let _ = sampler.cast(sampler::Msg::Clip(clip));
            });
        }
        Ok(())
    }
}
