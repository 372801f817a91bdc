//! `[sampler]`: what is shown of a clip and what is asked about it.

use lavida_data::{
    Error, Result,
    exposure::{Exclusion, MaxCategories},
    order::DEFAULT_SHUFFLE_WINDOW,
};
use lavida_model::config::VisionConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[sampler]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerSettings {
    /// max(K_E), categories a prompt names at most: a true one and a distractor at least. By default each dataset's own
    /// (30, Mapillary 20, Cityscapes 6). What a mix file says of a dataset goes before.
    #[schemars(extend("unit" = "categories"))]
    pub max_categories: Option<MaxCategories>,
    /// p of Eq. 2, share of clips shown as anomalous.
    #[schemars(range(min = 0.0, max = 1.0), extend("unit" = "share"))]
    pub anomaly_ratio: f64,
    /// Which texts of other samples may not be a distractor, where a mix file does not say.
    pub exclusion: Exclusion,
    /// Frames drawn from a clip.
    #[schemars(range(min = 1, max = 4_096), extend("unit" = "frames"))]
    pub n_frames: usize,
    /// Bounds of a video frame's area in the MLLM's view: smallest, largest.
    #[schemars(inner(range(min = 1, max = 67_108_864)), extend("unit" = "px"))]
    pub video_pixels: [usize; 2],
    /// Bounds of an image's area in the MLLM's view: smallest, largest.
    #[schemars(inner(range(min = 1, max = 67_108_864)), extend("unit" = "px"))]
    pub image_pixels: [usize; 2],
    /// Bounds of a video frame's area in the MLLM's view at evaluation: smallest, largest.
    #[schemars(inner(range(min = 1, max = 67_108_864)), extend("unit" = "px"))]
    pub evaluation_pixels: [usize; 2],
    /// Names asked for at most in one clip of the grounding stage.
    #[schemars(range(min = 1, max = 4_096), extend("unit" = "names"))]
    pub max_names: usize,
    /// Samples within which the order is shuffled once row groups are; datasets have their share of it. Larger mixes
    /// better and holds more: half of it in memory. A dataset that fits into its share is permuted whole.
    #[schemars(range(min = 1, max = 1_099_511_627_776i64), extend("unit" = "samples"))]
    pub shuffle_window: usize,
}

impl Default for SamplerSettings {
    fn default() -> Self {
        Self {
            max_categories: None,
            anomaly_ratio: 0.5,
            exclusion: Exclusion::Equal,
            n_frames: 8,
            video_pixels: [200_704, 401_408],
            image_pixels: [25_088, 802_816],
            evaluation_pixels: [1_003_520, 1_204_224],
            max_names: 24,
            shuffle_window: DEFAULT_SHUFFLE_WINDOW,
        }
    }
}

impl SamplerSettings {
    /// Checks that areas are ranges, and that a visual token of the tower fits into the largest.
    pub(super) fn check(&self, vision: &VisionConfig) -> Result<()> {
        let token = vision.token_side().pow(2);
        for (name, [low, high]) in [
            ("video", self.video_pixels),
            ("image", self.image_pixels),
            ("evaluation", self.evaluation_pixels),
        ] {
            let key = format!("sampler.{name}_pixels");
            let found = format!("[{low}, {high}]");
            if low > high {
                return Err(Error::invalid(
                    key,
                    "the smallest area, then the largest",
                    found,
                ));
            }
            if high < token {
                let expected = format!(
                    "a largest area of at least {token} px, a visual token: model.vision.patch_size × \
                     model.vision.spatial_merge_size, squared"
                );
                return Err(Error::invalid(key, expected, found));
            }
        }
        Ok(())
    }
}
