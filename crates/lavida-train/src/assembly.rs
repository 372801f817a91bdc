//! From settings to the parts of the data side, vocabularies, views, sampler, and to how the model is run.

use std::{borrow::Cow, path::Path, sync::Arc};

use lavida_data::{
    Error, Result,
    batch::Batcher,
    catalog::Catalog,
    exposure::{self, AnomalyExposureSampler},
    preprocess::Preprocess,
    resize::PixelBounds,
    tokenizer::{MAX_TOKENIZER_BYTES, Tokenizers},
};
use lavida_model::{
    compression::Compression,
    lavida::{ForwardOptions, MaskOutput},
};

use crate::settings::Settings;

/// Names the vocabularies that are part of the program.
const EMBEDDED_TINY: &str = "embedded:tiny";

/// What clips are read and the model is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To learn from every patch and mask.
    Training,
    /// To score: finer frames, one mask each.
    Evaluation,
}

impl Settings {
    /// The vocabularies named in `[model]`; files are looked up from `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the file when it cannot be read, and when a vocabulary has more entries than the model
    /// has embeddings.
    pub fn tokenizers(&self, folder: &Path) -> Result<Tokenizers> {
        let (prompt, clip) = (&self.model.tokenizer, &self.model.clip_tokenizer);
        let prompt = read(folder, "model.tokenizer", prompt, Tokenizers::TINY_PROMPT)?;
        let clip = read(
            folder,
            "model.clip_tokenizer",
            clip,
            Tokenizers::TINY_CATEGORIES,
        )?;
        let tokenizers = Tokenizers::load(&prompt, &clip)?;
        self.check_vocabularies(&tokenizers)?;
        Ok(tokenizers)
    }

    /// Checks that every token has a row in the embeddings.
    pub fn check_vocabularies(&self, tokenizers: &Tokenizers) -> Result<()> {
        let sizes = [
            (
                "model.language.vocab_size",
                self.model.language.vocab_size,
                tokenizers.prompt_vocab_size(),
            ),
            (
                "model.clip_text.vocab_size",
                self.model.clip_text.vocab_size,
                tokenizers.category_vocab_size(),
            ),
        ];
        for (key, rows, entries) in sizes {
            if entries > rows {
                let expected = format!("at least {entries}, the entries of the vocabulary");
                return Err(Error::invalid(key, expected, rows));
            }
        }
        Ok(())
    }

    /// Sizes of the two views of a frame.
    pub fn preprocess(&self, phase: Phase) -> Preprocess {
        let bounds = |[min, max]: [usize; 2]| PixelBounds { min, max };
        let vision = &self.model.vision;
        Preprocess {
            patch_size: vision.patch_size,
            temporal_patch_size: vision.temporal_patch_size,
            spatial_merge_size: vision.spatial_merge_size,
            image_pixels: bounds(self.sampler.image_pixels),
            video_pixels: bounds(match phase {
                Phase::Training => self.sampler.video_pixels,
                Phase::Evaluation => self.sampler.evaluation_pixels,
            }),
            sam2_size: self.model.sam2.image_size,
            projector_grid: self.model.sam2.top_grid(),
        }
    }

    /// How the model is run. Training looks at every patch and gives out every mask.
    pub fn forward_options(&self, phase: Phase) -> ForwardOptions {
        match phase {
            Phase::Training => ForwardOptions {
                compression: Compression {
                    drop_static_patches: false,
                    ..self.compression
                },
                masks: MaskOutput::Candidates {
                    gated: self.train.gate_masks_in_training,
                },
            },
            Phase::Evaluation => ForwardOptions {
                compression: self.compression,
                masks: MaskOutput::Best,
            },
        }
    }

    /// What turns clips into samples.
    pub fn batcher(&self, tokenizers: Arc<Tokenizers>, phase: Phase) -> Result<Batcher> {
        let positions = self.model.clip_text.max_position_embeddings;
        Batcher::new(self.preprocess(phase), tokenizers, positions)
    }

    /// The exposure sampler for the clips of `catalog`.
    pub fn exposure_sampler(&self, catalog: &Catalog) -> Result<AnomalyExposureSampler> {
        let settings = exposure::ExposureSettings {
            max_categories: self.sampler.max_categories,
            anomaly_ratio: self.sampler.anomaly_ratio,
            exclusion: self.sampler.exclusion,
        };
        AnomalyExposureSampler::new(settings, catalog)
    }
}

/// The vocabulary that `key` names, or the embedded one.
fn read<'a>(folder: &Path, key: &str, name: &str, tiny: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    if name == EMBEDDED_TINY {
        return Ok(tiny.into());
    }
    let path = folder.join(name);
    let unreadable = |error| {
        let expected = format!("a readable tokenizer.json, as {key} says");
        Error::invalid(path.display(), expected, error)
    };
    lavida_files::read(&path, MAX_TOKENIZER_BYTES)
        .map(Cow::from)
        .map_err(unreadable)
}
