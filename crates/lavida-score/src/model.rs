//! A run, a checkpoint or an export, opened as a model that scores videos window by window.

use std::sync::Arc;

use burn::tensor::Device;
use lavida_checkpoint::{
    Checkpoint,
    contents::{CARRIED, CLIP_TOKENIZER, TOKENIZER, WEIGHTS},
};
use lavida_data::{
    Error, Result,
    batch::{Batcher, HostSample},
    exposure::Exposure,
    frame::RgbFrame,
    tokenizer::Tokenizers,
};
use lavida_model::weights::{TensorFiles, Tensors, read_carried};
use lavida_train::{assembly::Phase, settings::Settings};

use crate::{
    exported::{Exported, weight_error},
    frames::FrameSource,
    scored::ScoredFrame,
    scorer::{ScoredBatch, Scorer, uninitialised},
    windows::Windowing,
};

/// What a model is opened from.
pub enum ModelSource {
    /// A checkpoint, or the newest of a run.
    Checkpoint(Checkpoint),
    /// What `lavida export` wrote.
    Export(Exported),
}

/// A model, ready to score.
pub struct ScoringModel {
    /// Its settings.
    pub settings: Settings,
    /// The model itself.
    pub scorer: Scorer,
    /// Both vocabularies.
    pub tokenizers: Arc<Tokenizers>,
    /// Updates it was made by.
    pub step: u64,
    batcher: Batcher,
    origin: Origin,
}

/// Where what no score depends on is still to be had.
enum Origin {
    Checkpoint(Checkpoint),
    Export(TensorFiles),
}

impl ModelSource {
    /// The settings that it carries, with overrides; `uri` names it in messages.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when they cannot be read, [`Error::Invalid`] for an override that they do not take.
    pub async fn settings(&self, uri: &str, overrides: &[String]) -> Result<Settings> {
        let toml = match self {
            Self::Checkpoint(checkpoint) => checkpoint.settings_toml().await?,
            Self::Export(exported) => exported.settings_toml()?,
        };
        Settings::parse(&format!("settings of {uri}"), &toml, overrides)
    }

    /// Its model on a device, by these of its settings.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a file is damaged, or the weights do not fit the settings.
    pub async fn load(self, settings: Settings, device: &Device) -> Result<ScoringModel> {
        match self {
            Self::Checkpoint(checkpoint) => {
                let tokenizers = Tokenizers::load(
                    &checkpoint.part(TOKENIZER).await?,
                    &checkpoint.part(CLIP_TOKENIZER).await?,
                )?;
                let weights = checkpoint.part(WEIGHTS).await?;
                let scorer = Scorer::new(&settings, &tokenizers, &weights, device)?;
                let step = checkpoint.manifest.state.step;
                let origin = Origin::Checkpoint(checkpoint);
                ScoringModel::new(settings, scorer, tokenizers, step, origin)
            }
            Self::Export(exported) => {
                let tokenizers = exported.tokenizers()?;
                let files = exported.weights(&uninitialised(&settings, &tokenizers, device))?;
                let tensors = files.read_weights().map_err(weight_error)?;
                let scorer = Scorer::with_tensors(&settings, &tokenizers, tensors, device)?;
                let (step, origin) = (exported.step()?, Origin::Export(files));
                ScoringModel::new(settings, scorer, tokenizers, step, origin)
            }
        }
    }
}

/// A window of a video as the model reads it; `name` stands for the video in messages.
///
/// # Errors
///
/// [`Error::Invalid`] for a category that no prompt can name, and for frames of several sizes.
pub fn window_sample(
    batcher: &Batcher,
    name: &str,
    frames: &[RgbFrame],
    categories: &[String],
) -> Result<HostSample> {
    let exposure = Exposure::unlabelled(frames.len(), categories);
    batcher.unlabelled(name, true, frames, &exposure)
}

impl ScoringModel {
    /// What turns windows into samples; cheap to clone.
    pub fn batcher(&self) -> &Batcher {
        &self.batcher
    }

    /// Scores samples in one pass. Those beside it move a sample's scores in their last bits, for sums are taken in an order
    /// that depends on the sizes of products; a sample alone in its pass always scores the same.
    ///
    /// # Errors
    ///
    /// As [`Batcher::collate`] and [`Scorer::score`].
    pub fn pass(&self, samples: Vec<HostSample>) -> Result<ScoredBatch> {
        self.scorer.score(&self.batcher.collate(samples)?)
    }

    fn new(
        settings: Settings,
        scorer: Scorer,
        tokenizers: Tokenizers,
        step: u64,
        origin: Origin,
    ) -> Result<Self> {
        let tokenizers = Arc::new(tokenizers);
        let batcher = settings.batcher(tokenizers.clone(), Phase::Evaluation)?;
        Ok(Self {
            settings,
            scorer,
            tokenizers,
            step,
            batcher,
            origin,
        })
    }

    /// The tensors that go with the weights and that no score depends on; none where the weights were never imported.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when they are damaged.
    pub async fn carried(&self) -> Result<Tensors> {
        match &self.origin {
            Origin::Export(files) => files.read_carried().map_err(weight_error),
            Origin::Checkpoint(checkpoint) => match checkpoint.part_if_any(CARRIED).await? {
                Some(bytes) => read_carried(&bytes)
                    .map_err(|error| Error::corrupt(CARRIED, "what a LAVIDA carries", error)),
                None => Ok(Tensors::new()),
            },
        }
    }

    /// Scores a video for `categories`; `sink` is told of every frame once, in no promised order. Each window is a pass of its
    /// own, so that what it scores depends on nothing else ([`Self::pass`]). Runs on a runtime of several threads: while the
    /// model computes, others serve its tasks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a category that no prompt can name; [`Error::Corrupt`] for frames that cannot be read.
    pub async fn score(
        &self,
        video: &mut FrameSource,
        windowing: Windowing,
        categories: &[String],
        mut sink: impl FnMut(ScoredFrame<'_>),
    ) -> Result<()> {
        self.tokenizers.check_categories(categories)?;
        let mut n_truncated = 0;
        for window in windowing.windows(video.n_frames()) {
            let frames = video.frames(&window).await?;
            let sample = window_sample(&self.batcher, video.name(), &frames, categories)?;
            n_truncated = n_truncated.max(sample.n_truncated_categories);
            let scored = tokio::task::block_in_place(|| self.pass(vec![sample]))?;
            let frames = scored.object_logits.iter().zip(&scored.mask_logits);
            for ((object_logit, mask_logits), range) in frames.zip(window.scored) {
                for frame in range {
                    sink(ScoredFrame {
                        frame,
                        object_logit: *object_logit,
                        mask_logits,
                        side: scored.side,
                    });
                }
            }
        }
        if n_truncated > 0 {
            tracing::warn!(
                "{n_truncated} of {} categories are longer than the {} positions CLIP reads; their ends were left out",
                categories.len(),
                self.settings.model.clip_text.max_position_embeddings
            );
        }
        video.finish()
    }
}
