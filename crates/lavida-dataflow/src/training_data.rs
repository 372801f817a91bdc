//! The data side of a run: clips of a catalog in the run's order, drawn as its stage asks.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use lavida_checkpoint::contents::Stage;
use lavida_data::{
    Result,
    batch::{Batcher, HostBatch, HostSample},
    catalog::Catalog,
    exposure::AnomalyExposureSampler,
    order::SampleOrder,
    read_ahead::ReadAhead,
};

use crate::parts::{ClipSource, PlacedClip, SampleBuilder};

/// Clips of a catalog in the order that (seed, epoch, manifests) give, fetched ahead of need.
pub struct CatalogSource(Arc<ReadAhead>);

impl CatalogSource {
    /// For a worker that reads `positions` of `order`, which rise.
    pub fn new(
        catalog: Arc<Catalog>,
        order: SampleOrder,
        positions: impl Iterator<Item = u64> + Send + 'static,
    ) -> Self {
        Self(ReadAhead::new(catalog, order, positions))
    }
}

impl ClipSource for CatalogSource {
    fn read(&self, position: u64) -> BoxFuture<'_, Result<PlacedClip>> {
        async move {
            let (place, clip) = self.0.read(position).await?;
            Ok(PlacedClip {
                position,
                epoch: place.epoch,
                clip,
            })
        }
        .boxed()
    }
}

/// Draws training samples: pseudo-anomalies, or names for the grounding stage.
pub struct TrainingSampleBuilder {
    /// Draws exposures.
    pub sampler: AnomalyExposureSampler,
    /// Prepares pictures and prompts.
    pub batcher: Batcher,
    /// What is being learned.
    pub stage: Stage,
    /// Root of every random choice.
    pub seed: u64,
    /// Frames of a sample.
    pub n_frames: usize,
    /// Names asked for at most in the grounding stage.
    pub max_names: usize,
}

impl SampleBuilder for TrainingSampleBuilder {
    type Sample = HostSample;

    fn draw(&self, placed: &PlacedClip) -> Result<HostSample> {
        let (seed, epoch) = (self.seed, placed.epoch);
        let shown = placed.clip.draw_frames(self.n_frames, seed, epoch);
        let clip = placed.clip.select_frames(&shown);
        let frames = Batcher::decode(&clip)?;
        match self.stage {
            Stage::Anomaly => {
                let exposure = self.sampler.draw(&clip, seed, epoch)?;
                self.batcher.sample(&clip, &frames, &exposure)
            }
            Stage::Grounding => {
                let names = self
                    .sampler
                    .draw_names(&clip, seed, epoch, self.max_names)?;
                self.batcher.grounding_sample(&clip, &frames, &names)
            }
        }
    }

    fn collate(&self, samples: Vec<HostSample>) -> Result<HostBatch> {
        self.batcher.collate(samples)
    }
}
