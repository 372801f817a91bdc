//! `[model]`: sizes of the parts, which are the model's own configurations, and the vocabularies.

use lavida_data::{Error, Result};
use lavida_model::config::{
    ClipTextConfig, LanguageConfig, LavidaConfig, ProjectorConfig, Sam2Config, VisionConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Qwen2-VL's `tokenizer.json`: a path beside the settings file, or `embedded:tiny`.
    pub tokenizer: String,
    /// CLIP's `tokenizer.json`: a path beside the settings file, or `embedded:tiny`.
    pub clip_tokenizer: String,
    /// Qwen2-VL's vision tower.
    pub vision: VisionConfig,
    /// Qwen2-VL's language model.
    pub language: LanguageConfig,
    /// CLIP's text tower.
    pub clip_text: ClipTextConfig,
    /// SAM2.
    pub sam2: Sam2Config,
    /// The multi-scale semantic projector.
    pub projector: ProjectorConfig,
    /// SAM2's no-memory embedding on images too; the reference adds it to video only.
    #[serde(default)]
    pub image_no_mem_embed: bool,
}

impl ModelSettings {
    /// Sizes alone, as the model wants them.
    pub fn config(&self) -> LavidaConfig {
        LavidaConfig {
            vision: self.vision.clone(),
            language: self.language.clone(),
            clip_text: self.clip_text.clone(),
            sam2: self.sam2.clone(),
            projector: self.projector.clone(),
            image_no_mem_embed: self.image_no_mem_embed,
        }
    }

    /// Checks how sizes depend on each other.
    pub(super) fn check(&self) -> Result<()> {
        use lavida_model::error::Error::{Invalid, NotFinite, Weights};
        self.config().check().map_err(|error| match error {
            Invalid {
                what,
                expected,
                found,
            } => Error::invalid(what, expected, found),
            error @ (Weights(_) | NotFinite { .. }) => Error::Internal(format!(
                "sizes alone hold no weights and no values: {error}"
            )),
        })
    }
}
