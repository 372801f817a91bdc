//! Second stage: draws an exposure for each clip and prepares its pictures, on the blocking pool.

use std::sync::Arc;

use lavida_data::Result;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{batcher, clip_reader, guarded};
use crate::parts::{PlacedClip, SampleBuilder};

/// What the sampler understands.
pub enum Msg<D: SampleBuilder> {
    /// Room downstream for this many samples.
    Demand(usize),
    /// A clip that was asked for.
    Clip(Result<PlacedClip>),
    /// Who reads clips; the first message.
    Upstream(ActorRef<clip_reader::Msg>),
    #[doc(hidden)]
    Never(std::convert::Infallible, std::marker::PhantomData<D>),
}

/// Draws samples for a batcher.
pub struct SamplerStage<D: SampleBuilder> {
    /// How.
    pub sample_builder: Arc<D>,
    /// Who gets the samples.
    pub batcher: ActorRef<batcher::Msg<D>>,
}

impl<D: SampleBuilder> Actor for SamplerStage<D> {
    type Msg = Msg<D>;
    type State = Option<ActorRef<clip_reader::Msg>>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Msg<D>>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(
        &self,
        _: ActorRef<Msg<D>>,
        message: Msg<D>,
        upstream: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Upstream(reader) => *upstream = Some(reader),
            Msg::Demand(granted) => {
                let reader = upstream.as_ref().ok_or("demand before upstream")?;
                reader.cast(clip_reader::Msg::Demand(granted))?;
            }
            Msg::Clip(clip) => {
                let clip = clip?;
                let (sample_builder, batcher) = (self.sample_builder.clone(), self.batcher.clone());
                tokio::task::spawn_blocking(move || {
                    let sample = guarded(|| sample_builder.draw(&clip));
                    let _ = batcher.cast(batcher::Msg::Sample(clip.position, clip.epoch, sample));
                });
            }
        }
        Ok(())
    }
}
