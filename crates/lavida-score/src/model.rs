//! A run, a checkpoint or an export, opened as a model that scores videos window by window.

use std::sync::Arc;

use burn::tensor::Device;
use lavida_checkpoint::{
    Checkpoint,
    contents::{CARRIED, CLIP_TOKENIZER, TOKENIZER},
};
use lavida_data::{
    Error, Result,
    batch::{Batcher, HostSample},
    exposure::Exposure,
    frame::RgbFrame,
    tokenizer::Tokenizers,
};
use lavida_model::{
    policy::TrainPolicies,
    precision::Precision,
    weights::{Merging, TensorData, TensorFiles, Tensors, read_carried},
};
use lavida_train::{assembly::Phase, settings::Settings, trainer::model_error};

use crate::{
    exported::{Exported, weight_error},
    frames::FrameSource,
    scored::ScoredFrame,
    scorer::{ScoredBatch, Scorer, unfit, uninitialised},
    windows::{EvalWindow, Windowing},
};

/// What a model is opened from.
pub enum ModelSource {
    /// A checkpoint, or the newest of a run.
    Checkpoint(Checkpoint),
    /// What `lavida export` wrote.
    Export(Exported),
}

/// A model that is known and not in memory: its weights come one by one.
pub struct OpenedModel {
    /// What it is.
    pub about: ModelInfo,
    origin: Origin,
}

/// What a model is beside its weights.
#[derive(Clone)]
pub struct ModelInfo {
    /// Its settings.
    pub settings: Settings,
    /// Both vocabularies.
    pub tokenizers: Arc<Tokenizers>,
    /// Updates it was made by.
    pub step: u64,
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
}

/// Where its tensors are.
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
        Settings::of_checkpoint(uri, &toml, overrides)
    }

    /// Its model by these of its settings; no weight is read yet.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a vocabulary is damaged or missing.
    pub async fn open(self, settings: Settings) -> Result<OpenedModel> {
        let (tokenizers, step, origin) = match self {
            Self::Checkpoint(checkpoint) => {
                let tokenizers = Tokenizers::load(
                    &checkpoint.part(TOKENIZER).await?,
                    &checkpoint.part(CLIP_TOKENIZER).await?,
                )?;
                let step = checkpoint.manifest.state.step;
                (tokenizers, step, Origin::Checkpoint(checkpoint))
            }
            Self::Export(exported) => {
                let tokenizers = exported.tokenizers()?;
                let model = uninitialised(&settings, &tokenizers, &Device::flex());
                let files = exported.weights(&model)?;
                (tokenizers, exported.step()?, Origin::Export(files))
            }
        };
        let tokenizers = Arc::new(tokenizers);
        let about = ModelInfo {
            settings,
            tokenizers,
            step,
        };
        Ok(OpenedModel { about, origin })
    }
}

impl OpenedModel {
    /// Its weights, ready for [`Self::each_weight`]: what the model of its settings has, adapters included.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a policy of a part that does not exist.
    pub fn merging<'a>(&self, policies: &'a TrainPolicies) -> Result<Merging<'a>> {
        let about = &self.about;
        let model = uninitialised(&about.settings, &about.tokenizers, &Device::flex());
        let model = model.with_uninitialised_policies(policies);
        Ok(Merging::new(&model.map_err(model_error)?, policies))
    }

    /// Gives every weight once, adapters merged, one after the other: in the number format it is stored in, or in f32 where an
    /// adapter was merged. What was given counts only when this returns without an error.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a file is damaged, or the weights do not fit the settings; the first error of `take`.
    pub async fn each_weight(
        &self,
        mut merging: Merging<'_>,
        mut take: impl FnMut(&str, TensorData) -> Result<()>,
    ) -> Result<()> {
        let mut merge = |name: &str, data| match merging.take(name, data) {
            Some(data) => take(name, data),
            None => Ok(()),
        };
        match &self.origin {
            Origin::Checkpoint(checkpoint) => {
                let merge = |name: String, data| merge(&name, data);
                checkpoint.each_weight(merge).await?;
            }
            Origin::Export(files) => {
                for read in files.each_weight() {
                    let (name, data) = read.map_err(weight_error)?;
                    merge(&name, data)?;
                }
            }
        }
        merging.finish().map_err(unfit)
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

    /// The model on a device, its weights in `precision`.
    ///
    /// # Errors
    ///
    /// As [`Self::each_weight`].
    pub async fn scorer(&self, precision: Precision, device: &Device) -> Result<Scorer> {
        let policies = self.about.settings.policies();
        let mut weights = Tensors::new();
        let take = |name: &str, data| {
            weights.insert(name.to_owned(), precision.narrowed(name, data));
            Ok(())
        };
        self.each_weight(self.merging(&policies)?, take).await?;
        let ModelInfo {
            settings,
            tokenizers,
            ..
        } = &self.about;
        Scorer::new(settings, tokenizers, weights, precision, device)
    }

    /// The model on a device, ready to score in the number format that its settings train in.
    ///
    /// # Errors
    ///
    /// As [`Self::each_weight`].
    pub async fn load(self, device: &Device) -> Result<ScoringModel> {
        let precision = self.about.settings.train.precision;
        let scorer = self.scorer(precision, device).await?;
        let ModelInfo {
            settings,
            tokenizers,
            step,
        } = self.about;
        let batcher = settings.batcher(tokenizers.clone(), Phase::Evaluation)?;
        Ok(ScoringModel {
            settings,
            scorer,
            tokenizers,
            step,
            batcher,
        })
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

    /// What it is beside its weights.
    pub fn about(&self) -> ModelInfo {
        ModelInfo {
            settings: self.settings.clone(),
            tokenizers: self.tokenizers.clone(),
            step: self.step,
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
        sink: impl FnMut(ScoredFrame<'_>),
    ) -> Result<()> {
        let windows = windowing.windows(video.n_frames());
        self.score_windows(video, &windows, categories, sink)
            .await?;
        video.finish()
    }

    /// Scores these windows of a video, in their order, as [`Self::score`] does. What is left of the video is not read.
    ///
    /// # Errors
    ///
    /// As [`Self::score`].
    pub async fn score_windows(
        &self,
        video: &mut FrameSource,
        windows: &[EvalWindow],
        categories: &[String],
        mut sink: impl FnMut(ScoredFrame<'_>),
    ) -> Result<()> {
        self.tokenizers.check_categories(categories)?;
        video.plan(windows);
        let mut n_truncated = 0;
        for window in windows {
            let frames = video.frames(window).await?;
            let sample = window_sample(&self.batcher, video.name(), &frames, categories)?;
            tokio::task::yield_now().await; // whoever gives this up need not wait for the next pass
            n_truncated = n_truncated.max(sample.n_truncated_categories);
            let scored = tokio::task::block_in_place(|| self.pass(vec![sample]))?;
            let frames = scored.object_logits.iter().zip(&scored.mask_logits);
            let looked_at = window.frames.iter().zip(&window.scored);
            for ((object_logit, mask_logits), (looked_at, range)) in frames.zip(looked_at) {
                for frame in range.clone() {
                    sink(ScoredFrame {
                        frame,
                        looked_at: *looked_at,
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
        Ok(())
    }
}
