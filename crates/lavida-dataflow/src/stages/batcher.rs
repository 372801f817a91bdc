//! Third stage: puts samples back into the run's order and joins them into microbatches.
//!
//! Reads and draws finish in any order; a batch is always the next `microbatch` positions of this
//! worker, so the stream of batches is the same however the work was scheduled.

use std::{collections::BTreeMap, sync::Arc};

use lavida_data::{Result, batch::HostBatch};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{guarded, sampler, trainer};
use crate::{parts::SampleBuilder, worker::Slice};

/// A batch and its place in the order of samples. Batches are joined on a pool and may overtake one another.
pub struct PlacedBatch {
    /// Position of the batch's first sample.
    pub first_position: u64,
    /// The microbatch.
    pub batch: HostBatch,
    /// Pass over its dataset of the batch's last sample.
    pub epoch: u64,
    /// Position of this worker's sample after the batch's last.
    pub next_position: u64,
}

/// What the batcher understands.
pub enum Msg<D: SampleBuilder> {
    /// Room downstream for this many microbatches.
    Demand(usize),
    /// Position, epoch and sample.
    Sample(u64, u64, Result<D::Sample>),
    /// Who draws samples; the first message.
    Upstream(ActorRef<sampler::Msg<D>>),
}

/// Joins samples for a trainer.
pub struct BatcherStage<D: SampleBuilder> {
    /// How.
    pub sample_builder: Arc<D>,
    /// Samples of a batch.
    pub microbatch: usize,
    /// Which positions are this worker's.
    pub slice: Slice,
    /// Who gets the batches.
    pub trainer: ActorRef<trainer::Msg>,
}

/// What changes.
pub struct State<D: SampleBuilder> {
    upstream: Option<ActorRef<sampler::Msg<D>>>,
    next_position: u64,
    waiting: BTreeMap<u64, (u64, D::Sample)>,
}

impl<D: SampleBuilder> Actor for BatcherStage<D> {
    type Msg = Msg<D>;
    type State = State<D>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg<D>>, (): ()) -> Result<State<D>, ActorProcessingErr> {
        Ok(State {
            upstream: None,
            next_position: self.slice.first(),
            waiting: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg<D>>,
        message: Msg<D>,
        state: &mut State<D>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Upstream(sampler) => state.upstream = Some(sampler),
            Msg::Demand(granted) => {
                let sampler = state.upstream.as_ref().ok_or("demand before upstream")?;
                sampler.cast(sampler::Msg::Demand(granted * self.microbatch))?;
            }
            Msg::Sample(position, epoch, sample) => {
                state.waiting.insert(position, (epoch, sample?));
                while let Some(samples) = state.take_batch(self.microbatch) {
                    let first_position = state.next_position;
                    let end = first_position + self.microbatch as u64;
                    state.next_position = self.slice.after(end);
                    self.join(samples, first_position, state.next_position);
                }
            }
        }
        Ok(())
    }
}

impl<D: SampleBuilder> BatcherStage<D> {
    fn join(&self, samples: Vec<(u64, D::Sample)>, first_position: u64, next_position: u64) {
        let (sample_builder, trainer) = (self.sample_builder.clone(), self.trainer.clone());
        tokio::task::spawn_blocking(move || {
            let epoch = samples.last().map_or(0, |(epoch, _)| *epoch);
            let samples = samples.into_iter().map(|(_, sample)| sample).collect();
            let batch = guarded(|| sample_builder.collate(samples)).map(|batch| PlacedBatch {
                first_position,
                batch,
                epoch,
                next_position,
            });
            let _ = trainer.cast(trainer::Msg::Batch(batch.map(Box::new)));
        });
    }
}

impl<D: SampleBuilder> State<D> {
    /// The next `n` samples, when all are there.
    fn take_batch(&mut self, n: usize) -> Option<Vec<(u64, D::Sample)>> {
        let end = self.next_position + n as u64;
        if self.waiting.range(self.next_position..end).count() < n {
            return None;
        }
        let rest = self.waiting.split_off(&end);
        let batch = std::mem::replace(&mut self.waiting, rest);
        Some(batch.into_values().collect())
    }
}
