//! A run, a checkpoint or an export, opened as a model that scores videos window by window.

use std::sync::Arc;

use burn::tensor::Device;
use lavida_checkpoint::{
    Checkpoint,
    contents::{CARRIED, CLIP_TOKENIZER, TOKENIZER, WEIGHTS},
};
use lavida_data::{Error, Result, batch::Batcher, exposure::Exposure, tokenizer::Tokenizers};
use lavida_model::weights::{TensorFiles, Tensors, read_carried};
use lavida_train::{assembly::Phase, settings::Settings};

use crate::{
    exported::{Exported, weight_error},
    frames::FrameSource,
    scored::ScoredFrame,
    scorer::{Scorer, uninitialised},
    windows::{EvalWindow, Windowing},
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

impl ScoringModel {
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

    /// Scores a video for `categories`; `sink` is told of every frame once, in no promised order. Runs on a runtime of several
    /// threads: while the model computes, others serve its tasks.
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
        let per_pass = self.settings.train.microbatch;
        let mut n_truncated = 0;
        for group in windows.chunks(per_pass) {
            let mut samples = Vec::with_capacity(group.len());
            for window in group {
                let frames = video.frames(window).await?;
                let exposure = Exposure::unlabelled(frames.len(), categories);
                samples.push(
                    self.batcher
                        .unlabelled(video.name(), true, &frames, &exposure)?,
                );
            }
            let batch = self.batcher.collate(samples)?;
            n_truncated = n_truncated.max(batch.n_truncated_categories / group.len());
            let scored = tokio::task::block_in_place(|| self.scorer.score(&batch))?;
            let frames = scored.object_logits.iter().zip(&scored.mask_logits);
            let looked_at = group
                .iter()
                .flat_map(|window| window.frames.iter().zip(&window.scored));
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
