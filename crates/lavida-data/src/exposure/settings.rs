//! How exposure is drawn: p, max(K_E), and what is no distractor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How exposure is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ExposureSettings {
    /// max(K_E), most categories a prompt names; `None` takes each dataset's own (30, 20 for Mapillary, 6 for Cityscapes).
    pub max_categories: Option<usize>,
    /// p of Eq. 2: share of clips shown as anomalous, in [0, 1].
    pub anomaly_ratio: f64,
    /// Which texts of other samples may not be a distractor.
    pub exclusion: Exclusion,
}

impl Default for ExposureSettings {
    fn default() -> Self {
        Self {
            max_categories: None,
            anomaly_ratio: 0.5,
            exclusion: Exclusion::Equal,
        }
    }
}

/// When a text of another sample counts as naming something of this clip, and is no distractor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// When it equals a text of the clip (the reference).
    #[default]
    Equal,
    /// Also when all its words stand in one text of the clip: no `circle` beside a `red circle`.
    // Words like articles aside, and of the clip's whole video. Costs a pass over the dataset's texts per draw.
    Words,
}
