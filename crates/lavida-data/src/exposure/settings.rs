//! How exposure is drawn: p, max(K_E), and what is no distractor.

pub use crate::shards::mix::{Exclusion, MaxCategories};

/// How exposure is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ExposureSettings {
    /// max(K_E), most categories a prompt names; `None` takes each dataset's own (30, 20 for Mapillary, 6 for Cityscapes).
    pub max_categories: Option<MaxCategories>,
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
